// SPDX-License-Identifier: Apache-2.0
// Own channels: writing them, and what of it can be read.
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

TEST(every_way_of_writing_comes_back_in_order) {
  relay_chan *chan = open_small(4096, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  struct iovec pieces[] = {{"thr", 3}, {NULL, 0}, {"ee ", 3}};
  relay_reservation reservation;
  EQUAL(relay_write(chan, "one ", 4), 0);
  EQUAL(relay_printf(chan, "%s%d ", "t", 2), 0);
  EQUAL(relay_writev(chan, pieces, 3), 0);
  EQUAL(relay_write_wait(chan, "four ", 5, 0), 0);
  char *space = relay_reserve(chan, 4, &reservation);
  CHECK(space);
  EQUAL(relay_write(chan, "six", 3), 0);
  memcpy(space, "five", 4);
  relay_commit(&reservation);
  CHECK(!strcmp(drain(buf), "one t2 three four fivesix"));
  EQUAL(account(buf).records_read, 6);
  relay_detach(chan);
}

TEST(an_empty_record_is_a_record) {
  relay_chan *chan = open_small(4096, 4, 0);
  EQUAL(relay_write(chan, NULL, 0), 0);
  EQUAL(relay_write(chan, "", 0), 0);
  EQUAL(relay_writev(chan, NULL, 0), 0);
  EQUAL(relay_printf(chan, "%s", ""), 0);
  EQUAL(account(relay_buffer(chan, 0)).records_written, 4);
  relay_detach(chan);
}

TEST(a_record_is_invisible_until_it_is_committed) {
  relay_chan *chan = open_small(64, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_reservation first, second;
  memcpy(relay_reserve(chan, 1, &first), "a", 1);
  memcpy(relay_reserve(chan, 1, &second), "b", 1);
  relay_reservation moved = second;
  relay_commit(&moved);
  CHECK(!strcmp(drain(buf), ""));
  relay_commit(&first);
  CHECK(!strcmp(drain(buf), "ab"));
  relay_detach(chan);
}

TEST(a_cancelled_record_is_skipped) {
  relay_chan *chan = open_small(64, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_reservation reservation;
  relay_write(chan, "a", 1);
  memcpy(relay_reserve(chan, 3, &reservation), "bcd", 3);
  relay_write(chan, "e", 1);
  relay_cancel(&reservation);
  CHECK(!strcmp(drain(buf), "ae"));
  EQUAL(account(buf).cancelled, 1);
  EQUAL(account(buf).records_written, 2);
  relay_detach(chan);
}

TEST(a_reservation_ends_once) {
  relay_chan *chan = open_small(64, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  struct {
    relay_reservation reservation;
    uint64_t after;
  } guarded = {.after = 4711};
  memcpy(relay_reserve(chan, 1, &guarded.reservation), "a", 1);
  relay_commit(&guarded.reservation);
  relay_commit(&guarded.reservation);
  relay_cancel(&guarded.reservation);
  CHECK(!relay_reserve(chan, 65, &guarded.reservation));
  EQUAL(errno, EMSGSIZE);
  relay_commit(&guarded.reservation);
  memset(&guarded.reservation, 0x41, sizeof guarded.reservation);
  CHECK(!relay_reserve(NULL, 1, &guarded.reservation));
  EQUAL(errno, EINVAL);
  relay_commit(&guarded.reservation);
  relay_cancel(&guarded.reservation);
  EQUAL(guarded.after, 4711);
  CHECK(!strcmp(drain(buf), "a"));
  EQUAL(account(buf).cancelled, 0);
  relay_detach(chan);
}

TEST(what_is_longer_than_a_sub_buffer_is_too_big) {
  relay_chan *chan = open_small(8, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_reservation reservation;
  struct iovec pieces[] = {{"x", SIZE_MAX}, {"y", 2}};
  EQUAL(relay_write(chan, "12345678", 8), 0);
  EQUAL(relay_write(chan, "123456789", 9), -EMSGSIZE);
  EQUAL(relay_write(chan, "x", SIZE_MAX), -EMSGSIZE);
  EQUAL(relay_write_wait(chan, "x", SIZE_MAX, 0), -EMSGSIZE);
  EQUAL(relay_write_wait(chan, "x", SIZE_MAX - 2, 10), -EMSGSIZE);
  EQUAL(relay_write(chan, "x", (size_t)1 << 63), -EMSGSIZE);
  EQUAL(relay_write_wait(chan, "123456789", 9, 1000), -EMSGSIZE);
  EQUAL(relay_writev(chan, pieces, 2), -EMSGSIZE);
  CHECK(!relay_reserve(chan, SIZE_MAX, &reservation));
  EQUAL(errno, EMSGSIZE);
  EQUAL(account(buf).lost_too_big, 8);
  CHECK(!strcmp(drain(buf), "12345678"));
  relay_detach(chan);
}

TEST(what_is_not_there_is_refused) {
  relay_chan *chan = open_small(8, 4, 0);
  relay_reservation reservation;
  struct relay_stat stat;
  struct iovec nowhere = {NULL, 1};
  EQUAL(relay_write(NULL, "x", 1), -EINVAL);
  EQUAL(relay_write(chan, NULL, 1), -EINVAL);
  EQUAL(relay_writev(chan, NULL, 1), -EINVAL);
  EQUAL(relay_writev(chan, &nowhere, 1), -EINVAL);
  EQUAL(relay_writev(chan, &nowhere, -1), -EINVAL);
  EQUAL(relay_write_wait(NULL, "x", 1, 0), -EINVAL);
  EQUAL(relay_write_wait(chan, NULL, 1, 0), -EINVAL);
  CHECK(!relay_reserve(NULL, 1, &reservation) && errno == EINVAL);
  CHECK(!relay_reserve(chan, 1, NULL) && errno == EINVAL);
  relay_commit(NULL);
  relay_cancel(NULL);
  EQUAL(relay_printf(NULL, "%d", 1), -EINVAL);
  EQUAL(relay_flush(NULL), -EINVAL);
  EQUAL(relay_reset(NULL), -EINVAL);
  EQUAL(relay_close(NULL), -EINVAL);
  EQUAL(relay_buffers(NULL), 0);
  CHECK(!relay_buffer(NULL, 0) && !relay_buffer(chan, 1) && !relay_private(NULL));
  EQUAL(relay_switch_subbuf(NULL, 1), 0);
  relay_subbuf_start_reserve(NULL, 1);
  EQUAL(relay_buf_full(NULL), -EINVAL);
  EQUAL(relay_buf_empty(NULL), -EINVAL);
  EQUAL(relay_subbufs_consumed(NULL, 0, 1), -EINVAL);
  EQUAL(relay_subbufs_consumed(chan, 1, 1), -EINVAL);
  EQUAL(relay_read(NULL, &stat, 1), -EINVAL);
  EQUAL(relay_read(relay_buffer(chan, 0), NULL, 1), -EINVAL);
  EQUAL(relay_poll(NULL), POLLNVAL);
  EQUAL(relay_poll_fd(NULL), -EINVAL);
  EQUAL(relay_statistics(NULL, &stat, sizeof stat), -EINVAL);
  EQUAL(relay_statistics(relay_buffer(chan, 0), NULL, sizeof stat), -EINVAL);
  relay_detach(NULL);
  relay_detach(chan);
}

TEST(a_full_channel_refuses_and_goes_on_when_it_is_read) {
  relay_chan *chan = open_small(4, 3, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  for (int i = 0; i < 3; i++) {
    EQUAL(relay_buf_full(buf), 0);
    EQUAL(relay_write(chan, "abcd", 4), 0);
  }
  errno = 0;
  EQUAL(relay_write(chan, "e", 1), -ENOBUFS);
  EQUAL(errno, 0);
  EQUAL(relay_buf_full(buf), 1);
  EQUAL(relay_buf_empty(buf), 0);
  EQUAL(relay_flush(chan), -ENOBUFS);
  EQUAL(account(buf).lost_full, 1);
  CHECK(!strcmp(drain(buf), "abcdabcdabcd"));
  EQUAL(relay_write(chan, "f", 1), 0);
  EQUAL(relay_buf_full(buf), 0);
  CHECK(!strcmp(drain(buf), "f"));
  relay_detach(chan);
}

TEST(an_overwriting_channel_keeps_the_newest) {
  relay_chan *chan = open_small(4, 3, RELAY_OVERWRITE);
  relay_buf *buf = relay_buffer(chan, 0);
  for (int i = 0; i < 100; i++) EQUAL(relay_printf(chan, "%02d", i), 0);
  CHECK(!strcmp(drain(buf), "949596979899"));
  struct relay_stat stat = account(buf);
  EQUAL(stat.lost_overwritten, 94);
  EQUAL(stat.records_written, 100);
  EQUAL(stat.records_read, 6);
  relay_detach(chan);
}

TEST(waiting_for_space_ends_with_its_time) {
  relay_chan *chan = open_small(4, 2, 0);
  relay_write(chan, "abcd", 4);
  relay_write(chan, "abcd", 4);
  errno = 77;
  EQUAL(relay_write_wait(chan, "e", 1, 30), -ENOBUFS);
  EQUAL(errno, 77);
  EQUAL(account(relay_buffer(chan, 0)).lost_full, 0);
  relay_detach(chan);
}

static void *read_all(void *chan) {
  static char text[1000];
  size_t count = 0;
  relay_buf *buf = relay_buffer(chan, 0);
  struct pollfd ask = {.fd = relay_poll_fd(buf), .events = POLLIN};
  while (!(relay_poll(buf) & POLLHUP) || relay_poll(buf) & POLLIN) {
    CHECK(poll(&ask, 1, -1) == 1);
    ssize_t n = relay_read(buf, text + count, 3);
    CHECK(n >= 0);
    count += (size_t)n;
  }
  return text;
}

TEST(a_waiting_write_goes_on_when_a_reader_makes_room) {
  relay_chan *chan = open_small(4, 2, 0);
  pthread_t reader;
  void *text;
  EQUAL(pthread_create(&reader, NULL, read_all, chan), 0);
  for (int i = 0; i < 50; i++) EQUAL(relay_write_wait(chan, "ab", 2, -1), 0);
  EQUAL(relay_close(chan), 0);
  EQUAL(pthread_join(reader, &text), 0);
  EQUAL(strlen(text), 100);
  relay_detach(chan);
}

TEST(text_is_cut_at_its_limit) {
  relay_chan *chan = open_small(4096, 2, 0);
  errno = 0;
  EQUAL(relay_printf(chan, "%2000d", 7), 0);
  EQUAL(strlen(drain(relay_buffer(chan, 0))), RELAY_PRINTF_MAX);
  EQUAL(relay_printf(chan, "%*d", RELAY_PRINTF_MAX, 7), 0);
  const char *text = drain(relay_buffer(chan, 0));
  EQUAL(strlen(text), RELAY_PRINTF_MAX);
  EQUAL(text[RELAY_PRINTF_MAX - 1], '7');
  relay_detach(chan);
}

TEST(a_record_goes_into_the_buffer_of_its_cpu) {
  relay_chan *chan = relay_open(NULL, 64, 4, 0, NULL, NULL);
  CHECK(chan);
  unsigned cpus = relay_buffers(chan), found = 0;
  CHECK(cpus >= 1 && !relay_buffer(chan, cpus));
  cpu_set_t allowed;
  EQUAL(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  for (unsigned cpu = 0; cpu < cpus; cpu++) {
    if (!CPU_ISSET(cpu, &allowed) || !relay_buffer(chan, cpu)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    EQUAL(sched_setaffinity(0, sizeof one, &one), 0);
    EQUAL(relay_printf(chan, "on %u", cpu), 0);
    char expected[20];
    snprintf(expected, sizeof expected, "on %u", cpu);
    CHECK(!strcmp(drain(relay_buffer(chan, cpu)), expected));
    found++;
  }
  CHECK(found > 0);
  relay_detach(chan);
}

static relay_chan *interrupted;
static volatile sig_atomic_t is_inside, inside, in_handler;

static void write_from_handler(int signal) {
  char record[12];
  int n = in_handler;
  (void)signal;
  // "h" and 6 digits, without the C library.
  record[0] = 'h';
  for (int i = 6; i > 0; i--, n /= 10) record[i] = (char)('0' + n % 10);
  if (relay_write(interrupted, record, 7) == 0) in_handler = in_handler + 1;
  if (is_inside) inside = inside + 1;
}

// Records of both kinds, each in its own order: nothing torn, lost or doubled.
static void check_order(const char *text, int *by_main, int *by_handler) {
  for (; *text; text += 7) {
    int *next = *text == 'h' ? by_handler : by_main;
    CHECK(*text == 'h' || *text == 'm');
    char number[7] = {0};
    memcpy(number, text + 1, 6);
    EQUAL(atoi(number), *next);
    ++*next;
  }
}

TEST(a_signal_handler_may_write_while_it_interrupts_a_write) {
  interrupted = open_small(256, 8, 0);
  struct sigaction action = {.sa_handler = write_from_handler};
  struct itimerval every = {{0, 50}, {0, 50}};
  int by_main = 0, by_handler = 0, written = 0;
  EQUAL(sigaction(SIGALRM, &action, NULL), 0);
  EQUAL(setitimer(ITIMER_REAL, &every, NULL), 0);
  while (inside < 300) {
    char record[12];
    snprintf(record, sizeof record, "m%06d", written % 1000000);
    is_inside = 1;
    int result = 0;
    // Refused ones, too: full comes after a switch was tried.
    for (int i = 0; i < 20 && result == 0; i++) {
      result = relay_write(interrupted, record, 7);
      if (result == 0) snprintf(record, sizeof record, "m%06d", ++written % 1000000);
    }
    is_inside = 0;
    CHECK(result == 0 || result == -ENOBUFS);
    check_order(drain(relay_buffer(interrupted, 0)), &by_main, &by_handler);
    CHECK(written < 1000000);
  }
  every = (struct itimerval){{0, 0}, {0, 0}};
  EQUAL(setitimer(ITIMER_REAL, &every, NULL), 0);
  check_order(drain(relay_buffer(interrupted, 0)), &by_main, &by_handler);
  EQUAL(by_main, written);
  EQUAL(by_handler, in_handler);
  relay_detach(interrupted);
}

TEST(after_a_fork_parent_and_child_each_have_their_own) {
  relay_chan *chan = open_small(64, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_write(chan, "both ", 5);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    relay_write(chan, "child", 5);
    CHECK(!strcmp(drain(buf), "both child"));
    relay_detach(chan);
    _exit(0);
  }
  int status;
  EQUAL(waitpid(child, &status, 0), child);
  EQUAL(status, 0);
  relay_write(chan, "parent", 6);
  CHECK(!strcmp(drain(buf), "both parent"));
  relay_detach(chan);
}
