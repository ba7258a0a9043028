// SPDX-License-Identifier: Apache-2.0
// Small tests in C: `TEST(name) { … }`. The program runs the test that is named, or lists all.
#ifndef TEST_H
#define TEST_H

#include <errno.h>
#include <poll.h>
#include <relay.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test {
  const char *name;
  void (*run)(void);
  struct test *next;
};
extern struct test *tests;

#define TEST(name)                                              \
  static void name(void);                                       \
  __attribute__((constructor)) static void register_##name(void) { \
    static struct test test = {#name, name, NULL};              \
    test.next = tests;                                          \
    tests = &test;                                              \
  }                                                             \
  static void name(void)

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) {                                                     \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                              \
    }                                                                       \
  } while (0)

// Both sides are shown.
#define EQUAL(left, right)                                                                   \
  do {                                                                                       \
    long long left_ = (long long)(left), right_ = (long long)(right);                        \
    if (left_ != right_) {                                                                   \
      fprintf(stderr, "%s:%d: %s is %lld, not %s = %lld\n", __FILE__, __LINE__, #left, left_, \
              #right, right_);                                                               \
      exit(1);                                                                               \
    }                                                                                        \
  } while (0)

// Everything that can be read now, as text; valid until the next call.
const char *drain(relay_buf *buf);
// What relay_statistics says.
struct relay_stat account(relay_buf *buf);
// Whether poll(2) says that the descriptor is readable.
int readable(int fd);
// A global own channel.
relay_chan *open_small(size_t subbuf_size, size_t n_subbufs, unsigned flags);

#endif
