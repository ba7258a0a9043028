// SPDX-License-Identifier: Apache-2.0
// Whether memory is left, for a library in somebody else's program: a language that ends the
// process where it is not must look before.
#include "clinux.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

// Twice this is more than a call that attaches takes in small pieces. Malloc keeps it: it is below
// what comes from mmap and goes back to the kernel.
enum { PIECE = 48 << 10 };

int clinux_has_memory(size_t mapped) {
  int saved = errno;
  // Volatile, or the compiler takes both away and believes in any memory.
  void *volatile first = malloc(PIECE);
  void *volatile second = malloc(PIECE);
  int has = first && second;
  free(second);
  free(first);
  if (has && mapped > 0) {
    void *place = mmap(
        NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    has = place != MAP_FAILED;
    if (has) munmap(place, mapped);
  }
  errno = saved;
  return has;
}
