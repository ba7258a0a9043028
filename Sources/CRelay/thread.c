// SPDX-License-Identifier: Apache-2.0
// The Swift runtime's locks remember each thread's number. In a forked child the one thread has
// another number than it had in the parent, and a lock that it takes under the old one is never
// free again once a second thread waits for it: both would turn in the runtime for ever.
#include "crelay_thread.h"

#include <pthread.h>
#include <stdint.h>

// swift::threading_impl::linux::ulock_get_tid()::tid, of the runtime inside this library; 0: the
// runtime asks the kernel. A runtime without it does not link, and has to be looked at.
extern __thread uint32_t runtime_thread __asm__(
    "_ZZN5swift14threading_impl5linux13ulock_get_tidEvE3tid")
    __attribute__((visibility("hidden")));

void crelay_thread_is_new(void) { runtime_thread = 0; }

// Before anything of this library runs, so that it is there for every fork.
__attribute__((constructor)) static void watch(void) {
  pthread_atfork(NULL, NULL, crelay_thread_is_new);
}
