// SPDX-License-Identifier: Apache-2.0
// One question to a server that may not be there, from wherever a program writes its records: safe
// in signal handlers, and bounded in time.
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "retry.h"

static int64_t milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int wait_for_reply(int socket, int64_t limit) {
  int64_t end = milliseconds() + limit;
  for (;;) {
    int64_t left = end - milliseconds();
    struct pollfd ask = {.fd = socket, .events = POLLIN};
    int result = poll(&ask, 1, left > 0 ? (int)left : 0);
    if (result > 0) return 0;
    if (result == 0) return -ETIMEDOUT;
    if (errno != EINTR) return -errno;
  }
}

static ssize_t exchange(
    int socket, const struct clinux_question *question, void *reply, size_t capacity, int *fds,
    size_t maxFds) {
  int result = clinux_connect(socket, question->path);
  if (result < 0) return result;
  ssize_t count = clinux_send(socket, question->request, question->requestCount, NULL, 0, 1);
  if (count < 0) return count;
  result = wait_for_reply(socket, question->replyMilliseconds);
  if (result < 0) return result;
  size_t received;
  int truncated;
  count = clinux_receive(socket, reply, capacity, fds, maxFds, &received, &truncated, NULL,
                         1);
  for (size_t i = received; i < maxFds; i++) fds[i] = -1;
  if (count < 0) return count;
  // From here on it is a connection like others.
  result = RETRY(fcntl(socket, F_SETFL, 0));
  if (result >= 0) result = clinux_set_timeout(socket, question->laterMilliseconds);
  return result < 0 ? result : count;
}

ssize_t clinux_ask(
    const struct clinux_question *question, void *reply, size_t capacity, int *fds, size_t maxFds,
    int *connection) {
  for (size_t i = 0; i < maxFds; i++) fds[i] = -1;
  int socket = clinux_move_up(clinux_seqpacket(1));
  if (socket < 0) return socket;
  ssize_t count = exchange(socket, question, reply, capacity, fds, maxFds);
  if (count < 0) {
    close(socket);
  } else {
    *connection = socket;
  }
  return count;
}

int clinux_thread(void) { return (int)syscall(SYS_gettid); }

void *clinux_map(void *place, uint64_t count, int fd, int writable) {
  int flags = (fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE) |
              (place ? MAP_FIXED : 0);
  void *base = mmap(place, count, PROT_READ | (writable ? PROT_WRITE : 0), flags, fd, 0);
  if (base == MAP_FAILED) return NULL;
  madvise(base, count, MADV_DONTFORK);
  madvise(base, count, MADV_DONTDUMP);
  return base;
}
