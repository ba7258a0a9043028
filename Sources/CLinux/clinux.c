// SPDX-License-Identifier: Apache-2.0
// What the C library has and Swift cannot reach: memory files, epoll, timers, signals, futexes.
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "retry.h"

int clinux_open(const char *path, int flags, mode_t mode) {
  return RETRY(open(path, flags | O_CLOEXEC, mode));
}

int clinux_open_path(const char *path) {
  return RETRY(open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC));
}

ssize_t clinux_read(int fd, void *bytes, size_t count) { return RETRY(read(fd, bytes, count)); }

const char *clinux_secure_getenv(const char *name) { return secure_getenv(name); }

void clinux_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }

// Glibc 2.38 and later have it.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

int clinux_memfd(const char *name, uint64_t count) {
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  // Nothing in it is ever a program: vm.memfd_noexec may demand to be told so.
  int fd = RETRY(memfd_create(name, flags | MFD_NOEXEC_SEAL));
  // Linux before 6.3 does not know the flag.
  if (fd == -EINVAL) fd = RETRY(memfd_create(name, flags));
  if (fd < 0) return fd;
  int result = RETRY(ftruncate(fd, (off_t)count));
  if (result < 0) {
    close(fd);
    return result;
  }
  return fd;
}

int clinux_add_seals(int fd, unsigned seals) { return RETRY(fcntl(fd, F_ADD_SEALS, seals)); }

int clinux_get_seals(int fd) { return RETRY(fcntl(fd, F_GET_SEALS)); }

int clinux_eventfd(void) { return RETRY(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

int clinux_eventfd_signal(int fd) {
  // Signal handlers write records, too: what they interrupted keeps its errno.
  int saved = errno;
  // Whoever shares the descriptor can clear O_NONBLOCK and fill the counter; ask before writing.
  struct pollfd ask = {.fd = fd, .events = POLLOUT};
  int result = RETRY(poll(&ask, 1, 0));
  if (result >= 0 && !(ask.revents & POLLOUT)) result = -EAGAIN;
  uint64_t one = 1;
  if (result > 0) result = (int)RETRY(write(fd, &one, sizeof one));
  errno = saved;
  return result < 0 ? result : 0;
}

int clinux_eventfd_drain(int fd) {
  uint64_t count;
  struct iovec vector = {.iov_base = &count, .iov_len = sizeof count};
  // RWF_NOWAIT holds whatever another holder did to the file's flags.
  ssize_t result = RETRY(preadv2(fd, &vector, 1, -1, RWF_NOWAIT));
  if (result == -EOPNOTSUPP) result = RETRY(read(fd, &count, sizeof count));
  return result < 0 ? (int)result : 0;
}

int clinux_timerfd(void) {
  return RETRY(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
}

static struct timespec clinux_timespec(uint64_t nanoseconds) {
  return (struct timespec){
      .tv_sec = (time_t)(nanoseconds / 1000000000), .tv_nsec = (long)(nanoseconds % 1000000000)};
}

int clinux_timerfd_set(int fd, uint64_t nanoseconds) {
  struct itimerspec when = {.it_value = clinux_timespec(nanoseconds)};
  return RETRY(timerfd_settime(fd, 0, &when, NULL));
}

int clinux_timerfd_drain(int fd) {
  uint64_t count;
  ssize_t result = RETRY(read(fd, &count, sizeof count));
  return result < 0 ? (int)result : 0;
}

int clinux_signalfd(const int *signals, size_t count) {
  sigset_t set;
  sigemptyset(&set);
  for (size_t i = 0; i < count; i++) {
    if (sigaddset(&set, signals[i]) != 0) return -errno;
  }
  int result = pthread_sigmask(SIG_BLOCK, &set, NULL);
  if (result != 0) return -result;
  return RETRY(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

int clinux_signalfd_next(int fd) {
  struct signalfd_siginfo info;
  ssize_t result = RETRY(read(fd, &info, sizeof info));
  return result < 0 ? (int)result : (int)info.ssi_signo;
}

int clinux_epoll(void) { return RETRY(epoll_create1(EPOLL_CLOEXEC)); }

int clinux_epoll_add(int epoll, int fd, uint32_t events, uint64_t token) {
  struct epoll_event event = {.events = events, .data.u64 = token};
  return RETRY(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

int clinux_epoll_modify(int epoll, int fd, uint32_t events, uint64_t token) {
  struct epoll_event event = {.events = events, .data.u64 = token};
  return RETRY(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event));
}

int clinux_epoll_remove(int epoll, int fd) {
  return RETRY(epoll_ctl(epoll, EPOLL_CTL_DEL, fd, NULL));
}

int clinux_epoll_wait(int epoll, struct epoll_event *events, int count, int timeoutMilliseconds) {
  int result = epoll_wait(epoll, events, count, timeoutMilliseconds);
  return result < 0 ? -errno : result;
}

int clinux_poll(int fd, short events, int timeoutMilliseconds) {
  struct pollfd ask = {.fd = fd, .events = events};
  int result = RETRY(poll(&ask, 1, timeoutMilliseconds));
  return result < 0 ? result : ask.revents;
}

int clinux_futex_wait(const void *word, uint32_t expected, int64_t timeoutMilliseconds) {
  struct timespec limit;
  if (timeoutMilliseconds >= 0) {
    limit.tv_sec = timeoutMilliseconds / 1000;
    limit.tv_nsec = (timeoutMilliseconds % 1000) * 1000000;
  }
  long result = syscall(
      SYS_futex, word, FUTEX_WAIT, expected, timeoutMilliseconds >= 0 ? &limit : NULL, NULL, 0);
  return result < 0 ? -errno : 0;
}

int clinux_futex_wake(const void *word, int count) {
  return (int)RETRY(syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0));
}

int clinux_membarrier_register(void) {
  return (int)RETRY(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0));
}

int clinux_membarrier_issue(void) {
  return (int)RETRY(syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0));
}

int clinux_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0; }

int clinux_inotify(void) { return RETRY(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)); }

int clinux_inotify_add(int inotify, const char *path, uint32_t mask) {
  return RETRY(inotify_add_watch(inotify, path, mask));
}

uint32_t clinux_major(uint64_t rdev) { return major(rdev); }
uint32_t clinux_minor(uint64_t rdev) { return minor(rdev); }
