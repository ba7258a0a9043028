// SPDX-License-Identifier: Apache-2.0
// The shim over libfuse3's low-level and CUSE interfaces; all of its types and macros stay here.
#define FUSE_USE_VERSION 314

#include "cfuse.h"
#include "refuse.h"

#include <errno.h>
#include <fcntl.h>
#include <fuse3/cuse_lowlevel.h>
#include <fuse3/fuse_lowlevel.h>
#include <fuse3/fuse_opt.h>
#include <linux/fuse.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

struct cfuse_session {
  struct fuse_session *se;
  struct cfuse_callbacks callbacks;
  void *context;
  // A parked request whose reader got a signal during this step, and its file.
  fuse_req_t interrupted;
  uint64_t interrupted_handle;
  int is_mounted;
};

// libfuse allocates its memory at the first use; a thread's sessions take turns with it.
static _Thread_local struct fuse_buf thread_buffer;

static struct cfuse_session *session_of(fuse_req_t req) { return fuse_req_userdata(req); }
static cfuse_request *opaque(fuse_req_t req) { return (cfuse_request *)req; }
static fuse_req_t request(cfuse_request *req) { return (fuse_req_t)req; }

static void (*log_callback)(const char *message);

static void forward_log(enum fuse_log_level level, const char *format, va_list arguments) {
  (void)level;
  char line[512];
  vsnprintf(line, sizeof line, format, arguments);
  line[strcspn(line, "\n")] = 0;
  if (log_callback && line[0]) log_callback(line);
}

void cfuse_set_log(void (*log)(const char *message)) {
  log_callback = log;
  fuse_set_log_func(forward_log);
}

// What the kernel asks, in either form.

static void on_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi) {
  struct cfuse_session *s = session_of(req);
  s->callbacks.open(s->context, opaque(req), node, fi->flags);
}

static void on_read(
    fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *fi) {
  (void)node;
  struct cfuse_session *s = session_of(req);
  s->callbacks.read(s->context, opaque(req), fi->fh, size, (uint64_t)offset, fi->flags);
}

// A read of a mount's file. Once a write has raised the inode's size, the kernel's page cache asks,
// too: for splice(2), sendfile(2), copy_file_range(2) and private mappings. It asks ahead, keeps
// what it got and repeats it, so it gets nothing. A read(2) of direct I/O names its caller as the
// lock owner, the page cache names none.
static void on_file_read(
    fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *fi) {
  if (fi->lock_owner == 0) {
    fuse_reply_err(req, EINVAL);
  } else {
    on_read(req, node, size, offset, fi);
  }
}

static void on_write(
    fuse_req_t req, fuse_ino_t node, const char *bytes, size_t size, off_t offset,
    struct fuse_file_info *fi) {
  (void)node;
  struct cfuse_session *s = session_of(req);
  s->callbacks.write(
      s->context, opaque(req), fi->fh, bytes, size, (uint64_t)offset, fi->flags);
}

static void on_poll(
    fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi, struct fuse_pollhandle *ph) {
  (void)node;
  struct cfuse_session *s = session_of(req);
  s->callbacks.poll(s->context, opaque(req), fi->fh, (cfuse_poll *)ph, fi->poll_events);
}

static void on_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi) {
  (void)node;
  struct cfuse_session *s = session_of(req);
  s->callbacks.release(s->context, opaque(req), fi->fh);
}

static void on_ioctl(
    fuse_req_t req, fuse_ino_t node, unsigned command, void *argument, struct fuse_file_info *fi,
    unsigned flags, const void *input, size_t input_size, size_t output_size) {
  (void)node, (void)argument;
  struct cfuse_session *s = session_of(req);
  // A directory has no handle.
  if (flags & FUSE_IOCTL_DIR) {
    fuse_reply_err(req, ENOTTY);
  } else {
    s->callbacks.control(
        s->context, opaque(req), fi->fh, command, input, input_size, output_size);
  }
}

static void on_device_open(fuse_req_t req, struct fuse_file_info *fi) { on_open(req, 0, fi); }

static void on_device_read(fuse_req_t req, size_t size, off_t offset, struct fuse_file_info *fi) {
  on_read(req, 0, size, offset, fi);
}

static void on_device_write(
    fuse_req_t req, const char *bytes, size_t size, off_t offset, struct fuse_file_info *fi) {
  on_write(req, 0, bytes, size, offset, fi);
}

static void on_device_poll(
    fuse_req_t req, struct fuse_file_info *fi, struct fuse_pollhandle *ph) {
  on_poll(req, 0, fi, ph);
}

static void on_device_release(fuse_req_t req, struct fuse_file_info *fi) {
  on_release(req, 0, fi);
}

static void on_device_ioctl(
    fuse_req_t req, int command, void *argument, struct fuse_file_info *fi, unsigned flags,
    const void *input, size_t input_size, size_t output_size) {
  on_ioctl(req, 0, (unsigned)command, argument, fi, flags, input, input_size, output_size);
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *name) {
  struct cfuse_session *s = session_of(req);
  s->callbacks.lookup(s->context, opaque(req), parent, name);
}

static void on_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi) {
  (void)fi;
  struct cfuse_session *s = session_of(req);
  s->callbacks.attributes(s->context, opaque(req), node);
}

static void on_readdir(
    fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *fi) {
  (void)fi;
  struct cfuse_session *s = session_of(req);
  s->callbacks.list(s->context, opaque(req), node, size, (uint64_t)offset);
}

// Sessions.

static ssize_t write_channel(int fd, struct iovec *vectors, int count, void *context) {
  (void)context;
  return writev(fd, vectors, count);
}

static ssize_t read_channel(int fd, void *bytes, size_t size, void *context) {
  (void)context;
  return read(fd, bytes, size);
}

static cfuse_session *new_session(const struct cfuse_callbacks *callbacks, void *context) {
  cfuse_session *s = calloc(1, sizeof *s);
  if (s) {
    s->callbacks = *callbacks;
    s->context = context;
  }
  return s;
}

int cfuse_device_new(
    int cuse, const char *name, unsigned major, unsigned minor,
    const struct cfuse_callbacks *callbacks, void *context, cfuse_session **session) {
  static const struct cuse_lowlevel_ops operations = {
      .open = on_device_open,
      .read = on_device_read,
      .write = on_device_write,
      .poll = on_device_poll,
      .release = on_device_release,
      .ioctl = on_device_ioctl,
  };
  static const struct fuse_custom_io io = {.writev = write_channel, .read = read_channel};
  char device[300];
  const char *information[] = {device};
  char program[] = "relayd";
  char *arguments[] = {program, NULL};
  struct fuse_args args = FUSE_ARGS_INIT(1, arguments);
  struct cuse_info info = {
      .dev_major = major, .dev_minor = minor, .dev_info_argc = 1, .dev_info_argv = information};
  cfuse_session *s = new_session(callbacks, context);
  int code = -ENOMEM;

  if (snprintf(device, sizeof device, "DEVNAME=%s", name) >= (int)sizeof device) {
    code = -ENAMETOOLONG;
  } else if (s && (s->se = cuse_lowlevel_new(&args, &info, &operations, s))) {
    code = fuse_session_custom_io(s->se, &io, cuse);
    if (code == 0) {
      *session = s;
      return 0;
    }
    fuse_session_destroy(s->se);
    if (code > 0) code = -code;
  }
  free(s);
  close(cuse);
  return code;
}

int cfuse_mount_new(
    const char *mountpoint, int for_others, const struct cfuse_callbacks *callbacks, void *context,
    cfuse_session **session) {
  static const struct fuse_lowlevel_ops operations = {
      .lookup = on_lookup,
      .setattr = refuse_setattr,
      .mknod = refuse_mknod,
      .mkdir = refuse_mkdir,
      .unlink = refuse_name,
      .rmdir = refuse_name,
      .symlink = refuse_symlink,
      .rename = refuse_rename,
      .link = refuse_link,
      .create = refuse_create,
      .getattr = on_getattr,
      .readdir = on_readdir,
      .open = on_open,
      .read = on_file_read,
      .write = on_write,
      .poll = on_poll,
      .release = on_release,
      .ioctl = on_ioctl,
  };
  char program[] = "relayd";
  char option[] = "-o";
  // Other users' access is decided by owner and mode, in the kernel.
  char shared[] = "fsname=relayd,subtype=relayfs,default_permissions,allow_other";
  char plain[] = "fsname=relayd,subtype=relayfs,default_permissions";
  char *arguments[] = {program, option, for_others ? shared : plain, NULL};
  struct fuse_args args = FUSE_ARGS_INIT(3, arguments);
  cfuse_session *s = new_session(callbacks, context);
  if (!s) return -ENOMEM;
  s->se = fuse_session_new(&args, &operations, sizeof operations, s);
  if (!s->se) {
    free(s);
    return -ENOMEM;
  }
  errno = 0;
  if (fuse_session_mount(s->se, mountpoint) != 0) {
    int code = errno ? -errno : -EIO;
    fuse_session_destroy(s->se);
    free(s);
    return code;
  }
  s->is_mounted = 1;
  int fd = fuse_session_fd(s->se);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
  *session = s;
  return 0;
}

int cfuse_is_fuse(const char *path) {
  struct statfs file_system;
  if (statfs(path, &file_system) != 0) return -errno;
  return file_system.f_type == FUSE_SUPER_MAGIC;
}

void cfuse_session_destroy(cfuse_session *s) {
  if (s->is_mounted) fuse_session_unmount(s->se);
  fuse_session_destroy(s->se);
  free(s);
}

void cfuse_session_forget_mount(cfuse_session *s) { s->is_mounted = 0; }

int cfuse_session_fd(cfuse_session *s) { return fuse_session_fd(s->se); }

enum cfuse_step cfuse_session_step(cfuse_session *s) {
  int count = fuse_session_receive_buf(s->se, &thread_buffer);
  if (count == -EAGAIN || count == -EINTR) return CFUSE_NOTHING;
  if (count <= 0) return CFUSE_ENDED;
  fuse_session_process_buf(s->se, &thread_buffer);
  // Only now: libfuse holds the request's lock while it reports the interrupt.
  if (s->interrupted) {
    cfuse_request *req = opaque(s->interrupted);
    s->interrupted = NULL;
    s->callbacks.interrupted(s->context, req, s->interrupted_handle);
  }
  return fuse_session_exited(s->se) ? CFUSE_ENDED : CFUSE_PROCESSED;
}

uint32_t cfuse_uid(cfuse_request *req) { return fuse_req_ctx(request(req))->uid; }

int32_t cfuse_pid(cfuse_request *req) { return fuse_req_ctx(request(req))->pid; }

static void note_interrupt(fuse_req_t req, void *handle) {
  struct cfuse_session *s = session_of(req);
  s->interrupted = req;
  s->interrupted_handle = (uintptr_t)handle;
}

int cfuse_park(cfuse_request *req, uint64_t handle) {
  // Asked first: registering would report an interrupt that came before from inside itself.
  if (fuse_req_interrupted(request(req))) return -EINTR;
  fuse_req_interrupt_func(request(req), note_interrupt, (void *)(uintptr_t)handle);
  return 0;
}

// Replies.

void cfuse_reply_error(cfuse_request *req, int code) { fuse_reply_err(request(req), code); }

int cfuse_reply_open_device(cfuse_request *req, uint64_t handle) {
  struct fuse_file_info fi = {.fh = handle};
  return fuse_reply_open(request(req), &fi);
}

int cfuse_reply_open_file(cfuse_request *req, uint64_t handle) {
  // libfuse's fuse_file_info has no field for STREAM; without it offsets keep growing.
  struct fuse_open_out out = {
      .fh = handle, .open_flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM};
  return fuse_reply_buf(request(req), (const char *)&out, sizeof out);
}

int cfuse_reply_vectors(cfuse_request *req, const struct iovec *vectors, size_t count) {
  if (count == 0) return fuse_reply_buf(request(req), NULL, 0);
  return fuse_reply_iov(request(req), vectors, (int)count);
}

void cfuse_reply_written(cfuse_request *req, size_t count) {
  fuse_reply_write(request(req), count);
}

int cfuse_reply_poll(cfuse_request *req, unsigned events) {
  return fuse_reply_poll(request(req), events);
}

int cfuse_reply_control(cfuse_request *req, const void *output, size_t size) {
  return fuse_reply_ioctl(request(req), 0, output, size);
}

static struct stat status(const struct cfuse_attributes *attributes) {
  struct stat st = {
      .st_ino = attributes->node,
      .st_mode = attributes->mode,
      .st_nlink = S_ISDIR(attributes->mode) ? 2 : 1,
      .st_uid = attributes->uid,
      .st_gid = attributes->gid,
      .st_blksize = 128 << 10,
      .st_atim.tv_sec = attributes->time,
      .st_mtim.tv_sec = attributes->time,
      .st_ctim.tv_sec = attributes->time,
  };
  return st;
}

// What a node is never changes; which names there are does.
static const double forever = 86400;

int cfuse_reply_attributes(cfuse_request *req, const struct cfuse_attributes *attributes) {
  struct stat st = status(attributes);
  return fuse_reply_attr(request(req), &st, forever);
}

int cfuse_reply_entry(
    cfuse_request *req, uint64_t node, const struct cfuse_attributes *attributes) {
  struct fuse_entry_param entry = {
      .ino = node,
      .attr = status(attributes),
      .attr_timeout = forever,
      .entry_timeout = 0,
  };
  return fuse_reply_entry(request(req), &entry);
}

size_t cfuse_directory_entry(
    cfuse_request *req, void *bytes, size_t size, const char *name,
    const struct cfuse_attributes *attributes, uint64_t next_offset) {
  struct stat st = status(attributes);
  return fuse_add_direntry(request(req), bytes, size, name, &st, (off_t)next_offset);
}

void cfuse_poll_notify(cfuse_poll *poll) {
  fuse_lowlevel_notify_poll((struct fuse_pollhandle *)poll);
}

void cfuse_poll_destroy(cfuse_poll *poll) {
  fuse_pollhandle_destroy((struct fuse_pollhandle *)poll);
}
