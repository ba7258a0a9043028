// SPDX-License-Identifier: Apache-2.0
// Writes LTTng-UST events as fast as it can and prints the nanoseconds each took. The session that
// records them is relay-bench's business; an event that nobody records is refused, not timed.
//
// usage: lttng_writer BYTES COUNT CPU...
// One thread on each CPU writes COUNT events of BYTES (8, 64 or 256) bytes; prints the threads'
// mean.
#define _GNU_SOURCE
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "lttng_provider.h"

#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { THREAD_LIMIT = 4096 };

struct writer {
  pthread_t thread;
  int cpu;
  bool failed;
  double nanoseconds;
};

static unsigned long bytes;
static unsigned long count;
static pthread_barrier_t start;
static struct writer writers[THREAD_LIMIT];
static uint64_t words[32];

static void write_events(unsigned long events) {
  for (unsigned long i = 0; i < events; i++) {
    switch (bytes) {
      case 8: lttng_ust_tracepoint(relay_bench, record8, words); break;
      case 64: lttng_ust_tracepoint(relay_bench, record64, words); break;
      default: lttng_ust_tracepoint(relay_bench, record256, words); break;
    }
  }
}

static bool is_recorded(void) {
  switch (bytes) {
    case 8: return lttng_ust_tracepoint_enabled(relay_bench, record8);
    case 64: return lttng_ust_tracepoint_enabled(relay_bench, record64);
    case 256: return lttng_ust_tracepoint_enabled(relay_bench, record256);
    default: return false;
  }
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void *run(void *argument) {
  struct writer *writer = argument;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(writer->cpu, &set);
  writer->failed = sched_setaffinity(0, sizeof set, &set) != 0;
  write_events(count / 8 + 1);
  pthread_barrier_wait(&start);
  double before = now();
  write_events(count);
  writer->nanoseconds = (now() - before) / (double)count;
  return NULL;
}

int main(int argc, char **argv) {
  int n = argc - 3;
  if (n < 1 || n > THREAD_LIMIT) {
    fprintf(stderr, "usage: lttng_writer BYTES COUNT CPU...\n");
    return 64;
  }
  bytes = strtoul(argv[1], NULL, 10);
  count = strtoul(argv[2], NULL, 10);
  if (!count || !is_recorded()) {
    fprintf(stderr, "lttng_writer: no session records events of %s bytes\n", argv[1]);
    return 1;
  }
  pthread_barrier_init(&start, NULL, (unsigned)n);
  for (int i = 0; i < n; i++) {
    writers[i].cpu = atoi(argv[3 + i]);
    if (pthread_create(&writers[i].thread, NULL, run, &writers[i]) != 0) return 1;
  }
  double sum = 0;
  for (int i = 0; i < n; i++) {
    pthread_join(writers[i].thread, NULL);
    if (writers[i].failed) {
      fprintf(stderr, "lttng_writer: cannot run on CPU %d\n", writers[i].cpu);
      return 1;
    }
    sum += writers[i].nanoseconds;
  }
  printf("%.3f\n", sum / n);
  return 0;
}
