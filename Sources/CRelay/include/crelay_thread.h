// SPDX-License-Identifier: Apache-2.0
// What the Swift runtime has to forget in a forked child. Not installed.
#ifndef CRELAY_THREAD_H
#define CRELAY_THREAD_H

// The calling thread may have another number than when it was last in this library. Called in each
// forked child by itself, unless the fork went past the C library.
void crelay_thread_is_new(void);

#endif
