// SPDX-License-Identifier: Apache-2.0
// usage: client CHANNEL COUNT    writes the numbers below COUNT, a line each
#include <relay.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  relay_chan *chan = relay_attach(NULL, argv[1]);
  if (!chan) {
    perror(argv[1]);
    return 1;
  }
  for (int i = 0; i < atoi(argv[2]); i++) {
    int result = relay_printf(chan, "%d\n", i);
    if (result < 0) return 1;
  }
  relay_detach(chan);
  return 0;
}
