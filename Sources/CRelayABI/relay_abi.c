// SPDX-License-Identifier: Apache-2.0
// What of the layout's header needs no inlining. Compiling this checks its assertions, too.
#include "relay_abi.h"

#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

int crelay_tsc_is_invariant(void) {
#if defined(__x86_64__)
  unsigned a, b, c, d;
  return __get_cpuid(0x80000007, &a, &b, &c, &d) && (d & 1u << 8);
#else
  return 0;
#endif
}

uint64_t crelay_monotonic(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}
