// SPDX-License-Identifier: Apache-2.0
// Packets with the process that sent each, for sockets that several processes hold: SO_PEERCRED
// names only the one that connected.
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clinux.h"
#include "retry.h"

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SCM_PIDFD
#define SCM_PIDFD 4
#endif

int clinux_ask_senders(int socket, int wanted) {
  int result = RETRY(setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &wanted, sizeof wanted));
  if (result < 0) return result;
  result = RETRY(setsockopt(socket, SOL_SOCKET, SO_PASSPIDFD, &wanted, sizeof wanted));
  return result == -ENOPROTOOPT ? 0 : result;
}

// Whether the kernel gives pidfds with packets that are received here.
static int gives_pidfds(int socket) {
  int value;
  socklen_t size = sizeof value;
  return getsockopt(socket, SOL_SOCKET, SO_PASSPIDFD, &value, &size) == 0;
}

// Before Linux 6.16 descriptors may be sent here, and take the room of the kernel's own.
static void close_all(const struct cmsghdr *header) {
  size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
  for (size_t i = 0; i < count; i++) {
    int fd;
    memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
    close(fd);
  }
}

static void take(const struct cmsghdr *header, struct clinux_sender *sender) {
  if (header->cmsg_level != SOL_SOCKET) return;
  if (header->cmsg_type == SCM_RIGHTS) {
    close_all(header);
  } else if (header->cmsg_type == SCM_CREDENTIALS) {
    struct ucred credentials;
    memcpy(&credentials, CMSG_DATA(header), sizeof credentials);
    sender->pid = credentials.pid;
    sender->uid = credentials.uid;
    sender->gid = credentials.gid;
  } else if (header->cmsg_type == SCM_PIDFD) {
    memcpy(&sender->pidfd, CMSG_DATA(header), sizeof sender->pidfd);
    // The kernel says so of a process that was reaped.
    if (sender->pidfd == -EINVAL) sender->pidfd = -ESRCH;
  }
}

ssize_t clinux_receive_from(
    int socket, void *bytes, size_t capacity, int *truncated, struct clinux_sender *sender) {
  // What the kernel does not say is nobody.
  *sender = (struct clinux_sender){.uid = UINT32_MAX, .gid = UINT32_MAX, .pidfd = -ESRCH};
  struct iovec vector = {.iov_base = bytes, .iov_len = capacity};
  union {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
  } control;
  struct msghdr message = {
      .msg_iov = &vector,
      .msg_iovlen = 1,
      .msg_control = control.bytes,
      .msg_controllen = sizeof control.bytes,
  };
  if (!gives_pidfds(socket)) {
    sender->pidfd = -ENOPROTOOPT;
    message.msg_controllen = CMSG_SPACE(sizeof(struct ucred));
  }
  ssize_t result = RETRY(recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT));
  if (result < 0) return result;
  *truncated = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL;
       header = CMSG_NXTHDR(&message, header)) {
    take(header, sender);
  }
  return result;
}
