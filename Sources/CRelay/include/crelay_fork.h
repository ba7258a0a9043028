// SPDX-License-Identifier: Apache-2.0
// What a forked child does not keep of its parent: the connections and wake-ups of its attached
// channels. Not installed.
#ifndef CRELAY_FORK_H
#define CRELAY_FORK_H

#include <stdint.h>

struct clinux_guarded;

// From now on a forked child closes both before anything else runs in it. They stay where they are
// until `crelay_fork_forget` takes it back. NULL when there is no memory.
void *crelay_fork_close(struct clinux_guarded *connection, struct clinux_guarded *wake);
void crelay_fork_forget(void *entry);

// The child of the next fork keeps `token`, and finds 1 at `mark`, which lies in memory that is
// wiped by a fork; the parent closes it after that fork, and any other child. In place of the one
// before. Both stay where they are until `crelay_fork_forget`, or the next of these.
void crelay_fork_offer(void *entry, struct clinux_guarded *token, uint64_t *mark);

#endif
