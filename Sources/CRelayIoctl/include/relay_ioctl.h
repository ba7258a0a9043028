// SPDX-License-Identifier: Apache-2.0
// What programs that have only the device (or relayfs file) of a channel buffer can ask of it by
// ioctl(2), and what a record-wise read(2) returns. Needs no library. See relay(4).
//
// Whoever has the file open may use all of these. "This file" is one open file description: what
// open(2) returned, and its copies made by dup(2) and fork(2).
//
// All fail with EFAULT where the argument points nowhere, ENOTTY for a command that the device does
// not know, ENOTCONN when its relayd is gone.
#ifndef RELAY_IOCTL_H
#define RELAY_IOCTL_H

#include <stdint.h>
#include <sys/ioctl.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RELAY_CHANNEL_MAX 256 /* bytes of a channel's name, the terminating zero included */

#define RELAY_GEOMETRY_OVERWRITE 1u  /* full: the oldest is overwritten; else writers are refused */
#define RELAY_GEOMETRY_GLOBAL 2u     /* the channel's only buffer, for all CPUs */
#define RELAY_GEOMETRY_TIMESTAMPS 4u /* each record has its time */
#define RELAY_GEOMETRY_BLOCKING 8u   /* reads wait unless RELAY_IOC_BLOCK says otherwise */
#define RELAY_GEOMETRY_SUBBUFFER 16u /* who waits is told of whole sub-buffers only */
#define RELAY_GEOMETRY_ENDING 32u    /* relayd ends, and the channel is closed for that only: the
                                      * next relayd may have it again */

struct relay_geometry {
  uint32_t size; /* of this structure, as relayd knows it */
  uint32_t flags;
  uint32_t subbuf_size; /* bytes */
  uint32_t n_subbufs;
  uint32_t cpu; /* whose buffer this is; 0 for a global one */
  uint32_t reserved;
  uint64_t incarnation; /* of the memory: record numbers mean something within one only */
  char channel[RELAY_CHANNEL_MAX];
};

/* The account of this buffer since the channel's start or the last reset. Exact while nobody is in
 * the middle of a record. Asking moves nothing, and costs the same however much is unread. */
struct relay_buffer_statistics {
  uint64_t subbufs_produced; /* left by writers */
  uint64_t subbufs_consumed; /* passed by readers */
  uint64_t records_written;  /* == read + unread + lost_overwritten + lost_stalled */
  uint64_t records_read;
  uint64_t bytes_written;    /* reserved, records cancelled later included */
  uint64_t bytes_read;
  uint64_t padding;          /* bytes left empty at the ends of sub-buffers */
  uint64_t lost_full;        /* refused: no sub-buffer was free */
  uint64_t lost_too_big;     /* refused: longer than a sub-buffer */
  uint64_t lost_overwritten; /* overwritten before they were read */
  uint64_t lost_stalled;     /* passed because their writer had stopped */
  uint64_t lost_restart;     /* lost when relayd was restarted */
  uint64_t aborted;          /* being written when their writer died */
  uint64_t cancelled;        /* given up by their writer */
  uint64_t records_unread;   /* where some were overwritten, with records given up since then: which
                              * of the two became of those is not known before readers pass them */
  uint64_t bytes_unread;     /* reserved and not passed: those of records given up included */
  uint64_t corrupt;          /* damage found in the buffer's memory */
  uint64_t backlog_max;      /* the most sub-buffers at one moment that writers had left and readers
                              * not passed; as many as there are: the buffer was full */
};

#define RELAY_IOC_GEOMETRY _IOR('r', 0x60, struct relay_geometry)
#define RELAY_IOC_STATISTICS _IOR('r', 0x61, struct relay_buffer_statistics)

/* Puts what the buffer holds into a sub-buffer of its own, so that who waits for whole sub-buffers
 * gets it. ENOBUFS: there is no free one to move to (what it holds can be read all the same);
 * EPIPE: the channel is closed; EIO: damaged. */
#define RELAY_IOC_FLUSH _IO('r', 0x62)

/* Whether reads of this file wait while there is nothing: 1 yes, 0 no, they return 0; -1 as the
 * channel has it. EINVAL: another value. */
#define RELAY_IOC_BLOCK _IOW('r', 0x63, int)

/* This file is the buffer's only reader from now on: reads of other files fail with EBUSY, as open
 * for reading does; their poll says POLLERR. Ends with RELAY_IOC_NXCL by this file, or its close.
 * EBUSY: another file has it, or relayd took it from this user a moment ago. O_EXCL does not reach
 * a device. */
#define RELAY_IOC_EXCL _IO('r', 0x64)
#define RELAY_IOC_NXCL _IO('r', 0x65)

/* 1: reads of this file consume nothing; it has a cursor of its own, which starts where the shared
 * one is. What is consumed or overwritten before it comes there, it misses. 0: back to the shared
 * cursor. EINVAL: another value. */
#define RELAY_IOC_PEEK _IOW('r', 0x66, int)

/* 1: reads of this file return frames; 0: bytes. EINVAL: another value. */
#define RELAY_IOC_FRAMES _IOW('r', 0x67, int)

/* A read of frames returns as many whole ones as fit: this header, `length` bytes of payload, and
 * zero bytes up to the next multiple of 8. EINVAL where not even RELAY_FRAME_MIN bytes are asked
 * for. Other reads of the same cursor may take frames in between, but each goes to one of them. */
struct relay_frame {
  uint32_t size;     /* of this header, which may grow: payload begins there */
  uint32_t type;     /* skip those you do not know */
  uint64_t sequence; /* the record's number in this buffer and incarnation. Numbers ascend; those of
                      * records that were given up or lost are missing. A loss: the first number
                      * that comes after it */
  uint64_t time;     /* when the record was reserved, CLOCK_MONOTONIC in ns; 0: no timestamps */
  uint32_t length;   /* payload bytes in this frame */
  uint32_t offset;   /* where in the record they stand: not 0 where it comes in several frames,
                      * because a read of its own cannot take it, or a reader of bytes took the
                      * beginning */
  uint32_t record_length; /* of the whole record: it ends where offset + length is this */
  uint32_t reserved;
};

#define RELAY_FRAME_RECORD 1u
#define RELAY_FRAME_LOST 2u /* records are missing here; the payload is a struct relay_loss */

/* Missing at one place, by cause. A file that peeks counts under `overwritten` also what others
 * consumed. */
struct relay_loss {
  uint64_t overwritten; /* before they were read; cancelled records among them included */
  uint64_t full;        /* refused, until the next sub-buffer was begun */
  uint64_t stalled;     /* passed because their writer had stopped */
  uint64_t restart;     /* written into memory that a restarted relayd did not go on with */
  /* How many of these two causes were told before this frame, in this incarnation: by that a reader
   * knows a loss that comes again, because relayd died while it told it. Left out (length is 32) by
   * relayd 0.1, and where the read has no room for them. */
  uint64_t full_before;
  uint64_t restart_before;
};

/* The frame of a loss without the last two. */
#define RELAY_FRAME_MIN (sizeof(struct relay_frame) + 32)

#ifdef __cplusplus
}
#endif

#endif
