// SPDX-License-Identifier: Apache-2.0
// Descriptors of a library in somebody else's program, which may close any number and open its own
// files under it. Each is remembered with the device and inode behind it and looked at before each
// use. What the program does between the look and the use is not seen; it has some 100 ns for that.
// Everything here is async-signal-safe.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clinux.h"
#include "retry.h"

// Where select(2) ends: programs that use it keep their own numbers below.
enum { HIGHEST = 1024, ROOM = 64, LOWEST = 3 };

int clinux_move_up(int fd) {
  if (fd < 0) return fd;
  struct rlimit limit;
  rlim_t end = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < HIGHEST ? limit.rlim_cur
                                                                                 : HIGHEST;
  int start = end > LOWEST + ROOM ? (int)end - ROOM : LOWEST;
  int result = fd >= start ? fd : (int)RETRY(fcntl(fd, F_DUPFD_CLOEXEC, start));
  if (result < 0) result = fd >= LOWEST ? fd : (int)RETRY(fcntl(fd, F_DUPFD_CLOEXEC, LOWEST));
  if (result != fd) close(fd);
  return result;
}

static int identify(int fd, uint64_t *device, uint64_t *inode) {
  struct stat status;
  int result = (int)RETRY(fstat(fd, &status));
  if (result < 0) return result;
  *device = status.st_dev;
  *inode = status.st_ino;
  return 0;
}

// The orderings: a reader that loads the number (acquire) finds the identity that was stored before
// it (release). Identities are of descriptors that were ours at one time, so that a mixture of an
// old and a new one can only make a look fail.
static void remember(struct clinux_guarded *guarded, int number, uint64_t device, uint64_t inode) {
  __atomic_store_n(&guarded->device, device, __ATOMIC_RELAXED);
  __atomic_store_n(&guarded->next, inode, __ATOMIC_RELAXED);
  __atomic_store_n(&guarded->inode, inode, __ATOMIC_RELAXED);
  __atomic_store_n(&guarded->number, number, __ATOMIC_RELEASE);
}

int clinux_guard(struct clinux_guarded *guarded, int fd) {
  remember(guarded, -1, 0, 0);
  fd = clinux_move_up(fd);
  if (fd < 0) return fd;
  uint64_t device, inode;
  int result = identify(fd, &device, &inode);
  if (result < 0) {
    close(fd);
    return result;
  }
  remember(guarded, fd, device, inode);
  return 0;
}

int clinux_guarded_number(const struct clinux_guarded *guarded) {
  int number = __atomic_load_n(&guarded->number, __ATOMIC_ACQUIRE);
  if (number < 0) return -EBADF;
  uint64_t device, inode;
  if (identify(number, &device, &inode) < 0) return -EBADF;
  if (device != __atomic_load_n(&guarded->device, __ATOMIC_RELAXED)) return -EBADF;
  return inode == __atomic_load_n(&guarded->inode, __ATOMIC_RELAXED) ||
                 inode == __atomic_load_n(&guarded->next, __ATOMIC_RELAXED)
             ? number
             : -EBADF;
}

int clinux_guarded_replace(struct clinux_guarded *guarded, int fd) {
  uint64_t device, inode;
  int result = identify(fd, &device, &inode);
  if (result < 0) return result;
  int number = clinux_guarded_number(guarded);
  if (number >= 0 && device == __atomic_load_n(&guarded->device, __ATOMIC_RELAXED)) {
    // Before the exchange: a look in the middle finds the old one or the new one, both ours.
    __atomic_store_n(&guarded->next, inode, __ATOMIC_RELEASE);
    result = (int)RETRY(dup3(fd, number, O_CLOEXEC));
    if (result < 0) return result;
    __atomic_store_n(&guarded->inode, inode, __ATOMIC_RELEASE);
    return 0;
  }
  int copy = (int)RETRY(fcntl(fd, F_DUPFD_CLOEXEC, LOWEST));
  if (copy < 0) return copy;
  copy = clinux_move_up(copy);
  if (number >= 0) close(number);
  remember(guarded, copy, device, inode);
  return 0;
}

void clinux_guarded_ring(const struct clinux_guarded *guarded) {
  int saved = errno;
  int number = clinux_guarded_number(guarded);
  if (number >= 0) (void)RETRY(send(number, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL));
  errno = saved;
}

void clinux_guarded_close(struct clinux_guarded *guarded) {
  int saved = errno;
  int number = clinux_guarded_number(guarded);
  __atomic_store_n(&guarded->number, -1, __ATOMIC_RELEASE);
  if (number >= 0) close(number);
  errno = saved;
}
