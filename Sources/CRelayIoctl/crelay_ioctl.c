// SPDX-License-Identifier: Apache-2.0
// The one call that Swift cannot spell.
#include "crelay_ioctl.h"

#include <errno.h>

int crelay_ioctl(int fd, uint32_t command, void *argument) {
  int result = ioctl(fd, command, argument);
  return result < 0 ? -errno : result;
}
