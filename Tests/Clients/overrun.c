// SPDX-License-Identifier: Apache-2.0
// A program with an error of its own: it writes a record that is longer than its memory.
#include <relay.h>
#include <stdlib.h>

int main(void) {
  relay_chan *chan = relay_open(NULL, 4096, 4, RELAY_GLOBAL, NULL, NULL);
  char *record = calloc(1, 64);
  if (!chan || !record) return 1;
  relay_write(chan, record, 65);
  free(record);
  relay_detach(chan);
  return 0;
}
