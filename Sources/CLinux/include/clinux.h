// SPDX-License-Identifier: Apache-2.0
// Linux calls that the Swift overlay of glibc lacks or imports badly (variadic, macro-only, or
// newer than glibc's wrapper). Not a place for logic: one function is one system call.
// Every function retries EINTR where that is safe and returns >= 0, or -errno.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/types.h>

// Descriptors that one packet may carry, sent or received.
#define CLINUX_MAX_DESCRIPTORS 16

int clinux_open(const char *path, int flags, mode_t mode);
// Stands for the file itself, whatever it is; a link is not followed.
int clinux_open_path(const char *path);
ssize_t clinux_read(int fd, void *bytes, size_t count);

// Opens each closed one of descriptors 0, 1 and 2 as a place holder, on which reads and writes fail
// with EBADF as they did before. Before anything else opens a descriptor.
void clinux_reserve_standard(void);
// 1 if the descriptor is closed, or one that stands for a closed one.
int clinux_is_place_holder(int fd);

// NULL too where the program has more rights than its user.
const char *clinux_secure_getenv(const char *name);

void clinux_name_thread(const char *name);

int clinux_memfd(const char *name, uint64_t count);
int clinux_add_seals(int fd, unsigned seals);
int clinux_get_seals(int fd);

int clinux_eventfd(void);
// Neither waits, even if another holder of the descriptor cleared O_NONBLOCK; but for one who fills
// it just then.
int clinux_eventfd_signal(int fd);
int clinux_eventfd_drain(int fd);

// Has the kernel refuse descriptors that are sent here, on a listener for all who connect: closing
// some takes as long as their sender likes. Linux 6.16; before, it does nothing.
void clinux_refuse_descriptors(int socket);

// Two ends: the listener's, and the one that many processes may share to ring.
int clinux_doorbell(int ends[2]);
// Never waits, whatever another holder of the end did to its flags or its queue. -EAGAIN: it has
// been rung often enough.
int clinux_doorbell_ring(int fd);
// Takes up to `limit` rings, and returns how many there were.
int clinux_doorbell_drain(int fd, int limit);

int clinux_timerfd(void);
// Fires once after this time; 0 disarms.
int clinux_timerfd_set(int fd, uint64_t nanoseconds);
int clinux_timerfd_drain(int fd);

// Blocks the signals in this thread and returns a descriptor that receives them.
int clinux_signalfd(const int *signals, size_t count);
// The next pending signal's number; -EAGAIN when there is none.
int clinux_signalfd_next(int fd);

int clinux_epoll(void);
int clinux_epoll_add(int epoll, int fd, uint32_t events, uint64_t token);
int clinux_epoll_modify(int epoll, int fd, uint32_t events, uint64_t token);
int clinux_epoll_remove(int epoll, int fd);
// Does not retry EINTR: the caller's loop does. A negative timeout waits without limit.
int clinux_epoll_wait(int epoll, struct epoll_event *events, int count, int timeoutMilliseconds);
// revents of one descriptor; a negative timeout waits without limit.
int clinux_poll(int fd, short events, int timeoutMilliseconds);

// Shared (not PRIVATE) futexes. A negative timeout waits without limit; EINTR is not retried.
int clinux_futex_wait(const void *word, uint32_t expected, int64_t timeoutMilliseconds);
int clinux_futex_wake(const void *word, int count);

int clinux_membarrier_register(void);
int clinux_membarrier_issue(void);

int clinux_pidfd_open(pid_t pid);
// 1 if both name one process, 0 if not; -EOPNOTSUPP before Linux 6.9, where pidfds have no
// identity.
int clinux_pidfd_same(int one, int other);
// SO_PEERPIDFD; -ENOPROTOOPT before Linux 6.5.
int clinux_peer_pidfd(int socket);
int clinux_peer_credentials(int socket, int32_t *pid, uint32_t *uid, uint32_t *gid);
// How many supplementary groups the peer has; they are stored if that is at most capacity.
int clinux_peer_groups(int socket, uint32_t *groups, size_t capacity);

// SOCK_SEQPACKET, close-on-exec; non-blocking if asked.
int clinux_seqpacket(int nonblocking);
int clinux_seqpacket_pair(int pair[2]);
int clinux_bind(int socket, const char *path);
// The file has the socket's own mode (fchmod) from its first moment, whatever the umask; where no
// child process can be made, less the umask.
int clinux_bind_with_own_mode(int socket, const char *path);
int clinux_connect(int socket, const char *path);
int clinux_accept(int socket);
// Bounds what connect, send and receive wait: they return -EAGAIN then.
int clinux_set_timeout(int socket, uint32_t milliseconds);
// Bytes sent that the other side has not taken yet (SIOCOUTQ), in the kernel's own accounting.
int clinux_unread(int socket);
// One packet with descriptors; never raises SIGPIPE. dontWait: -EAGAIN instead of waiting.
ssize_t clinux_send(
    int socket, const void *bytes, size_t count, const int *fds, size_t fdCount, int dontWait);
// One packet. Received descriptors are close-on-exec; those beyond maxFds the kernel closes.
// *truncated: bit 0 bytes were cut off, bit 1 descriptors were. *sender: the process that sent it,
// where the socket asks for that (clinux_notify_socket), else 0; NULL where it does not.
ssize_t clinux_receive(
    int socket, void *bytes, size_t capacity, int *fds, size_t maxFds, size_t *fdCount,
    int *truncated, pid_t *sender, int dontWait);

// The process that sent a packet, as the kernel says.
struct clinux_sender {
  int32_t pid;  // 0: it has no number in this pid namespace
  uint32_t uid, gid;
  int pidfd;  // -ENOPROTOOPT before Linux 6.5; else -errno where there could be none
};
// From now on, or no longer, packets are received with who sent them: by clinux_receive_from only.
int clinux_ask_senders(int socket, int wanted);
// One packet, without waiting; what was sent before clinux_ask_senders has no sender (-ESRCH). No
// descriptor of the sender's is kept. The pidfd is the caller's.
ssize_t clinux_receive_from(
    int socket, void *bytes, size_t capacity, int *truncated, struct clinux_sender *sender);

// A datagram socket connected to what $NOTIFY_SOCKET names: a path, or @ and an abstract name.
int clinux_notify_connect(const char *name);
// The other side's: it is told who sent what.
int clinux_notify_socket(void);

// Starts argv[0], found through PATH, with fds[i] as descriptor 3 + i; fds ascends, from 3 on at
// least. The child's number is written, as decimal text, to `pid` in one of envp's strings, which
// has room for 12 bytes there. Blocked signals stay blocked. -errno, too, where exec fails.
pid_t clinux_start(
    char *const argv[], char *const envp[], char *pid, const int *fds, size_t count);

// A descriptor in a program that may close or reuse its number: used only while the number still
// names what it was. Sockets and memory files can be told apart, eventfds and epolls cannot.
struct clinux_guarded {
  int number;  // -1: none
  uint64_t device, inode;
  uint64_t next;  // the inode that takes the other one's place
};
// Moves `fd` to a number that programs rarely use, never 0 to 2; closes the old number. -errno, and
// fd closed, where there is none left.
int clinux_move_up(int fd);
// Takes `fd` over, moved up. -errno, and fd closed.
int clinux_guard(struct clinux_guarded *guarded, int fd);
// Its number; -EBADF where that names something else now, or nothing.
int clinux_guarded_number(const struct clinux_guarded *guarded);
// From now on it is another descriptor of what `fd` is, under the same number where that is still
// ours. Not by two threads at once; looks may run beside it.
int clinux_guarded_replace(struct clinux_guarded *guarded, int fd);
// Sends a doorbell's byte, if it is still ours.
void clinux_guarded_ring(const struct clinux_guarded *guarded);
// Closes it, if it is still ours.
void clinux_guarded_close(struct clinux_guarded *guarded);

// A request to the server of a Unix socket, ready to be sent.
struct clinux_question {
  const char *path;
  uint8_t request[512];
  size_t requestCount;
  uint32_t replyMilliseconds;  // how long a reply may take
  uint32_t laterMilliseconds;  // what is set for the connection then
};
// Connects, asks, and returns the reply's length, its descriptors (-1 where there is none) and the
// connection; these are the caller's to close. Async-signal-safe. -errno, and nothing to close.
ssize_t clinux_ask(
    const struct clinux_question *question, void *reply, size_t capacity, int *fds, size_t maxFds,
    int *connection);

int clinux_thread(void);

// Whether malloc has some 96 KiB left in small pieces, and the kernel `mapped` bytes.
int clinux_has_memory(size_t mapped);
// Maps a file from its start, or, with fd -1, memory that costs nothing until it is written to;
// at `place` in the stead of what is there, if that is given. Forked children do not have it. NULL
// where it fails.
void *clinux_map(void *place, uint64_t count, int fd, int writable);

// A NETLINK_KOBJECT_UEVENT socket in the kernel's group, non-blocking, close-on-exec. The receive
// buffer goes beyond the system's limit where we may. Receives, and wakes nobody for other than,
// messages that begin with one of the prefixes; all where there are none.
int clinux_uevents(int receiveBytes, const char *const *prefixes, size_t prefix_count);
// One datagram. *fromKernel: 1 if the kernel sent it to its group, 0 if anybody else did.
// *truncated: 1 if it was longer than `capacity`. -ENOBUFS: some were lost before.
ssize_t clinux_uevents_receive(
    int socket, void *bytes, size_t capacity, int *fromKernel, int *truncated);

// Non-blocking, close-on-exec.
int clinux_inotify(void);
int clinux_inotify_add(int inotify, const char *path, uint32_t mask);

uint32_t clinux_major(uint64_t rdev);
uint32_t clinux_minor(uint64_t rdev);

// What a life page begins with; zero at first.
struct clinux_life {
  uint32_t word;  // the thread's number while its process lives; the kernel marks its death
  uint32_t pad;
  uint64_t generation;
};

// Starts a thread that ends with the process, and has the kernel mark that in `page`: shared
// memory, whole pages, never unmapped from here on.
int clinux_life_begin(void *page);
// 1 while the process that began it lives; 0 before the first did.
int clinux_life_lasts(const void *page);

// Both ends close-on-exec.
int clinux_pipe(int ends[2]);

