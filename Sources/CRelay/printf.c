// SPDX-License-Identifier: Apache-2.0
// Formatted records: what takes variable arguments is written in C.
#include <errno.h>
#include <stdio.h>

#include "relay.h"

int relay_printf(relay_chan *chan, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int result = relay_vprintf(chan, format, arguments);
  va_end(arguments);
  return result;
}

int relay_vprintf(relay_chan *chan, const char *format, va_list arguments) {
  if (!chan || !format) return -EINVAL;
  int saved = errno;
  char text[RELAY_PRINTF_MAX + 1];
  int length = vsnprintf(text, sizeof text, format, arguments);
  errno = saved;
  if (length < 0) return -EINVAL;
  return relay_write(chan, text, length < RELAY_PRINTF_MAX ? (size_t)length : RELAY_PRINTF_MAX);
}
