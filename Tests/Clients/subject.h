// SPDX-License-Identifier: Apache-2.0
// What a behaviour is tested on: a channel of one global buffer, and a way to read it. Without
// DEVICES in the environment that is an own channel, read with relay_read; with it a channel of
// the daemon at RELAY_SOCKET, read through the file or device whose path begins with DEVICES.
#ifndef SUBJECT_H
#define SUBJECT_H

#include <fcntl.h>
#include <unistd.h>

#include "test.h"

typedef struct {
  relay_chan *chan;
  relay_buf *buf;
  int fd; /* of the file; -1: an own channel */
  char name[16];
} subject;

static inline const char *devices(void) { return getenv("DEVICES"); }

// chan is NULL, and errno says why, where there cannot be such a channel.
static inline subject try_open(size_t subbuf_size, size_t n_subbufs, unsigned flags) {
  // Each its own: a node keeps its name until the daemon has heard of its last close.
  static char letter = 'a';
  subject it = {.fd = -1, .name = {'o', 'n', '-', letter++}};
  flags |= RELAY_GLOBAL;
  it.chan = devices() ? relay_create(NULL, it.name, subbuf_size, n_subbufs, flags)
                      : relay_open(it.name, subbuf_size, n_subbufs, flags, NULL, NULL);
  if (!it.chan) return it;
  it.buf = relay_buffer(it.chan, 0);
  CHECK(it.buf);
  if (!devices()) return it;
  char path[200];
  snprintf(path, sizeof path, "%s%s0", devices(), it.name);
  it.fd = open(path, O_RDONLY);
  if (it.fd < 0) perror(path);
  CHECK(it.fd >= 0);
  return it;
}

static inline subject open_subject(size_t subbuf_size, size_t n_subbufs, unsigned flags) {
  subject it = try_open(subbuf_size, n_subbufs, flags);
  if (!it.chan) perror(it.name);
  CHECK(it.chan);
  return it;
}

// Another reader of it: a file opened anew.
static inline subject open_again(subject it) {
  char path[40];
  if (it.fd < 0) return it;
  snprintf(path, sizeof path, "/proc/self/fd/%d", it.fd);
  it.fd = open(path, O_RDONLY);
  CHECK(it.fd >= 0);
  return it;
}

static inline ssize_t read_some(subject it, void *data, size_t size) {
  if (it.fd < 0) return relay_read(it.buf, data, size);
  ssize_t count;
  do count = read(it.fd, data, size);
  while (count < 0 && errno == EINTR);
  return count >= 0 ? count : -errno;
}

// Everything that there is now, as text; valid until the next call.
static inline const char *read_all(subject it) {
  static char text[1 << 20];
  size_t count = 0;
  for (;;) {
    ssize_t n = read_some(it, text + count, sizeof text - 1 - count);
    CHECK(n >= 0);
    if (n == 0) break;
    count += (size_t)n;
  }
  text[count] = 0;
  return text;
}

// POLLIN and POLLHUP, as far as they are so now.
static inline int ready(subject it) {
  if (it.fd < 0) return relay_poll(it.buf) & (POLLIN | POLLHUP | POLLERR);
  struct pollfd ask = {.fd = it.fd, .events = POLLIN};
  return poll(&ask, 1, 0) == 1 ? ask.revents : 0;
}

// Until there is something to read, or the end.
static inline void wait_for_data(subject it) {
  struct pollfd ask = {.fd = it.fd < 0 ? relay_poll_fd(it.buf) : it.fd, .events = POLLIN};
  while (poll(&ask, 1, -1) != 1) CHECK(errno == EINTR);
}

static inline void end_subject(subject it) {
  relay_close(it.chan);
  if (it.fd >= 0) close(it.fd);
  relay_detach(it.chan);
}

#endif
