// SPDX-License-Identifier: Apache-2.0
// usage: fill CHANNEL COUNT    writes COUNT records of 64 bytes
#include <relay.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  relay_chan *chan = relay_attach(NULL, argv[1]);
  if (!chan) {
    perror(argv[1]);
    return 1;
  }
  char record[64];
  memset(record, 'x', sizeof record);
  record[sizeof record - 1] = '\n';
  for (long i = 0; i < atol(argv[2]); i++)
    if (relay_write(chan, record, sizeof record) != 0) return 1;
  relay_detach(chan);
  return 0;
}
