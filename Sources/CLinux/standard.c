// SPDX-License-Identifier: Apache-2.0
// Place holders for standard descriptors that a program was started without.
#include "clinux.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "retry.h"

void clinux_reserve_standard(void) {
  for (int number = 0; number <= 2; number++) {
    if (fcntl(number, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is this one. Inherited by what this program starts. Reads and writes
    // of an O_PATH descriptor fail with EBADF. A chroot may have no /dev/null.
    if (RETRY(open("/dev/null", O_PATH)) < 0) RETRY(open("/", O_PATH));
  }
}

int clinux_is_place_holder(int fd) {
  int flags = fcntl(fd, F_GETFL);
  return flags < 0 ? errno == EBADF : (flags & O_PATH) != 0;
}
