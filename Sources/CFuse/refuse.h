// SPDX-License-Identifier: Apache-2.0
// What nobody may do in a mount: the daemon alone makes and removes files. Without these, libfuse
// would say ENOSYS. Part of cfuse.c, which includes it behind its choice of libfuse's version.
#ifndef CFUSE_REFUSE_H
#define CFUSE_REFUSE_H

#include <errno.h>
#include <fuse3/fuse_lowlevel.h>

static void refuse(fuse_req_t req) { fuse_reply_err(req, EPERM); }

static void refuse_setattr(
    fuse_req_t req, fuse_ino_t node, struct stat *st, int what, struct fuse_file_info *fi) {
  (void)node, (void)st, (void)what, (void)fi;
  refuse(req);
}

static void refuse_mknod(
    fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t device) {
  (void)parent, (void)name, (void)mode, (void)device;
  refuse(req);
}

static void refuse_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode) {
  (void)parent, (void)name, (void)mode;
  refuse(req);
}

static void refuse_name(fuse_req_t req, fuse_ino_t parent, const char *name) {
  (void)parent, (void)name;
  refuse(req);
}

static void refuse_symlink(
    fuse_req_t req, const char *target, fuse_ino_t parent, const char *name) {
  (void)target, (void)parent, (void)name;
  refuse(req);
}

static void refuse_rename(
    fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
    const char *new_name, unsigned flags) {
  (void)parent, (void)name, (void)new_parent, (void)new_name, (void)flags;
  refuse(req);
}

static void refuse_link(
    fuse_req_t req, fuse_ino_t node, fuse_ino_t parent, const char *name) {
  (void)node, (void)parent, (void)name;
  refuse(req);
}

static void refuse_create(
    fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi) {
  (void)parent, (void)name, (void)mode, (void)fi;
  refuse(req);
}

#endif
