// SPDX-License-Identifier: Apache-2.0
// A writer that takes its time: reserves a record, says so, and commits it once a line comes.
#include <relay.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  static const char text[] = "early\n";
  relay_chan *chan = relay_attach(NULL, "relay");
  if (!chan) {
    perror("relay");
    return 1;
  }
  relay_reservation record;
  void *space = relay_reserve(chan, strlen(text), &record);
  if (!space) return 2;
  puts("reserved");
  fflush(stdout);
  getchar();
  memcpy(space, text, strlen(text));
  relay_commit(&record);
  relay_detach(chan);
  return 0;
}
