// SPDX-License-Identifier: Apache-2.0
// The main program of the tests in C, and what they share.
#include "test.h"

struct test *tests;

int main(int argc, char **argv) {
  for (struct test *test = tests; test; test = test->next) {
    if (argc < 2) {
      puts(test->name);
    } else if (!strcmp(test->name, argv[1])) {
      test->run();
      return 0;
    }
  }
  if (argc < 2) return 0;
  fprintf(stderr, "no test %s\n", argv[1]);
  return 2;
}

const char *drain(relay_buf *buf) {
  static char text[1 << 20];
  size_t count = 0;
  for (;;) {
    ssize_t n = relay_read(buf, text + count, sizeof text - 1 - count);
    CHECK(n >= 0);
    if (n == 0) break;
    count += (size_t)n;
  }
  text[count] = 0;
  return text;
}

struct relay_stat account(relay_buf *buf) {
  struct relay_stat stat;
  EQUAL(relay_statistics(buf, &stat, sizeof stat), 0);
  return stat;
}

int readable(int fd) {
  struct pollfd ask = {.fd = fd, .events = POLLIN};
  return poll(&ask, 1, 0) == 1;
}

relay_chan *open_small(size_t subbuf_size, size_t n_subbufs, unsigned flags) {
  relay_chan *chan = relay_open(NULL, subbuf_size, n_subbufs, flags | RELAY_GLOBAL, NULL, NULL);
  CHECK(chan);
  return chan;
}
