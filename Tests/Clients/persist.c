// SPDX-License-Identifier: Apache-2.0
// relay-load persist, for librelay: writes blocks of 64 bytes, one a millisecond, until a file is
// there; the first that is refused is a failure. Prints its number and how many blocks it wrote.
// usage: persist CHANNEL NUMBER FILE
#include <inttypes.h>
#include <relay.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// As relay-load's BlockHeader.
struct block {
  uint32_t magic, writer, sequence, checksum;
  uint8_t body[48];
};

static uint32_t checksum(const struct block *block) {
  uint64_t sum = (uint64_t)block->writer << 32 | block->sequence;
  for (size_t i = 0; i < sizeof block->body; i += 8) {
    uint64_t word;
    memcpy(&word, block->body + i, 8);
    sum = (sum ^ word) * 0x9e3779b97f4a7c15;
    sum ^= sum >> 29;
  }
  return (uint32_t)(sum ^ sum >> 32);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  relay_chan *chan = relay_attach(NULL, argv[1]);
  if (!chan) {
    perror(argv[1]);
    return 1;
  }
  struct block block = {.magic = 0x31444c52, .writer = (uint32_t)atoi(argv[2])};
  while (access(argv[3], F_OK) != 0) {
    for (size_t i = 0; i < sizeof block.body; i++)
      block.body[i] = (uint8_t)(block.sequence * 31 + i);
    block.checksum = checksum(&block);
    int result = relay_write(chan, &block, sizeof block);
    if (result != 0) {
      printf("writer %" PRIu32 ": block %" PRIu32 " is refused: %d\n", block.writer, block.sequence,
             result);
      return 1;
    }
    block.sequence++;
    // Its pace; nothing waits for anything here.
    usleep(1000);
  }
  printf("writer %" PRIu32 " blocks %" PRIu32 " highest %d\n", block.writer, block.sequence,
         (int)block.sequence - 1);
  relay_detach(chan);
  return 0;
}
