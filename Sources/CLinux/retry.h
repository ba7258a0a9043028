// SPDX-License-Identifier: Apache-2.0
#ifndef CLINUX_RETRY_H
#define CLINUX_RETRY_H

#include <errno.h>

// A system call until it is not interrupted; -errno where it fails.
#define RETRY(call)                            \
  ({                                           \
    __typeof__(call) result_;                  \
    do {                                       \
      result_ = (call);                        \
    } while (result_ == -1 && errno == EINTR); \
    result_ == -1 ? -errno : result_;          \
  })

#endif
