// SPDX-License-Identifier: Apache-2.0
// libfuse3's low-level API as Swift sees it: opaque sessions and requests, plain C types, no
// macros. Functions that can fail return 0 or more, or -errno. One thread at a time per session;
// every request that a callback gets must be answered exactly once, on the session's thread: by the
// callback itself, or later if it was parked.
#ifndef CFUSE_H
#define CFUSE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct cfuse_session cfuse_session;
typedef struct cfuse_request cfuse_request;
// A reader's wish to be told when a file becomes ready; owned by who got it.
typedef struct cfuse_poll cfuse_poll;

// What the kernel asks. `node` is the inode number; 0 for a character device. `handle` is what
// open was answered with.
struct cfuse_callbacks {
  void (*open)(void *context, cfuse_request *, uint64_t node, int flags);
  // offset > 0: the continuation of a read(2) that is longer than a request; never park it.
  // flags: those of the open file now, O_NONBLOCK among them.
  void (*read)(
      void *context, cfuse_request *, uint64_t handle, size_t size, uint64_t offset, int flags);
  // offset > 0: the continuation of a write(2) that took more than a request; or, on a file of a
  // mount that is open with O_APPEND, nothing. The bytes are there until the callback returns.
  void (*write)(
      void *context, cfuse_request *, uint64_t handle, const void *bytes, size_t size,
      uint64_t offset, int flags);
  // Who waits for a parked request got a signal: answer it now.
  void (*interrupted)(void *context, cfuse_request *, uint64_t handle);
  // poll is NULL when nobody waits; events are those that are asked for.
  void (*poll)(
      void *context, cfuse_request *, uint64_t handle, cfuse_poll *poll, uint32_t events);
  void (*release)(void *context, cfuse_request *, uint64_t handle);
  // A restricted ioctl(2): the command's own direction and size say what comes with it, and how
  // much the answer may have.
  void (*control)(
      void *context, cfuse_request *, uint64_t handle, uint32_t command, const void *input,
      size_t input_size, size_t output_size);
  // File systems only.
  void (*lookup)(void *context, cfuse_request *, uint64_t parent, const char *name);
  void (*attributes)(void *context, cfuse_request *, uint64_t node);
  void (*list)(void *context, cfuse_request *, uint64_t node, size_t size, uint64_t offset);
};

// libfuse's own messages, whole lines.
void cfuse_set_log(void (*log)(const char *message));

// A character device /dev/NAME over an open /dev/cuse. Takes the descriptor, on failure too.
// major 0: a new one. Registration happens while the first request is processed.
int cfuse_device_new(
    int cuse, const char *name, unsigned major, unsigned minor, const struct cfuse_callbacks *,
    void *context, cfuse_session **session);
// A file system of type fuse.relayfs, mounted on a directory; for_others: not for this user alone.
int cfuse_mount_new(
    const char *mountpoint, int for_others, const struct cfuse_callbacks *, void *context,
    cfuse_session **session);
// 1 if the directory is in a FUSE file system, 0 if in another one, -errno.
int cfuse_is_fuse(const char *path);
// Ends the session, unmounts, closes its descriptor.
void cfuse_session_destroy(cfuse_session *);
// The mount is not at its place any more: destroying the session leaves alone what is there.
void cfuse_session_forget_mount(cfuse_session *);
int cfuse_session_fd(cfuse_session *);

enum cfuse_step { CFUSE_NOTHING, CFUSE_PROCESSED, CFUSE_ENDED };
// Receives and processes one request, if there is one. Sessions of one thread share its buffer,
// which the first one sizes: don't mix devices and mounts on a thread.
enum cfuse_step cfuse_session_step(cfuse_session *);

// The user and the thread who ask; pid 0: it has no number in this pid namespace.
uint32_t cfuse_uid(cfuse_request *);
int32_t cfuse_pid(cfuse_request *);

// Lets a read or write of an open file wait for its answer. 0, or -EINTR when who asked got a
// signal already: answer it.
int cfuse_park(cfuse_request *, uint64_t handle);

void cfuse_reply_error(cfuse_request *, int code);
// A file of a device, and one of a mount: direct I/O, a stream without a position.
int cfuse_reply_open_device(cfuse_request *, uint64_t handle);
int cfuse_reply_open_file(cfuse_request *, uint64_t handle);
// 0 when the kernel took the bytes, -ENOENT when the reader is gone.
int cfuse_reply_vectors(cfuse_request *, const struct iovec *, size_t count);
void cfuse_reply_written(cfuse_request *, size_t count);
int cfuse_reply_poll(cfuse_request *, unsigned events);
// An ioctl that succeeds; size is 0, or the answer's.
int cfuse_reply_control(cfuse_request *, const void *output, size_t size);
struct cfuse_attributes {
  uint64_t node;
  uint32_t mode;
  uint32_t uid;
  uint32_t gid;
  int64_t time;  // of the last change, seconds since 1970
};
int cfuse_reply_attributes(cfuse_request *, const struct cfuse_attributes *);
// node: what the kernel is to know it by; requests of another one are of another file to it.
int cfuse_reply_entry(cfuse_request *, uint64_t node, const struct cfuse_attributes *);
// Appends a directory entry to bytes[0, size) and returns the bytes it needs: more than size means
// that it did not fit.
size_t cfuse_directory_entry(
    cfuse_request *, void *bytes, size_t size, const char *name, const struct cfuse_attributes *,
    uint64_t next_offset);

void cfuse_poll_notify(cfuse_poll *);
void cfuse_poll_destroy(cfuse_poll *);

#endif
