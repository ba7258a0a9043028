// SPDX-License-Identifier: Apache-2.0
// librelay: buffers that are read where they lie. Part of relay.h, which includes it and says what
// holds for all functions.
#ifndef RELAY_MAP_H
#define RELAY_MAP_H

#include "relay.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Mapped consumers: a daemon's buffer read where it lies, without a copy. This process gets the
 * channel's memory for reading only, and no chan. It is handed out sub-buffers in order, which are
 * never torn or overwritten meanwhile, and reports those it is done with; writers get their room
 * then. One buffer has one consumer, and no file of it is open beside it (EBUSY).
 *
 * Whoever keeps what it was handed out for longer than the channel's consumer_timeout (5 s unless
 * configured), or leaves relay_map_fd readable for as long, stands aside: what is in hand is given
 * back, and files, or another consumer, may have the buffer. That descriptor is readable, too, when
 * others were refused the buffer: relay_map_next, though it may say -EAGAIN, shows that its
 * consumer is alive. The next call returns -ESTALE if anything was in hand: other bytes may stand
 * there by then, so do not trust what was read of it since. relay_map_next goes on, or returns
 * -EBUSY while others have the buffer, or have a first claim to it: for 10 s where another user was
 * refused it meanwhile. A consumer that was evicted (relayctl readers --evict) gets the same
 * results, and others always have the first claim then. A relay_reset gives back what is in hand,
 * too.
 *
 * relay_unmap, the end of the process, and its death give back what was not reported: nothing is
 * lost. A daemon that ends for good closes its channels and lets consumers take what is left, as
 * long as they do so within 10 s and without a pause of half a second. When it is gone, calls
 * return -ECONNRESET: map again, and what was not reported comes again, if there is a next daemon
 * that goes on with it. A mapping is used by one thread at a time, and not in a forked child. */
typedef struct relay_mapping relay_mapping;

#define RELAY_MAP_UNFINISHED 1u /* also what is committed in the sub-buffer that writers are in */

/* Maps the buffer of a CPU (0 for a global channel). socket_path as in relay_attach. Who may read
 * the buffer's file may map it. Keeps three descriptors and the memory. errno: ENOENT no such
 * channel or buffer; EBUSY its file is open, or it is mapped, or this user lost it a moment ago;
 * EDQUOT this user has too many readers; EPERM its readers are others; ENXIO
 * it is not served yet; EOPNOTSUPP mode = "overwrite" with two sub-buffers, of which writers need
 * one beside what is in hand; EMFILE; EINVAL flags; and relay_attach's for the connection. */
relay_mapping *relay_map(const char *socket_path, const char *channel, unsigned cpu,
                         unsigned flags);

/* Own channels. The same for a buffer of this process's, which is read where it lies: nobody reads
 * it otherwise meanwhile (-EBUSY, relay_poll POLLERR). There is no time-out. relay_unmap comes
 * before relay_detach. With subbuf_start and two sub-buffers, records are refused while one is in
 * hand. errno: EBUSY it is mapped; EOPNOTSUPP a daemon's, or RELAY_OVERWRITE with two sub-buffers;
 * EDEADLK from inside subbuf_start; EINVAL. */
relay_mapping *relay_map_buffer(relay_buf *buf, unsigned flags);

#define RELAY_SUBBUF_LAST 1u /* nothing more comes of this sub-buffer */
#define RELAY_SUBBUF_REST 2u /* the rest of a record of which a file's reader got the beginning */

/* A part of a sub-buffer: all that is committed in it, in most cases. Comes in several parts where
 * more than 64 pieces, a record that is being written, or RELAY_MAP_UNFINISHED divide it. */
struct relay_subbuf {
  uint64_t seq;           /* the sub-buffer's number, from 1 */
  uint64_t first_record;  /* the number of the first record in it, as relay_record's sequence */
  uint64_t records;       /* that end in it */
  uint64_t bytes;         /* in all pieces */
  uint64_t lost_full;     /* records lost right before it, by cause as in relay_stat */
  uint64_t lost_overwritten;
  uint64_t lost_stalled;
  uint64_t lost_restart;
  uint64_t produced;      /* sub-buffers left by writers, and consumed, when it was handed out */
  uint64_t consumed;
  const struct iovec *pieces; /* where its bytes are: whole records, one behind the other. Valid,
                               * and unchanged, until reported as consumed. Not to be written */
  uint32_t n_pieces;      /* one for each run of records that no cancelled one divides */
  uint32_t index;         /* which sub-buffer of the buffer it is */
  uint32_t padding;       /* bytes left empty at its end; with RELAY_SUBBUF_LAST */
  uint32_t flags;
};

/* Hands out what comes next, after all that was handed out before: 0, and the first `size` bytes
 * (sizeof(struct relay_subbuf)) of what is known about it. -EAGAIN: nothing now. -EPIPE: closed and
 * drained. -ESTALE, -EBUSY: as said above. -ENOBUFS: too much is in hand (64 parts; in overwrite
 * mode parts of n_subbufs - 3 sub-buffers, but of one at least); report some. -ENOENT:
 * closed and gone, or a reset replaced its memory: map again. -EIO: damaged. -ECONNRESET: the
 * daemon is gone. -ETIMEDOUT, -EPROTO: as relay_attach. -EDEADLK: from inside subbuf_start. One
 * request to the daemon, of some 20 us; in an own channel a lock. */
int relay_map_next(relay_mapping *map, struct relay_subbuf *subbuf, size_t size);

/* The first n of the parts in hand are not needed any more. -EINVAL: so many are not in hand, and
 * nothing is changed. Else as relay_map_next. */
int relay_map_consumed(relay_mapping *map, size_t n);

/* A descriptor that poll(2) says is readable when relay_map_next would return something, when
 * others were refused the buffer, or when the daemon is gone; at times also when there is nothing,
 * until relay_map_next is called. The library's: do not read or close it. -EBADF: the program has
 * closed it, or what it watches. */
int relay_map_fd(relay_mapping *map);

/* Gives the buffer up, and frees map; what it handed out is not there any more. From inside
 * subbuf_start others have it once that has returned. NULL does nothing. */
void relay_unmap(relay_mapping *map);

#ifdef __cplusplus
}
#endif

#endif
