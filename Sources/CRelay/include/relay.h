// SPDX-License-Identifier: Apache-2.0
// librelay: relay channels for C and everything that calls C. Link with -lrelay.
//
// A channel is one buffer for each CPU, or one global buffer, cut into sub-buffers. A record is
// written into the buffer of the CPU the thread runs on, and is whole or absent for readers. There
// are two kinds of channels, and the same functions for both:
//
//   own channels    relay_open: in this process's own memory, read with relay_read
//   daemon channels relay_attach, relay_create: in memory shared with relayd, which gives every
//                   buffer a device or file; this process only writes, or, with relay_map, reads
//                   a buffer where it lies
//
// Unless its comment says otherwise, a function
//   - may be called by any number of threads at once; relay_detach alone needs the last word: no
//     other call on the channel may run beside it or come after it;
//   - returns 0 or a negative errno value if it returns int, and sets errno to a positive one
//     where it returns NULL. -EINVAL is for arguments that cannot be, such as NULL; -ENOMEM for a
//     program that has no memory left, where a function needs some: writing and reading do not;
//   - is not for signal handlers.
//
// fork: a child has no daemon channel's memory. Its first call on such a channel attaches anew, in
// its own name, and may therefore return what relay_attach sets errno to; it is not for signal
// handlers. It waits for at most 0.3 s; another thread's call meanwhile returns -EAGAIN after 20
// ms. After a failure calls fail at once for 100 ms, then for 200, 400, up to 5 s. Records refused
// so are counted as lost_restart once the child is attached. For a child that may not attach by
// then: relay_attach_for_child. A record that the parent had reserved stays the parent's:
// committing it in the child does nothing. An own channel is copied with its process: parent and
// child each have their own from then on, and only one of them may go on using descriptors from
// relay_poll_fd; fork while no other thread is inside a call on it.
//
// exec: the new program has nothing of the old one's channels. A record that another thread was
// writing is passed after stall_timeout and ends with the process; until then it holds one
// sub-buffer.
//
// Every function has to return: leave none by longjmp or siglongjmp out of a signal handler that
// interrupted it, by an exception out of one, by pthread_exit, nor by pthread_cancel of its thread.
// A record that is left in that way stays open, and its sub-buffer is not used again until the
// process ends (relayctl producers shows it, the daemon's log names the process after
// stall_timeout); a lock may stay taken for good. A signal handler that writes needs 8 KiB of
// stack.
//
// Memory: a daemon channel's pages are charged to the memory control group of the process that
// touches them first, which is mostly one that writes; with the channel's key prefault to the
// daemon's (relayd.toml(5)).
//
// Descriptors: a daemon channel keeps two, a mapping three, each relay_poll_fd two: sockets and an
// epoll, close-on-exec, with numbers below 1024 but high, never 0 to 2. A program may close them
// with others that it did not open, and reuse the numbers: the library looks before each use
// whether a number still names what it did, and leaves the program's files alone. What is lost
// then: a reader that waits is woken by the daemon's tick, up to a second late; descriptors for
// poll(2) are gone; a request or the next daemon gets a new connection. What a program closes or
// opens under such a number at the very moment of a use is not seen.
//
// Core dumps: the memory of daemon channels is not part of them.
#ifndef RELAY_H
#define RELAY_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct relay_chan relay_chan; /* a channel: one buffer per CPU, or one global */
typedef struct relay_buf relay_buf;   /* one channel buffer */

/* Space for one record; the content is the library's. May be copied and moved; ends once. */
typedef struct relay_reservation {
  uint64_t opaque[8];
} relay_reservation;

/* Own channels only. Members may be NULL: relay's defaults. Those of one buffer are called one at a
 * time, by the thread inside the call that is named; any call on the buffer from inside one but for
 * those named returns -EDEADLK. They return normally (no longjmp, exception or pthread_exit: the
 * buffer would stay locked), and wait for nobody who writes. One that calls upon another buffer
 * with callbacks takes that one's lock, too: always in the same order, or two of them wait for each
 * other. */
typedef struct relay_callbacks {
  size_t size; /* sizeof *this */
  /* A sub-buffer is about to be started: 1 (or anything but 0) goes on, 0 refuses, and then every
   * later write that needs one asks again. Default: refuse when all are full (with
   * RELAY_OVERWRITE: never). With this callback its result alone decides: 1 while all are full
   * overwrites the oldest. prev_subbuf is the one that was left, its last prev_padding bytes
   * unused; NULL at open and after relay_reset, where the result does not matter. Called once for
   * each sub-buffer that is started, one call at a time for each buffer, by the thread that writes,
   * flushes, switches, resets, or adds the buffer (relay_buffers). It may call
   * relay_subbuf_start_reserve, relay_buf_full and relay_buf_empty on `buf`, relay_private, and
   * relay_unmap; relay_poll says POLLERR. It may write to `subbuf` only the bytes it reserves
   * there, and only if it does not return 0. Every write of such a channel takes a lock. */
  int (*subbuf_start)(relay_buf *buf, void *subbuf, void *prev_subbuf, size_t prev_padding);
  /* The buffer was mapped (relay_map_buffer), or is being unmapped (relay_unmap): in that order. */
  void (*buf_mapped)(relay_buf *buf);
  void (*buf_unmapped)(relay_buf *buf);
  /* For each buffer as soon as the channel has a name; filename is the base name and the CPU.
   * 0 or -errno, which undoes everything. At open, for the first CPU's buffer, it may set
   * *is_global: then that buffer is the only one; when there are others it is too late (EINVAL), so
   * open a channel that is named later with RELAY_GLOBAL. Called by the thread inside relay_open,
   * relay_late_setup_files or relay_buffers. Until relay_open or relay_buffers returns, only the
   * address of `buf` means anything. */
  int (*create_buf_file)(const char *filename, relay_buf *buf, int *is_global);
  /* The opposite, by the thread inside relay_close or relay_detach. */
  void (*remove_buf_file)(const char *filename, relay_buf *buf);
} relay_callbacks;

#define RELAY_OVERWRITE 1u  /* full: overwrite the oldest sub-buffer instead of refusing */
#define RELAY_GLOBAL 2u     /* one buffer for all CPUs */
#define RELAY_TIMESTAMPS 4u /* each record carries its time; 8 more bytes, some 20 ns more */

/* Opening, attaching, leaving. Rare: system calls and memory. */

/* A channel in this process's own memory: n_subbufs >= 2 sub-buffers of subbuf_size bytes for each
 * CPU that is online; memory is used as it is touched. base_filename is for the callbacks; NULL:
 * named later. The callbacks are copied. errno: EINVAL sizes, flags or callbacks that cannot be;
 * ENOMEM, EMFILE; what create_buf_file returned. */
relay_chan *relay_open(const char *base_filename, size_t subbuf_size, size_t n_subbufs,
                       unsigned flags, const relay_callbacks *callbacks, void *private_data);

/* Names an own channel that has no name yet, and creates its files. -EINVAL: no name given, or not
 * an own channel. -EEXIST: it has a name. -EPIPE: it is closed. What create_buf_file returned.
 * Not beside another call of relay_late_setup_files or relay_close. */
int relay_late_setup_files(relay_chan *chan, const char *base_filename);

/* A daemon's channel, to write into. socket_path NULL: $RELAY_SOCKET (not in set-user-ID programs),
 * else /run/relayd/control; a relative path is made absolute now, so that chdir does no harm.
 *
 * When the daemon dies, records still go into the memory there is, for 10 s. The next daemon at
 * that socket goes on with the memory, or the channel moves to the next daemon's memory by itself,
 * inside a call that writes, which waits for at most 0.4 s, also in a handler; another thread's
 * write meanwhile does not wait: it goes into the memory there is, or fails with -ENOTCONN at once
 * where that is closed. A daemon that does not answer is asked again after 0.25, 0.5, then each 1
 * s. What nobody had read is then lost_restart. If no daemon is there after 10 s, if the next one
 * refuses this process or has no such channel, or if the last one has ended properly, writing fails
 * with -ENOTCONN until there is one that takes the records; those refused are counted as
 * lost_restart, and those that did not fit into the memory meanwhile as lost_full, also by the next
 * daemon. A channel that was closed, or that comes back with other sizes, is closed for good:
 * -EPIPE.
 *
 * A process notices that the daemon is gone with its next record where fewer than 512 records a
 * second go into the buffer, else with each 512th; the next daemon within 0.1 s of that.
 * Left of this: a buffer that was fast when the daemon died, and is slow afterwards, takes up to
 * 512 records more.
 *
 * Where a daemon has just gone, which its closed connection or the socket it left tells, waits for
 * the next one for at most 0.3 s.
 *
 * errno: ECONNREFUSED nobody serves the socket; ECONNRESET the daemon ended while it was asked;
 * EACCES the socket may not be used; ENOENT no such channel; EINVAL no name; EPERM its writers are
 * others; EMFILE too many producers, or descriptors; ENAMETOOLONG the socket's name is longer than
 * 80 bytes, and its path than 107; ETIMEDOUT no answer in 10 s; EPROTO not a relayd, or of another
 * version. */
relay_chan *relay_attach(const char *socket_path, const char *channel);

/* As relay_attach, but waits until a daemon serves the socket and has the channel, for at most
 * timeout_ms (negative: without limit): for programs that may start before relayd, or before the
 * channel is made. 0: one try. Asks again after 5 ms, 10, 20, at last each 0.25 s; a daemon that
 * does not answer has 0.1 s for the last try. After the time errno says what was missing:
 * ECONNREFUSED, ECONNRESET or ETIMEDOUT the daemon, ENOENT the channel. What else relay_attach
 * fails with ends this at once. */
relay_chan *relay_attach_wait(const char *socket_path, const char *channel, int timeout_ms);

/* For servers whose children give up their user or root directory before they write. Called before
 * fork: the next child's first call on chan attaches it by this process's right, whatever user it
 * is by then and whatever path it can reach, as a producer of its own. It must leave one descriptor
 * open until then (closefrom). A fork uses this up, also one that fails; posix_spawn, system, vfork
 * and a bare clone do not, and their children, and the child's own, have no part in it. Another
 * call replaces it. Where the daemon was restarted meanwhile, the child attaches as any other. It
 * goes on where a later daemon takes the memory over; else, as it cannot reach the socket or is
 * refused, it gets -ENOTCONN as said above. One request to the daemon. 0; -EOPNOTSUPP an own
 * channel, which the child has anyway, or a daemon that is older; else what relay_attach sets errno
 * to, negative. */
int relay_attach_for_child(relay_chan *chan);

/* Creates a channel in the daemon and attaches to it. It stays until relay_close, or until the
 * daemon ends. errno as relay_attach, and: EEXIST there is one of this name; EINVAL the name, a
 * size or a flag cannot be; EPERM this user may not create channels; ENOMEM, ENOSPC its limits;
 * EDQUOT a limit of this user's. */
relay_chan *relay_create(const char *socket_path, const char *channel, size_t subbuf_size,
                         size_t n_subbufs, unsigned flags);

/* This process is done: frees chan, its buffers and descriptors. A daemon's channel lives on with
 * what was written; in its limit of producers the process counts until it ends. An own channel is
 * closed if it was not, and gone. NULL does nothing. */
void relay_detach(relay_chan *chan);

/* Finalizes the channel for everyone: later writes get -EPIPE, readers drain what is left and get
 * end of file. chan stays valid until relay_detach. A daemon's channel: only for its creator, root
 * and the daemon's user, else -EPERM. -ECONNREFUSED and more: the daemon is gone. */
int relay_close(relay_chan *chan);

/* Writing. A record is at most one sub-buffer; 0 bytes are a record, too. Results:
 *
 *   0          written: readers see it
 *   -ENOBUFS   full: there is no sub-buffer that may be used
 *   -EMSGSIZE  longer than a sub-buffer
 *   -EPIPE     closed
 *   -ENOTCONN  no daemon serves the channel, and none is found that would (relay_attach)
 *   -EIO       another process of this channel damaged the shared memory
 *   -EBUSY     records that this process reserved and has not ended hold all sub-buffers but two,
 *              which are left to the other processes: end some. Daemon channels of 4 to 1024
 *              sub-buffers
 *
 * All refusals but -EPIPE are counted (relay_statistics), -EBUSY as -ENOBUFS, -ENOTCONN as
 * lost_restart. Never waits for a reader or for another writer, and for a daemon only as
 * relay_attach says; only a channel with subbuf_start takes a lock. errno is left alone. */

/* Copies one record: one locked instruction and the copy; no system call unless a reader waits to
 * be told, or the daemon is gone. Async-signal-safe: a handler that interrupts any of these
 * functions may call it; but not on channels with subbuf_start, and not as a forked child's first
 * call. */
int relay_write(relay_chan *chan, const void *data, size_t length);

/* One record gathered from `count` pieces. Safe and cheap as relay_write. */
int relay_writev(relay_chan *chan, const struct iovec *pieces, int count);

/* As relay_write, but sleeps while the channel is full, for at most timeout_ms (negative: without
 * limit). -ENOBUFS then is not counted: try again, or lose it with relay_write, which counts. Comes
 * back early with it if the daemon has been gone for 5 s: nobody makes room. Not for handlers. */
int relay_write_wait(relay_chan *chan, const void *data, size_t length, int timeout_ms);

/* Space for a record of `length` bytes that the caller fills, then ends by relay_commit or
 * relay_cancel, soon: readers wait at a record that is neither. Those of a daemon's channel pass it
 * for good after its stall_timeout (1 s unless configured), and its sub-buffer is not used again
 * before it is ended. NULL, and errno is
 * one of the above as a positive number. Safe and cheap as relay_write. Any thread of this process
 * may end it. */
void *relay_reserve(relay_chan *chan, size_t length, relay_reservation *reservation);

/* Makes the record visible. One store. Does nothing for a reservation that failed or has ended.
 * Async-signal-safe. */
void relay_commit(relay_reservation *reservation);

/* Gives the record up: readers skip its space. As relay_commit. */
void relay_cancel(relay_reservation *reservation);

/* One record of text, without the terminating zero: what printf would print, cut after
 * RELAY_PRINTF_MAX bytes. Results as relay_write; -EINVAL for a format that printf refuses. Costs
 * the formatting, on the stack, and is as safe for handlers as snprintf is: rather not. */
#define RELAY_PRINTF_MAX 1024
int relay_printf(relay_chan *chan, const char *format, ...) __attribute__((format(printf, 2, 3)));
int relay_vprintf(relay_chan *chan, const char *format, va_list arguments)
    __attribute__((format(printf, 2, 0)));

/* The whole channel. */

/* Puts the data of each buffer that holds any into a sub-buffer of its own, so that consumers of
 * whole sub-buffers get it. 0, -ENOBUFS (closed to writers, but no free one to move to), -EPIPE,
 * -EIO. Costs one switch for each buffer. */
int relay_flush(relay_chan *chan);

/* Forgets all data and counts. Safe while others write. subbuf_start is called again without a
 * previous sub-buffer, at once, or, where reservations are open in all, before the next record. A
 * daemon's channel: as relay_close, -EPERM; one request to the daemon, which gives the channel
 * fresh memory where a process damaged what it has, or left no room in it: writers move over with
 * their next records, what is reserved then goes nowhere. -EIO, -ENOMEM or the like: it cannot. */
int relay_reset(relay_chan *chan);

/* The highest CPU that has a buffer, plus 1; 1 for a global channel; 0 for NULL. Can grow: a
 * daemon's channel when a CPU comes up, an own one in this call, which gives the CPUs that came up
 * since the last one their buffers and files. Where create_buf_file fails the next call tries
 * again. Records of a CPU without a buffer go into that of the lowest CPU which has one. */
unsigned relay_buffers(relay_chan *chan);

/* The buffer of a CPU, valid as long as chan; NULL for a hole. Cheap. */
relay_buf *relay_buffer(relay_chan *chan, unsigned cpu);

/* relay_open's private_data; NULL for a daemon's channel. */
void *relay_private(relay_chan *chan);

/* One buffer. Those marked "own channels" return -EOPNOTSUPP for a daemon's. */

/* Leaves the current sub-buffer, also an empty one, for one with room for `length` bytes. Returns
 * length, or 0 where that cannot be: longer than a sub-buffer (counted), full, or closed. */
size_t relay_switch_subbuf(relay_buf *buf, size_t length);

/* Only from inside subbuf_start: the first `length` bytes of the sub-buffer that is being started
 * are the caller's; each further call adds `length` bytes; in all at most a sub-buffer. Readers get
 * them with the data, as one record; the whole sub-buffer becomes readable once the next
 * subbuf_start has returned, which may still write to them, or by relay_flush, or relay_close.
 * Elsewhere it does nothing. */
void relay_subbuf_start_reserve(relay_buf *buf, size_t length);

/* 1 if all sub-buffers hold data that no reader is done with, and a switch would be refused or
 * overwrite; else 0. 1 if no sub-buffer that writers have left waits for a reader; else 0. Cheap
 * looks at a moment that may be over. */
int relay_buf_full(relay_buf *buf);
int relay_buf_empty(relay_buf *buf);

/* Own channels. The reader is done with the n sub-buffers that come next, without relay_read: for
 * consumers that know them from subbuf_start. What relay_read has left of one is one. Takes no more
 * than writers have left when it is called, and ends before one in which a record is reserved and
 * neither committed nor cancelled: nothing of that one is consumed. Returns 0 however many it took;
 * relay_statistics counts them. Records lost before them are told with the next record read. */
int relay_subbufs_consumed(relay_chan *chan, unsigned cpu, size_t n);

/* Own channels. What read(2) on a device would give: committed bytes in order, across sub-buffers,
 * without padding, also from one that is not full; consumed by this. At most `size`; or less than
 * there is: 64 pieces, and with RELAY_OVERWRITE n_subbufs - 3 sub-buffers, but one at least. May
 * end inside a record, the rest comes first next time. 0: nothing now, or closed and drained
 * (relay_poll tells). -EIO: damaged. One copy; readers of one buffer take turns. */
ssize_t relay_read(relay_buf *buf, void *data, size_t size);

/* What is known about a record beside its bytes. */
struct relay_record {
  uint64_t sequence;         /* its number in its buffer, from 0; records that are missing between
                              * two were lost, cancelled or aborted */
  uint64_t time;             /* when it was reserved, in nanoseconds of CLOCK_MONOTONIC; never less
                              * than the one before's; 0 without RELAY_TIMESTAMPS */
  uint64_t lost_full;        /* records lost right before it, by cause as in relay_stat */
  uint64_t lost_overwritten;
  uint64_t lost_stalled;
  uint64_t lost_restart;
};

/* Own channels. One whole record, consumed by this: its length, which may be 0, its bytes in data,
 * and the first record_size bytes (sizeof(struct relay_record); 0: not wanted) of what is known
 * about it in record. -EAGAIN: nothing now. -EPIPE: closed and drained. -EMSGSIZE: it is longer
 * than size, and stays; a sub-buffer's length is always enough. -EIO: damaged. May be mixed with
 * relay_read, which passes empty records; what is left of a record that relay_read has begun
 * comes first, with that record's sequence. */
ssize_t relay_read_record(relay_buf *buf, void *data, size_t size, struct relay_record *record,
                          size_t record_size);

/* Own channels. POLLIN | POLLRDNORM while relay_read would return data (with RELAY_TIMESTAMPS, or
 * after the first relay_read_record: while that would return a record), POLLHUP once closed,
 * POLLERR damaged, 0 otherwise; POLLNVAL for a daemon's channel. */
short relay_poll(relay_buf *buf);

/* Own channels. A descriptor that poll(2) says is readable when relay_poll would say POLLIN or
 * POLLHUP; at times also when there is nothing, until relay_read or relay_poll is called. The
 * library's: do not read or close it. -EMFILE; -EBADF: the program has closed it. */
int relay_poll_fd(relay_buf *buf);

/* Since the channel's start or the last reset. Exact while nobody is in the middle of a record. */
struct relay_stat {
  uint64_t subbufs_produced; /* left by writers */
  uint64_t subbufs_consumed; /* passed by readers */
  uint64_t records_written;  /* == read + not yet read + lost_overwritten + lost_stalled */
  uint64_t records_read;
  uint64_t bytes_written;    /* reserved, records cancelled later included */
  uint64_t bytes_read;
  uint64_t padding;          /* bytes left empty at the ends of sub-buffers */
  uint64_t lost_full;        /* refused: -ENOBUFS, -EBUSY */
  uint64_t lost_too_big;     /* refused: -EMSGSIZE */
  uint64_t lost_overwritten; /* overwritten before they were read */
  uint64_t lost_stalled;     /* passed because their writer had stopped */
  uint64_t lost_restart;     /* lost when the daemon was restarted, or refused: -ENOTCONN */
  uint64_t aborted;          /* being written when their writer died */
  uint64_t cancelled;        /* given up by their writer */
  uint64_t backlog_max;      /* the most sub-buffers at one moment that writers had left and readers
                              * not passed; as many as there are: the buffer was full */
};

/* Stores the first `size` bytes (sizeof(struct relay_stat)) of a buffer's account; what a newer
 * caller knows beyond this library is 0. A daemon's channel: requests to the daemon, whose errors
 * are relay_attach's. While no daemon serves it, this process's own view: nothing of what was read
 * or overwritten, and counts since the memory began. lost_restart holds this process's refused
 * records, too, that no daemon knows of yet. Costs a look at every record that is not yet read. */
int relay_statistics(relay_buf *buf, struct relay_stat *stat, size_t size);

#ifdef __cplusplus
}
#endif

#include "relay_map.h" /* mapped consumers */

#endif
