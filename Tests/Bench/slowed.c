// SPDX-License-Identifier: Apache-2.0
// The librelay.so that $SLOWED_LIBRARY names, with each record a microsecond slower:
// relay-bench --against has to notice that. Only the functions that it calls.
#include <dlfcn.h>
#include <relay.h>
#include <stdio.h>
#include <stdlib.h>

static void *library;

__attribute__((constructor)) static void load(void) {
  const char *path = getenv("SLOWED_LIBRARY");
  library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  if (library) return;
  fprintf(stderr, "slowed.c: $SLOWED_LIBRARY: %s\n", path ? dlerror() : "not set");
  abort();
}

static void be_slow(void) {
  for (volatile int i = 0; i < 1000; i++) continue;
}

// The function of this name in the library, looked up once.
#define FORWARD(name)                                         \
  static __typeof__(&name) forward;                           \
  if (!forward) forward = (__typeof__(&name))dlsym(library, #name)

relay_chan *relay_open(const char *base_filename, size_t subbuf_size, size_t n_subbufs,
                       unsigned flags, const relay_callbacks *callbacks, void *private_data) {
  FORWARD(relay_open);
  return forward(base_filename, subbuf_size, n_subbufs, flags, callbacks, private_data);
}

relay_chan *relay_attach(const char *socket_path, const char *channel) {
  FORWARD(relay_attach);
  return forward(socket_path, channel);
}

void relay_detach(relay_chan *chan) {
  FORWARD(relay_detach);
  forward(chan);
}

int relay_reset(relay_chan *chan) {
  FORWARD(relay_reset);
  return forward(chan);
}

int relay_write(relay_chan *chan, const void *data, size_t length) {
  FORWARD(relay_write);
  be_slow();
  return forward(chan, data, length);
}

void *relay_reserve(relay_chan *chan, size_t length, relay_reservation *reservation) {
  FORWARD(relay_reserve);
  be_slow();
  return forward(chan, length, reservation);
}

void relay_commit(relay_reservation *reservation) {
  FORWARD(relay_commit);
  forward(reservation);
}
