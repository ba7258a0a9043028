// SPDX-License-Identifier: Apache-2.0
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <linux/membarrier.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
#ifndef PID_FS_MAGIC
#define PID_FS_MAGIC 0x50494446
#endif

#define RETRY(call)                            \
  ({                                           \
    __typeof__(call) result_;                  \
    do {                                       \
      result_ = (call);                        \
    } while (result_ == -1 && errno == EINTR); \
    result_ == -1 ? -errno : result_;          \
  })

int clinux_open(const char *path, int flags, mode_t mode) {
  return RETRY(open(path, flags | O_CLOEXEC, mode));
}

ssize_t clinux_read(int fd, void *bytes, size_t count) { return RETRY(read(fd, bytes, count)); }

const char *clinux_secure_getenv(const char *name) { return secure_getenv(name); }

void clinux_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }

int clinux_memfd(const char *name, uint64_t count) {
  int fd = RETRY(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
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

int clinux_doorbell(int ends[2]) {
  int result = RETRY(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
  if (result < 0) return result;
  // A descriptor in a message would be closed by the listener, and some take their time for that.
  // Linux 6.16; before, it is so.
  int none = 0;
  setsockopt(ends[0], SOL_SOCKET, SO_PASSRIGHTS, &none, sizeof none);
  return result;
}

int clinux_doorbell_ring(int fd) {
  int saved = errno;
  ssize_t result = RETRY(send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL));
  errno = saved;
  return result < 0 ? (int)result : 0;
}

int clinux_doorbell_drain(int fd, int limit) {
  int count = 0;
  char byte;
  while (count < limit && recv(fd, &byte, 1, MSG_DONTWAIT) >= 0) count++;
  return count;
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

int clinux_pidfd_open(pid_t pid) { return (int)RETRY(syscall(SYS_pidfd_open, pid, 0)); }

int clinux_pidfd_same(int one, int other) {
  struct statfs system;
  struct stat a, b;
  return fstatfs(one, &system) == 0 && system.f_type == PID_FS_MAGIC && fstat(one, &a) == 0 &&
         fstat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int clinux_peer_pidfd(int socket) {
  int pidfd = -1;
  socklen_t size = sizeof pidfd;
  int result = RETRY(getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &size));
  return result < 0 ? result : pidfd;
}

int clinux_peer_credentials(int socket, int32_t *pid, uint32_t *uid, uint32_t *gid) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  int result = RETRY(getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size));
  if (result < 0) return result;
  *pid = peer.pid;
  *uid = peer.uid;
  *gid = peer.gid;
  return 0;
}

int clinux_peer_groups(int socket, uint32_t *groups, size_t capacity) {
  socklen_t size = (socklen_t)(capacity * sizeof *groups);
  int result = RETRY(getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups, &size));
  // The kernel says what would have been enough.
  if (result < 0 && result != -ERANGE) return result;
  return (int)(size / sizeof *groups);
}

int clinux_seqpacket(int nonblocking) {
  int type = SOCK_SEQPACKET | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0);
  return RETRY(socket(AF_UNIX, type, 0));
}

int clinux_seqpacket_pair(int pair[2]) {
  return RETRY(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
}

static int clinux_address(const char *path, struct sockaddr_un *address) {
  size_t length = strlen(path);
  if (length == 0) return -EINVAL;
  if (length >= sizeof address->sun_path) return -ENAMETOOLONG;
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, path, length);
  return 0;
}

int clinux_bind(int socket, const char *path) {
  struct sockaddr_un address;
  int result = clinux_address(path, &address);
  if (result < 0) return result;
  return RETRY(bind(socket, (struct sockaddr *)&address, sizeof address));
}

int clinux_connect(int socket, const char *path) {
  struct sockaddr_un address;
  int result = clinux_address(path, &address);
  if (result < 0) return result;
  return RETRY(connect(socket, (struct sockaddr *)&address, sizeof address));
}

int clinux_accept(int socket) {
  return RETRY(accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

int clinux_set_timeout(int socket, uint32_t milliseconds) {
  struct timeval limit = {
      .tv_sec = milliseconds / 1000, .tv_usec = (milliseconds % 1000) * 1000};
  int result = RETRY(setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
  if (result < 0) return result;
  return RETRY(setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
}

int clinux_unread(int socket) {
  int bytes = 0;
  int result = RETRY(ioctl(socket, SIOCOUTQ, &bytes));
  return result < 0 ? result : bytes;
}

typedef union {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int) * CLINUX_MAX_DESCRIPTORS)];
} clinux_control;

ssize_t clinux_send(
    int socket, const void *bytes, size_t count, const int *fds, size_t fdCount, int dontWait) {
  if (fdCount > CLINUX_MAX_DESCRIPTORS) return -E2BIG;
  struct iovec vector = {.iov_base = (void *)bytes, .iov_len = count};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
  clinux_control control;
  if (fdCount > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fdCount);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fdCount);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * fdCount);
  }
  return RETRY(sendmsg(socket, &message, MSG_NOSIGNAL | (dontWait ? MSG_DONTWAIT : 0)));
}

ssize_t clinux_receive(
    int socket, void *bytes, size_t capacity, int *fds, size_t maxFds, size_t *fdCount,
    int *truncated, int dontWait) {
  *fdCount = 0;
  *truncated = 0;
  if (maxFds > CLINUX_MAX_DESCRIPTORS) maxFds = CLINUX_MAX_DESCRIPTORS;
  struct iovec vector = {.iov_base = bytes, .iov_len = capacity};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
  clinux_control control;
  if (maxFds > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * maxFds);
  }
  int flags = MSG_CMSG_CLOEXEC | (dontWait ? MSG_DONTWAIT : 0);
  ssize_t result = RETRY(recvmsg(socket, &message, flags));
  if (result < 0) return result;
  if (message.msg_flags & MSG_TRUNC) *truncated |= 1;
  if (message.msg_flags & MSG_CTRUNC) *truncated |= 2;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    // CMSG_SPACE rounds up to 8 bytes, so one descriptor more than maxFds can arrive.
    size_t received = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < received; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      if (*fdCount < maxFds) {
        fds[(*fdCount)++] = fd;
      } else {
        close(fd);
        *truncated |= 2;
      }
    }
  }
  return result;
}

int clinux_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC) < 0 ? -errno : 0; }

int clinux_uevents(int receiveBytes) {
  int type = SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK;
  int fd = RETRY(socket(AF_NETLINK, type, NETLINK_KOBJECT_UEVENT));
  if (fd < 0) return fd;
  // Beyond the limit takes CAP_NET_ADMIN.
  int result = RETRY(
      setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receiveBytes, sizeof receiveBytes));
  if (result == -EPERM) {
    result = RETRY(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receiveBytes, sizeof receiveBytes));
  }
  struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
  if (result >= 0) result = RETRY(bind(fd, (struct sockaddr *)&address, sizeof address));
  if (result < 0) {
    close(fd);
    return result;
  }
  return fd;
}

ssize_t clinux_uevents_receive(
    int socket, void *bytes, size_t capacity, int *fromKernel, int *truncated) {
  struct sockaddr_nl sender = {.nl_pid = UINT32_MAX};
  struct iovec vector = {.iov_base = bytes, .iov_len = capacity};
  struct msghdr message = {
      .msg_name = &sender,
      .msg_namelen = sizeof sender,
      .msg_iov = &vector,
      .msg_iovlen = 1,
  };
  ssize_t result = RETRY(recvmsg(socket, &message, MSG_DONTWAIT));
  if (result < 0) return result;
  *fromKernel = sender.nl_pid == 0 && sender.nl_groups == 1;
  *truncated = (message.msg_flags & MSG_TRUNC) != 0;
  return result;
}

int clinux_inotify(void) { return RETRY(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)); }

int clinux_inotify_add(int inotify, const char *path, uint32_t mask) {
  return RETRY(inotify_add_watch(inotify, path, mask));
}

uint32_t clinux_major(uint64_t rdev) { return major(rdev); }
uint32_t clinux_minor(uint64_t rdev) { return minor(rdev); }
