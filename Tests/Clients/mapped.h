// SPDX-License-Identifier: Apache-2.0
// What tests of mapped consumers share: the daemon's channel "relay", its first buffer.
#ifndef MAPPED_H
#define MAPPED_H

#include <unistd.h>

#include "test.h"

static inline relay_mapping *map(unsigned flags) {
  relay_mapping *map = relay_map(NULL, "relay", 0, flags);
  if (!map) perror("relay_map");
  CHECK(map);
  return map;
}

static inline relay_chan *attach(void) {
  relay_chan *chan = relay_attach(NULL, "relay");
  CHECK(chan);
  return chan;
}

// What comes next, waited for.
static inline struct relay_subbuf next(relay_mapping *map) {
  struct relay_subbuf subbuf;
  for (;;) {
    int result = relay_map_next(map, &subbuf, sizeof subbuf);
    if (result == 0) return subbuf;
    EQUAL(result, -EAGAIN);
    struct pollfd ask = {.fd = relay_map_fd(map), .events = POLLIN};
    EQUAL(poll(&ask, 1, 20000), 1);
  }
}

static inline int is(const struct relay_subbuf *subbuf, const char *text) {
  return subbuf->bytes == strlen(text) && subbuf->n_pieces == 1 &&
         !memcmp(subbuf->pieces[0].iov_base, text, strlen(text));
}

#endif
