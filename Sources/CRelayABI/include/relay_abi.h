// SPDX-License-Identifier: Apache-2.0
// The layout of a relay channel in shared memory, and the few instructions Swift cannot spell.
//
// A channel is two memory files. The geometry file can be written only by the side that opened the
// channel, or adopted it (everybody else has it open for reading): its first page says what the
// channel is, which never changes, which CPUs have a buffer, which grows, and who serves it; behind
// that page stands what the opener wants to find again. The ring file holds one channel buffer per
// CPU slot (or one, for a global channel), written by every producer and so trusted by nobody:
//
//   buffer:  | header | descriptor 0 … N-1 | index 0 … N-1 | time 0 … N-1 | payload 0 … N-1 |
//                      one per sub-buffer    M words each    M words each   S bytes each
//
// There are times only with RELAY_ABI_TIMESTAMPS: time[i], stored between the swap that reserves
// and the commit, is when record i was reserved, by the clock that RELAY_ABI_TSC names. It means
// something beside a COMMITTED index[i] only, and never runs backwards within a buffer.
//
// All words are 64 bits, naturally aligned, and accessed atomically. All zero means never used.
//
//   current     63 seq 20 | 19 closed | 15 sub-buffer 0    which sub-buffer is being filled
//   state       63 seq 20 | 19 owner 6 | 5 pins 2 | 1 state 0
//   hint        63 seq (low 14 bits) 50 | 49 n 26 | 25 end 0   where the frontier probably is
//   index[i]    63 tag 61 | 60 lap 26 | 25 end 0           COMMITTED CANCELLED DISCARDED SEAL
//               63 tag 61 | 39 owner 26 | 25 end 0         BUSY
//               63 tag 61 | 60 seq 0                       EMPTY (written by wrap clearing only)
//   open[k]     63 seq (low 40 bits) 24 | 23 i 0           index[i] was BUSY as i + 1 was reserved
//   held_owners four owners of 16 bits, 0 none             those that may reserve nothing now
//
// A hint whose end is beyond the sub-buffer sends writers to the slow path.
//
// `end` is the payload offset where record i ends; it starts where record i-1 ends. lap is the
// low bits of seq: an entry of another lap counts as EMPTY, so recycling clears nothing.
//
//   sub-buffer states, and who makes each transition:
//   FREE ──writer claims──▶ CLAIMED ──any writer, reader, sweep──▶ OPEN ──any writer──▶ FULL
//     ▲                        │                                    │                    │
//     │◀── lost race, sweep ───┘                                    │                    │
//     │◀── reader, once current is beyond it and nothing in it is BUSY ──────────────────┤
//                              CLAIMED ◀── writer, overwrite mode: unpinned, nothing BUSY┘
//   The seq of a sub-buffer never goes back, so no state recurs. FREE with an owner: it died while
//   it prepared the sub-buffer.
//
// Slots are laid out for all possible CPUs from the start; those never touched cost nothing. A CPU
// has a buffer from when its bit in `present` is set, and for good: one that goes away and comes
// back finds its own again. Until then its slot is all zero, which is what sends a writer there to
// the bitmap, and from it to the buffer of the lowest present CPU. Its bit is set after everything
// else about the buffer is done (on a closed channel: `current` says closed).
#ifndef RELAY_ABI_H
#define RELAY_ABI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/rseq.h>

static const uint64_t RELAY_ABI_MAGIC = 0x314459414c4552;  // "RELAYD1" in memory
#define RELAY_ABI_VERSION 2u

#define RELAY_ABI_OVERWRITE 1u
#define RELAY_ABI_GLOBAL 2u
#define RELAY_ABI_TIMESTAMPS 4u
#define RELAY_ABI_TSC 8u  // times are the time stamp counter's; else CLOCK_MONOTONIC's, in ns

#define RELAY_ABI_CPU_WORDS 64  // CPUs 0 … 4095

struct relay_abi_geometry {
  uint64_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t subbuf_size;   // S, bytes
  uint32_t n_subbufs;     // N
  uint32_t n_entries;     // M, index words per sub-buffer; the last only ever holds a SEAL
  uint32_t n_slots;       // buffers laid out: highest possible CPU + 1, or 1
};

struct relay_abi_geometry_page {
  struct relay_abi_geometry fixed;        // copied and checked once
  uint64_t present[RELAY_ABI_CPU_WORDS];  // bit c: CPU c has a buffer of its own; looked at live
  uint64_t incarnation;  // this memory's own number: record numbers mean something within one only
  uint64_t generation;   // of the daemon that serves it, as on the life page; looked at live
  uint64_t ended;        // 1: closed for good, not by a daemon that ends; looked at live
  uint64_t clock_base_ticks;  // what the records' clock said when the channel was opened,
  uint64_t clock_base_ns;     // and CLOCK_MONOTONIC in that moment; 0, 0 without times
  uint64_t saved[RELAY_ABI_CPU_WORDS];  // bit c: slot c's reader has stored its position
  uint64_t looks;  // the generation of the last daemon that knows bit 1 of waiters
};

struct relay_abi_header {
  uint64_t current;
  uint64_t waiters;         // bit 0: the reader wants one wake, at the next commit; bit 1: writers
                            // look at each commit whether relayd lives, because they are slow
  uint64_t hint;            // n records in the current sub-buffer, the last of which ends at end
  uint64_t switch_waiters;  // 1 while the reader wants one wake, at the next switch
  uint64_t own_button;      // in private memory only: the address of this buffer's own doorbell
  uint64_t pad0[3];
  uint64_t space_waiters;   // 1 while a writer sleeps on a futex here (low half) for a sub-buffer
  uint64_t pad1[7];
  uint64_t lost_full;       // loss counters, in records; added to off the fast path only
  uint64_t lost_too_big;
  uint64_t aborted;
  uint64_t cancelled;
  uint64_t corrupt;
  uint64_t lost_restart;    // in memory that nobody adopted, which this one came after
  uint64_t orphaned;        // 1: what is lost in here has been counted where writers went on
  uint64_t held_owners;     // hold all sub-buffers but two by open records; 0 in earlier releases
  uint64_t pad2[8];
};

struct relay_abi_descriptor {
  uint64_t state;
  uint64_t record_base;  // index entries reserved in all earlier sub-buffers
  uint64_t byte_base;    // payload bytes reserved in all earlier sub-buffers
  uint64_t lost_base;    // lost_full when this sub-buffer was started
  uint64_t open[4];      // hints only: the entries say whether they still hold
};

_Static_assert(sizeof(struct relay_abi_geometry) == 32, "geometry");
_Static_assert(offsetof(struct relay_abi_geometry_page, present) == 32, "present");
_Static_assert(offsetof(struct relay_abi_geometry_page, incarnation) == 544, "incarnation");
_Static_assert(offsetof(struct relay_abi_geometry_page, generation) == 552, "generation");
_Static_assert(offsetof(struct relay_abi_geometry_page, ended) == 560, "ended");
_Static_assert(offsetof(struct relay_abi_geometry_page, clock_base_ticks) == 568, "base ticks");
_Static_assert(offsetof(struct relay_abi_geometry_page, clock_base_ns) == 576, "base ns");
_Static_assert(offsetof(struct relay_abi_geometry_page, saved) == 584, "saved");
_Static_assert(offsetof(struct relay_abi_geometry_page, looks) == 1096, "looks");
_Static_assert(sizeof(struct relay_abi_geometry_page) <= 4096, "a page");
// What every record touches stands on one line, at addresses that depend on nothing else.
_Static_assert(offsetof(struct relay_abi_header, waiters) == 8, "waiters");
_Static_assert(offsetof(struct relay_abi_header, switch_waiters) == 24, "switch_waiters");
_Static_assert(offsetof(struct relay_abi_header, hint) == 16, "hint");
_Static_assert(offsetof(struct relay_abi_header, own_button) == 32, "own_button");
_Static_assert(offsetof(struct relay_abi_header, space_waiters) == 64, "space_waiters");
_Static_assert(offsetof(struct relay_abi_header, lost_full) == 128, "lost_full");
_Static_assert(offsetof(struct relay_abi_header, cancelled) == 152, "cancelled");
_Static_assert(offsetof(struct relay_abi_header, corrupt) == 160, "corrupt");
_Static_assert(offsetof(struct relay_abi_header, lost_restart) == 168, "lost_restart");
_Static_assert(offsetof(struct relay_abi_header, orphaned) == 176, "orphaned");
_Static_assert(offsetof(struct relay_abi_header, held_owners) == 184, "held_owners");
_Static_assert(sizeof(struct relay_abi_header) == 256, "header: four cache lines");
_Static_assert(offsetof(struct relay_abi_descriptor, record_base) == 8, "record_base");
_Static_assert(offsetof(struct relay_abi_descriptor, byte_base) == 16, "byte_base");
_Static_assert(offsetof(struct relay_abi_descriptor, lost_base) == 24, "lost_base");
_Static_assert(offsetof(struct relay_abi_descriptor, open) == 32, "open");
_Static_assert(sizeof(struct relay_abi_descriptor) == 64, "descriptor: one cache line");

extern int sched_getcpu(void);

// Where a thread's rseq area lies, from its thread pointer: the same for all threads. A writer
// keeps it, because on the way to the first shared word every load counts.
static inline ptrdiff_t relay_rseq_offset(void) { return __rseq_offset; }

// The CPU this thread runs on. Moving on right after is harmless: any writer may write any buffer.
static inline uint32_t relay_cpu(ptrdiff_t rseq_offset) {
  const struct rseq *area =
      (const struct rseq *)((const char *)__builtin_thread_pointer() + rseq_offset);
  int32_t cpu = (int32_t) * (volatile const uint32_t *)&area->cpu_id;
  if (__builtin_expect(cpu >= 0, 1)) return (uint32_t)cpu;
  cpu = sched_getcpu();  // no rseq in this kernel
  return cpu >= 0 ? (uint32_t)cpu : 0;
}

// Keeps the compiler from moving memory accesses across; the CPU is held by a membarrier elsewhere.
static inline void relay_compiler_barrier(void) { __asm__ volatile("" ::: "memory"); }

// The time stamp counter, when all loads before this are done: those of the frontier, and those by
// which the caller learned what came before its record. A swap after it is seen by nobody before
// the counter was read: locked instructions take effect when what stands before them has.
static inline uint64_t relay_tsc(void) {
#if defined(__x86_64__)
  uint32_t low, high;
  __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return (uint64_t)high << 32 | low;
#else
  return 0;
#endif
}

// Whether this processor's counter runs evenly through all its states. Whether those of several
// processors agree, only the kernel knows.
int crelay_tsc_is_invariant(void);

// CLOCK_MONOTONIC in nanoseconds.
uint64_t crelay_monotonic(void);

// memcpy, but a short record costs no call: two overlapping moves, or four.
static inline void relay_copy(void *restrict to, const void *restrict from, size_t n) {
  char *d = (char *)to;
  const char *s = (const char *)from;
  struct block {
    uint64_t words[2];
  };
#define RELAY_MOVE(T, at) __builtin_memcpy(d + (at), s + (at), sizeof(T))
  if (n > 64) {
    __builtin_memcpy(d, s, n);
  } else if (n > 32) {
    RELAY_MOVE(struct block, 0);
    RELAY_MOVE(struct block, 16);
    RELAY_MOVE(struct block, n - 32);
    RELAY_MOVE(struct block, n - 16);
  } else if (n >= 16) {
    RELAY_MOVE(struct block, 0);
    RELAY_MOVE(struct block, n - 16);
  } else if (n >= 8) {
    RELAY_MOVE(uint64_t, 0);
    RELAY_MOVE(uint64_t, n - 8);
  } else {
    for (size_t i = 0; i < n; i++) d[i] = s[i];
  }
#undef RELAY_MOVE
}

#endif
