// SPDX-License-Identifier: Apache-2.0
// Writes a record for each byte that its standard input gives: that byte.
// usage: echo CHANNEL
#include <relay.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  relay_chan *chan = relay_attach(NULL, argv[1]);
  if (!chan) {
    perror(argv[1]);
    return 1;
  }
  char byte;
  while (read(0, &byte, 1) == 1)
    if (relay_write(chan, &byte, 1) != 0) return 1;
  relay_detach(chan);
  return 0;
}
