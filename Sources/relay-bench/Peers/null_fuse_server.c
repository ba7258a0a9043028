// SPDX-License-Identifier: Apache-2.0
// The fastest a FUSE file can be read: one file whose reads are answered at once from memory that
// is there, with the open flags and the one thread of relayfs. The baseline for read throughput,
// not an example of a file system.
//
// usage: null_fuse_server MOUNTPOINT BYTES SPAN
// Each open of MOUNTPOINT/null delivers BYTES bytes, then end of file. Replies come from a buffer
// of SPAN bytes, from one end to the other and again: a small one stays in the CPU's cache, one as
// large as a ring costs what a ring's memory costs. Ends when it is unmounted.
#define FUSE_USE_VERSION 314
#define _GNU_SOURCE

#include <errno.h>
#include <fuse_lowlevel.h>
#include <inttypes.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_NODE = 2 };

static const char name[] = "null";
static char *buffer;
static uint64_t span;
static uint64_t position;
static uint64_t total;

static struct stat status(fuse_ino_t node) {
  struct stat st = {
      .st_ino = node,
      .st_mode = node == FUSE_ROOT_ID ? S_IFDIR | 0555 : S_IFREG | 0400,
      .st_nlink = 1,
  };
  return st;
}

static void on_lookup(fuse_req_t req, fuse_ino_t parent, const char *wanted) {
  struct fuse_entry_param entry = {.ino = FILE_NODE, .attr = status(FILE_NODE), .attr_timeout = 60};
  entry.entry_timeout = 60;
  if (parent != FUSE_ROOT_ID || strcmp(wanted, name) != 0) {
    fuse_reply_err(req, ENOENT);
  } else {
    fuse_reply_entry(req, &entry);
  }
}

static void on_getattr(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi) {
  (void)fi;
  struct stat st = status(node);
  fuse_reply_attr(req, &st, 60);
}

// The handle is a count of the bytes still to deliver.
static void on_open(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi) {
  (void)node;
  (void)fi;
  uint64_t *left = malloc(sizeof *left);
  if (!left) {
    fuse_reply_err(req, ENOMEM);
    return;
  }
  *left = total;
  struct fuse_open_out out = {
      .fh = (uintptr_t)left, .open_flags = FOPEN_DIRECT_IO | FOPEN_NONSEEKABLE | FOPEN_STREAM};
  if (fuse_reply_buf(req, (const char *)&out, sizeof out) != 0) free(left);
}

static void on_read(
    fuse_req_t req, fuse_ino_t node, size_t size, off_t offset, struct fuse_file_info *fi) {
  (void)node;
  (void)offset;
  uint64_t *left = (uint64_t *)(uintptr_t)fi->fh;
  if (size > span) size = span;
  if (size > *left) size = *left;
  if (position + size > span) position = 0;
  struct iovec vector = {.iov_base = buffer + position, .iov_len = size};
  if (fuse_reply_iov(req, &vector, 1) != 0) return;
  *left -= size;
  position += size;
}

static void on_release(fuse_req_t req, fuse_ino_t node, struct fuse_file_info *fi) {
  (void)node;
  free((void *)(uintptr_t)fi->fh);
  fuse_reply_err(req, 0);
}

static bool parse(const char *text, uint64_t *number) {
  char *end = NULL;
  errno = 0;
  *number = strtoumax(text, &end, 10);
  return end != text && !*end && !errno;
}

int main(int argc, char **argv) {
  static const struct fuse_lowlevel_ops operations = {
      .lookup = on_lookup,
      .getattr = on_getattr,
      .open = on_open,
      .read = on_read,
      .release = on_release,
  };
  if (argc != 4 || !parse(argv[2], &total) || !parse(argv[3], &span) || span == 0) {
    fprintf(stderr, "usage: null_fuse_server MOUNTPOINT BYTES SPAN\n");
    return 64;
  }
  buffer = malloc(span);
  if (!buffer) {
    fprintf(stderr, "null_fuse_server: no memory for a buffer of %" PRIu64 " bytes\n", span);
    return 1;
  }
  // Touched before the first read, as a ring's pages are.
  memset(buffer, 'x', span);

  struct fuse_args args = FUSE_ARGS_INIT(1, argv);
  struct fuse_session *session = fuse_session_new(&args, &operations, sizeof operations, NULL);
  if (!session) return 1;
  int status = 1;
  if (fuse_set_signal_handlers(session) == 0) {
    if (fuse_session_mount(session, argv[1]) == 0) {
      status = fuse_session_loop(session) < 0;
      fuse_session_unmount(session);
    }
    fuse_remove_signal_handlers(session);
  }
  fuse_session_destroy(session);
  return status;
}
