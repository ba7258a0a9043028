// SPDX-License-Identifier: Apache-2.0
// Sockets of every kind, and who is at their other ends.
#include "clinux.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "retry.h"

enum { CLINUX_FILTER_LENGTH = 512 };

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
#ifndef PID_FS_MAGIC
#define PID_FS_MAGIC 0x50494446
#endif

void clinux_refuse_descriptors(int socket) {
  int none = 0;
  setsockopt(socket, SOL_SOCKET, SO_PASSRIGHTS, &none, sizeof none);
}

int clinux_doorbell(int ends[2]) {
  int result = RETRY(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends));
  if (result >= 0) clinux_refuse_descriptors(ends[0]);
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

int clinux_pidfd_open(pid_t pid) { return (int)RETRY(syscall(SYS_pidfd_open, pid, 0)); }

int clinux_pidfd_same(int one, int other) {
  struct statfs system;
  struct stat a, b;
  if (fstatfs(one, &system) < 0 || system.f_type != PID_FS_MAGIC) return -EOPNOTSUPP;
  return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
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

static int bind_to(int socket, const struct sockaddr_un *address) {
  return RETRY(bind(socket, (const struct sockaddr *)address, sizeof *address));
}

static int is_bound(int socket) {
  struct sockaddr_un address;
  socklen_t size = sizeof address;
  return getsockname(socket, (struct sockaddr *)&address, &size) == 0 &&
         size > sizeof(sa_family_t);
}

int clinux_bind(int socket, const char *path) {
  struct sockaddr_un address;
  int result = clinux_address(path, &address);
  if (result < 0) return result;
  return bind_to(socket, &address);
}

// The umask is the whole process's: a child has one of its own, and this process's socket.
int clinux_bind_with_own_mode(int socket, const char *path) {
  struct sockaddr_un address;
  int result = clinux_address(path, &address);
  if (result < 0) return result;
  pid_t child = fork();
  if (child < 0) return bind_to(socket, &address);
  if (child == 0) {
    umask(0);
    _exit(-bind_to(socket, &address));
  }
  int status = 0;
  if (RETRY(waitpid(child, &status, 0)) == child && WIFEXITED(status)) return -WEXITSTATUS(status);
  // Somebody ended it, or this process has its children reaped by the kernel.
  return is_bound(socket) ? 0 : bind_to(socket, &address);
}

static int connect_to(int socket, const char *path) {
  struct sockaddr_un address;
  int result = clinux_address(path, &address);
  if (result < 0) return result;
  return RETRY(connect(socket, (struct sockaddr *)&address, sizeof address));
}

// Puts text, then a number's digits, then text: what snprintf does, but for signal handlers.
static void compose(char *to, const char *before, unsigned number, const char *after) {
  char digits[10];
  int count = 0;
  do digits[count++] = (char)('0' + number % 10);
  while (number /= 10);
  to = stpcpy(to, before);
  while (count > 0) *to++ = digits[--count];
  stpcpy(to, after);
}

int clinux_connect(int socket, const char *path) {
  struct sockaddr_un address;
  if (strlen(path) < sizeof address.sun_path) return connect_to(socket, path);
  // By way of its directory, whose own path may be as long as any.
  const char *name = strrchr(path, '/');
  char directory[PATH_MAX], shorter[sizeof address.sun_path];
  if (name == NULL || strlen(name) > sizeof shorter - sizeof "/proc/self/fd/2147483647" ||
      name - path >= PATH_MAX) {
    return -ENAMETOOLONG;
  }
  memcpy(directory, path, (size_t)(name - path));
  directory[name - path] = '\0';
  int fd = RETRY(open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (fd < 0) return fd;
  compose(shorter, "/proc/self/fd/", (unsigned)fd, name);
  int result = connect_to(socket, shorter);
  close(fd);
  return result;
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

int clinux_notify_connect(const char *name) {
  struct sockaddr_un address;
  int result = clinux_address(name, &address);
  if (result < 0) return result;
  if (name[0] == '@') address.sun_path[0] = '\0';
  int fd = RETRY(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd < 0) return fd;
  // The length counts: all that follows would be part of an abstract name.
  socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
  result = RETRY(connect(fd, (struct sockaddr *)&address, length));
  if (result < 0) {
    close(fd);
    return result;
  }
  return fd;
}

int clinux_notify_socket(void) {
  int fd = RETRY(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd < 0) return fd;
  int yes = 1;
  int result = RETRY(setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes));
  if (result < 0) {
    close(fd);
    return result;
  }
  return fd;
}

typedef union {
  struct cmsghdr header;
  char bytes
      [CMSG_SPACE(sizeof(int) * CLINUX_MAX_DESCRIPTORS) + CMSG_SPACE(sizeof(struct ucred))];
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
    int *truncated, pid_t *sender, int dontWait) {
  *fdCount = 0;
  *truncated = 0;
  if (sender != NULL) *sender = 0;
  if (maxFds > CLINUX_MAX_DESCRIPTORS) maxFds = CLINUX_MAX_DESCRIPTORS;
  struct iovec vector = {.iov_base = bytes, .iov_len = capacity};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
  clinux_control control;
  size_t room = maxFds > 0 ? CMSG_SPACE(sizeof(int) * maxFds) : 0;
  if (sender != NULL) room += CMSG_SPACE(sizeof(struct ucred));
  if (room > 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = room;
  }
  int flags = MSG_CMSG_CLOEXEC | (dontWait ? MSG_DONTWAIT : 0);
  ssize_t result = RETRY(recvmsg(socket, &message, flags));
  if (result < 0) return result;
  if (message.msg_flags & MSG_TRUNC) *truncated |= 1;
  if (message.msg_flags & MSG_CTRUNC) *truncated |= 2;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_CREDENTIALS && sender != NULL) {
      struct ucred credentials;
      memcpy(&credentials, CMSG_DATA(header), sizeof credentials);
      *sender = credentials.pid;
    }
    if (header->cmsg_type != SCM_RIGHTS) continue;
    // CMSG_SPACE rounds up to 8 bytes, so one descriptor more than maxFds can arrive.
    size_t received = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < received; i++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      // A program without standard descriptors writes to their numbers all the same.
      if (fd <= STDERR_FILENO) fd = clinux_move_up(fd);
      if (fd < 0) {
        *truncated |= 2;
        continue;
      }
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

// Appends one instruction of classic BPF.
static void clinux_filter_add(struct sock_filter *code, size_t *count, struct sock_filter one) {
  if (*count < CLINUX_FILTER_LENGTH) code[*count] = one;
  ++*count;
}

// Lets a message through that begins with one of the prefixes. Two instructions a byte: load,
// compare. A load beyond the message's end drops it: a uevent is longer than any prefix here.
static int clinux_filter_prefixes(int fd, const char *const *prefixes, size_t prefix_count) {
  struct sock_filter code[CLINUX_FILTER_LENGTH];
  size_t count = 0;
  for (size_t i = 0; i < prefix_count; i++) {
    size_t length = strlen(prefixes[i]);
    // A jump is at most 255 instructions long.
    if (length > 127) return -EINVAL;
    for (size_t at = 0; at < length; at++) {
      struct sock_filter load = BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)at);
      // Where it differs, to what follows this prefix's acceptance.
      struct sock_filter compare = BPF_JUMP(
          BPF_JMP | BPF_JEQ | BPF_K, (unsigned char)prefixes[i][at], 0,
          (unsigned char)(2 * (length - at) - 1));
      clinux_filter_add(code, &count, load);
      clinux_filter_add(code, &count, compare);
    }
    clinux_filter_add(code, &count, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX));
  }
  clinux_filter_add(code, &count, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0));
  if (count > CLINUX_FILTER_LENGTH) return -EINVAL;
  struct sock_fprog program = {.len = (unsigned short)count, .filter = code};
  return RETRY(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
}

int clinux_uevents(int receiveBytes, const char *const *prefixes, size_t prefix_count) {
  int type = SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK;
  int fd = RETRY(socket(AF_NETLINK, type, NETLINK_KOBJECT_UEVENT));
  if (fd < 0) return fd;
  // Beyond the limit takes CAP_NET_ADMIN.
  int result = RETRY(
      setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &receiveBytes, sizeof receiveBytes));
  if (result == -EPERM) {
    result = RETRY(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receiveBytes, sizeof receiveBytes));
  }
  // Before it can receive anything.
  if (result >= 0 && prefix_count > 0) {
    result = clinux_filter_prefixes(fd, prefixes, prefix_count);
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
