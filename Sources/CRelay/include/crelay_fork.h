// SPDX-License-Identifier: Apache-2.0
// What a forked child does not keep of its parent: the connections and wake-ups of its attached
// channels. Not installed.
#ifndef CRELAY_FORK_H
#define CRELAY_FORK_H

#define CRELAY_FORK_DESCRIPTORS 4

// From now on a forked child closes these descriptors before anything else runs in it: nobody can
// have given their numbers to other files yet. NULL when there is no memory. `crelay_fork_forget`
// takes it back, before the descriptors are closed.
void *crelay_fork_close(const int descriptors[CRELAY_FORK_DESCRIPTORS]);
void crelay_fork_forget(void *entry);

#endif
