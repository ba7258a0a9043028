// SPDX-License-Identifier: Apache-2.0
// Own channels on a machine with CPUs that come up. CPU is one that is not up yet, or not to be
// seen; the shell command BRING_UP brings it up.
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "test.h"

static struct {
  int starts, fails;
  char made[1000], removed[1000];
} seen;

static int start(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  (void)previous, (void)padding;
  seen.starts++;
  relay_subbuf_start_reserve(buf, 1);
  memset(subbuf, '#', 1);
  return !relay_buf_full(buf);
}

static int create(const char *name, relay_buf *buf, int *is_global) {
  (void)is_global;
  CHECK(buf);
  if (seen.fails) return -EROFS;
  strcat(strcat(seen.made, name), " ");
  return 0;
}

static void delete(const char *name, relay_buf *buf) {
  CHECK(buf);
  strcat(strcat(seen.removed, name), " ");
}

static unsigned cpu(void) { return (unsigned)atoi(getenv("CPU")); }

// And goes there, as far as there is such a CPU.
static void bring_up(void) {
  cpu_set_t one;
  EQUAL(system(getenv("BRING_UP")), 0);
  CPU_ZERO(&one);
  CPU_SET(cpu(), &one);
  EQUAL(sched_setaffinity(0, sizeof one, &one), 0);
}

TEST(a_cpu_that_comes_up_gets_a_buffer) {
  relay_chan *chan = relay_open(NULL, 64, 4, 0, NULL, NULL);
  CHECK(chan && !relay_buffer(chan, cpu()));
  unsigned before = relay_buffers(chan);
  CHECK(before <= cpu());
  bring_up();
  EQUAL(relay_write(chan, "early", 5), 0);
  CHECK(!strcmp(drain(relay_buffer(chan, 0)), "early"));
  EQUAL(relay_buffers(chan), cpu() + 1);
  relay_buf *buf = relay_buffer(chan, cpu());
  CHECK(buf);
  int fd = relay_poll_fd(buf);
  CHECK(!readable(fd));
  EQUAL(relay_write(chan, "own", 3), 0);
  CHECK(readable(fd));
  CHECK(!strcmp(drain(buf), "own"));
  CHECK(!strcmp(drain(relay_buffer(chan, 0)), ""));
  EQUAL(account(buf).records_written, 1);
  EQUAL(relay_buffers(chan), cpu() + 1);
  EQUAL(relay_close(chan), 0);
  EQUAL(relay_write(chan, "x", 1), -EPIPE);
  relay_detach(chan);
}

TEST(a_cpu_that_comes_up_gets_a_file_and_its_callbacks) {
  const relay_callbacks callbacks = {.size = sizeof callbacks,
                                     .subbuf_start = start,
                                     .create_buf_file = create,
                                     .remove_buf_file = delete};
  relay_chan *chan = relay_open("base", 64, 4, 0, &callbacks, NULL);
  CHECK(chan);
  int starts = seen.starts;
  char made[1000], name[40];
  strcpy(made, seen.made);
  bring_up();
  EQUAL(relay_write(chan, "early", 5), 0);
  seen.fails = 1;
  CHECK(relay_buffers(chan) <= cpu());
  CHECK(!relay_buffer(chan, cpu()));
  seen.fails = 0;
  EQUAL(relay_buffers(chan), cpu() + 1);
  snprintf(name, sizeof name, "base%u ", cpu());
  CHECK(!strcmp(seen.made, strcat(made, name)));
  EQUAL(seen.starts, starts + 1);
  relay_buf *buf = relay_buffer(chan, cpu());
  EQUAL(relay_write(chan, "own", 3), 0);
  EQUAL(relay_switch_subbuf(buf, 1), 1);
  EQUAL(seen.starts, starts + 2);
  CHECK(!strcmp(drain(buf), "#own"));
  EQUAL(relay_close(chan), 0);
  CHECK(!strcmp(seen.removed, seen.made));
  relay_detach(chan);
}

TEST(a_channel_that_is_named_late_has_a_file_for_a_cpu_that_came_before) {
  const relay_callbacks callbacks = {.size = sizeof callbacks, .create_buf_file = create};
  relay_chan *chan = relay_open(NULL, 64, 4, 0, &callbacks, NULL);
  CHECK(chan);
  bring_up();
  EQUAL(relay_buffers(chan), cpu() + 1);
  CHECK(!*seen.made);
  EQUAL(relay_late_setup_files(chan, "base"), 0);
  char name[40];
  snprintf(name, sizeof name, " base%u ", cpu());
  CHECK(strstr(seen.made, name));
  relay_detach(chan);
}

TEST(neither_a_global_channel_nor_a_closed_one_grows) {
  relay_chan *global = relay_open(NULL, 64, 4, RELAY_GLOBAL, NULL, NULL);
  relay_chan *closed = relay_open(NULL, 64, 4, 0, NULL, NULL);
  CHECK(global && closed);
  unsigned before = relay_buffers(closed);
  EQUAL(relay_close(closed), 0);
  bring_up();
  EQUAL(relay_buffers(global), 1);
  EQUAL(relay_buffers(closed), before);
  EQUAL(relay_write(closed, "x", 1), -EPIPE);
  relay_detach(global);
  relay_detach(closed);
}

static volatile int is_over;
static volatile long written;

static void *write_on(void *chan) {
  while (!is_over) {
    EQUAL(relay_write_wait(chan, "abcd", 4, -1), 0);
    written++;
  }
  return NULL;
}

TEST(a_writer_changes_over_and_loses_nothing) {
  relay_chan *chan = relay_open(NULL, 256, 4, 0, NULL, NULL);
  pthread_t writer;
  long count = 0;
  CHECK(chan);
  bring_up();
  // On that CPU, as its parent.
  EQUAL(pthread_create(&writer, NULL, write_on, chan), 0);
  while (count < 4000) count += (long)strlen(drain(relay_buffer(chan, 0)));
  EQUAL(relay_buffers(chan), cpu() + 1);
  while (account(relay_buffer(chan, cpu())).records_read < 1000) {
    count += (long)strlen(drain(relay_buffer(chan, cpu())));
    count += (long)strlen(drain(relay_buffer(chan, 0)));
  }
  is_over = 1;
  // It may wait for room.
  do {
    count += (long)strlen(drain(relay_buffer(chan, cpu())));
    count += (long)strlen(drain(relay_buffer(chan, 0)));
  } while (pthread_tryjoin_np(writer, NULL) == EBUSY);
  count += (long)strlen(drain(relay_buffer(chan, cpu())));
  count += (long)strlen(drain(relay_buffer(chan, 0)));
  EQUAL(count, 4 * written);
  relay_detach(chan);
}
