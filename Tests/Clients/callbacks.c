// SPDX-License-Identifier: Apache-2.0
// Own channels with subbuf_start.
#include <limits.h>
#include <pthread.h>

#include "test.h"

// What the callback saw, and what it is to do.
static struct {
  int starts, refusals;
  void *subbuf, *previous;
  size_t padding;
  int was_full, was_empty;
  int refuses;          // always
  int refuses_when_full;
  size_t header;        // bytes to reserve
} seen;

static int start(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  seen.subbuf = subbuf;
  seen.previous = previous;
  seen.padding = padding;
  seen.was_full = relay_buf_full(buf);
  seen.was_empty = relay_buf_empty(buf);
  if (seen.refuses || (seen.refuses_when_full && seen.was_full)) {
    seen.refusals++;
    return 0;
  }
  seen.starts++;
  if (previous && seen.header) memset(previous, '0' + (int)padding, 1);
  if (seen.header) {
    relay_subbuf_start_reserve(buf, seen.header);
    memset(subbuf, '?', seen.header);
  }
  return 1;
}

static relay_chan *open_with(relay_callbacks callbacks, size_t subbuf_size, size_t n_subbufs) {
  callbacks.size = sizeof callbacks;
  relay_chan *chan = relay_open("chan", subbuf_size, n_subbufs, RELAY_GLOBAL, &callbacks, NULL);
  CHECK(chan);
  return chan;
}

TEST(subbuf_start_is_called_once_for_each_sub_buffer) {
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 8, 4);
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(seen.starts, 1);
  CHECK(seen.subbuf && !seen.previous && seen.padding == 0 && seen.was_empty);
  void *first = seen.subbuf;
  for (int i = 0; i < 2; i++) EQUAL(relay_write(chan, "abc", 3), 0);
  EQUAL(seen.starts, 1);
  CHECK(!memcmp(first, "abcabc", 6));
  EQUAL(relay_write(chan, "abc", 3), 0);
  EQUAL(seen.starts, 2);
  CHECK(seen.previous == first && seen.subbuf != first && seen.padding == 2);
  CHECK(!seen.was_full && !seen.was_empty);
  EQUAL(relay_flush(chan), 0);
  EQUAL(relay_flush(chan), 0);
  EQUAL(seen.starts, 3);
  EQUAL(seen.padding, 5);
  EQUAL(relay_switch_subbuf(buf, 1), 1);
  EQUAL(seen.starts, 4);
  EQUAL(seen.padding, 8);
  EQUAL(account(buf).subbufs_produced, 3);
  CHECK(!strcmp(drain(buf), "abcabcabc"));
  relay_detach(chan);
}

TEST(refusing_when_full_keeps_the_oldest) {
  seen.refuses_when_full = 1;
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 4, 3);
  relay_buf *buf = relay_buffer(chan, 0);
  for (int i = 0; i < 3; i++) EQUAL(relay_write(chan, "abcd", 4), 0);
  for (int i = 1; i < 5; i++) {
    EQUAL(relay_write(chan, "e", 1), -ENOBUFS);
    EQUAL(seen.refusals, i);
  }
  EQUAL(relay_write_wait(chan, "e", 1, 20), -ENOBUFS);
  EQUAL(account(buf).lost_full, 4);
  EQUAL(relay_flush(chan), -ENOBUFS);
  EQUAL(seen.starts, 3);
  CHECK(!strcmp(drain(buf), "abcdabcdabcd"));
  EQUAL(relay_write(chan, "f", 1), 0);
  EQUAL(seen.starts, 4);
  CHECK(!strcmp(drain(buf), "f"));
  EQUAL(account(buf).lost_overwritten, 0);
  relay_detach(chan);
}

TEST(always_going_on_overwrites) {
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 4, 3);
  relay_buf *buf = relay_buffer(chan, 0);
  for (int i = 0; i < 100; i++) EQUAL(relay_printf(chan, "%02d", i), 0);
  EQUAL(seen.starts, 50);
  EQUAL(seen.was_full, 1);
  CHECK(!strcmp(drain(buf), "949596979899"));
  EQUAL(account(buf).lost_overwritten, 94);
  relay_detach(chan);
}

TEST(a_refusal_for_another_reason_is_asked_again) {
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 4, 3);
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(relay_write(chan, "abcd", 4), 0);
  seen.refuses = 1;
  EQUAL(relay_write(chan, "e", 1), -ENOBUFS);
  EQUAL(relay_switch_subbuf(buf, 1), 0);
  EQUAL(seen.refusals, 2);
  CHECK(!strcmp(drain(buf), "abcd"));
  seen.refuses = 0;
  EQUAL(relay_write(chan, "e", 1), 0);
  CHECK(!strcmp(drain(buf), "e"));
  relay_detach(chan);
}

TEST(a_header_is_delivered_when_it_can_be_filled_no_more) {
  seen.header = 2;
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 8, 4);
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(relay_write(chan, "abcde", 5), 0);
  CHECK(!strcmp(drain(buf), ""));
  EQUAL(relay_poll(buf), 0);
  EQUAL(relay_write(chan, "fghi", 4), 0);
  // The second start put the first one's padding into its header.
  CHECK(!strcmp(drain(buf), "1?abcde"));
  EQUAL(relay_flush(chan), 0);
  CHECK(!strcmp(drain(buf), "2?fghi"));
  int starts = seen.starts;
  EQUAL(relay_flush(chan), 0);
  EQUAL(seen.starts, starts);
  EQUAL(relay_write(chan, "jk", 2), 0);
  EQUAL(relay_close(chan), 0);
  CHECK(!strcmp(drain(buf), "??jk"));
  relay_detach(chan);
}

TEST(a_header_is_readable_even_where_the_next_start_was_refused) {
  seen.header = 1;
  seen.refuses_when_full = 1;
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 4, 2);
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(relay_write(chan, "abc", 3), 0);
  EQUAL(relay_write(chan, "de", 2), 0);
  EQUAL(relay_write(chan, "fgh", 3), -ENOBUFS);
  CHECK(!strcmp(drain(buf), "0abc?de"));
  EQUAL(relay_write(chan, "fgh", 3), 0);
  relay_detach(chan);
}

// No sub-buffer can be offered, so the padding cannot be put into the header yet.
TEST(a_header_stays_open_while_reservations_hold_all_other_sub_buffers) {
  seen.header = 1;
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 4, 2);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_reservation reservation;
  CHECK(relay_reserve(chan, 3, &reservation));
  EQUAL(relay_write(chan, "ab", 2), 0);
  EQUAL(relay_write(chan, "cd", 2), -ENOBUFS);
  EQUAL(seen.starts, 2);
  relay_cancel(&reservation);
  CHECK(!strcmp(drain(buf), "0"));
  EQUAL(relay_write(chan, "cd", 2), 0);
  CHECK(!strcmp(drain(buf), "1ab"));
  EQUAL(relay_flush(chan), 0);
  CHECK(!strcmp(drain(buf), "1cd"));
  relay_detach(chan);
}

static int start_twice(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  (void)previous, (void)padding;
  seen.starts++;
  relay_subbuf_start_reserve(buf, 2);
  relay_subbuf_start_reserve(buf, seen.starts == 1 ? 3 : SIZE_MAX);
  memcpy(subbuf, "header..", seen.starts == 1 ? 5 : 8);
  return 1;
}

TEST(what_a_callback_reserves_adds_up) {
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start_twice}, 8, 4);
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(relay_write(chan, "abcd", 4), -EMSGSIZE);
  CHECK(!strcmp(drain(buf), "heade"));
  EQUAL(relay_write(chan, "", 0), 0);
  EQUAL(relay_flush(chan), 0);
  CHECK(!strcmp(drain(buf), "header.."));
  relay_detach(chan);
}

TEST(behind_a_header_there_is_less_room) {
  seen.header = 3;
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 8, 4);
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(relay_write(chan, "abcdef", 6), -EMSGSIZE);
  EQUAL(relay_write(chan, "abcdefghi", 9), -EMSGSIZE);
  EQUAL(account(buf).lost_too_big, 2);
  EQUAL(relay_write(chan, "abcde", 5), 0);
  relay_detach(chan);
  memset(&seen, 0, sizeof seen);
  seen.header = SIZE_MAX;
  chan = open_with((relay_callbacks){.subbuf_start = NULL}, 8, 4);
  relay_subbuf_start_reserve(relay_buffer(chan, 0), 4);
  EQUAL(relay_write(chan, "abcdefgh", 8), 0);
  CHECK(!strcmp(drain(relay_buffer(chan, 0)), "abcdefgh"));
  relay_detach(chan);
}

TEST(a_reset_starts_again_without_a_previous_sub_buffer) {
  seen.header = 1;
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 4, 3);
  relay_buf *buf = relay_buffer(chan, 0);
  for (int i = 0; i < 10; i++) EQUAL(relay_write(chan, "abc", 3), 0);
  EQUAL(seen.starts, 10);
  EQUAL(relay_reset(chan), 0);
  EQUAL(seen.starts, 11);
  CHECK(!seen.previous && seen.padding == 0);
  CHECK(!strcmp(drain(buf), ""));
  EQUAL(relay_write(chan, "def", 3), 0);
  EQUAL(relay_flush(chan), 0);
  CHECK(!strcmp(drain(buf), "0def"));
  relay_detach(chan);
}

TEST(a_reset_where_reservations_hold_all_starts_once_one_has_ended) {
  seen.refuses_when_full = 1;
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start}, 4, 2);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_reservation first, second;
  CHECK(relay_reserve(chan, 2, &first));
  EQUAL(relay_write(chan, "ab", 2), 0);
  CHECK(relay_reserve(chan, 2, &second));
  EQUAL(seen.starts, 2);
  EQUAL(relay_reset(chan), 0);
  EQUAL(relay_write(chan, "c", 1), -ENOBUFS);
  EQUAL(relay_reset(chan), 0);
  EQUAL(seen.starts, 2);
  relay_commit(&first);
  EQUAL(relay_write(chan, "d", 1), 0);
  EQUAL(seen.starts, 3);
  CHECK(!seen.previous && seen.padding == 0);
  relay_commit(&second);
  CHECK(!strcmp(drain(buf), "d"));
  EQUAL(relay_flush(chan), 0);
  EQUAL(seen.starts, 4);
  CHECK(seen.previous && seen.padding == 3);
  relay_detach(chan);
}

static relay_chan *reentered;

static int reenter(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  char one;
  struct relay_stat stat;
  relay_reservation reservation;
  (void)subbuf, (void)padding;
  if (!previous) return 1;
  EQUAL(relay_write(reentered, "x", 1), -EDEADLK);
  EQUAL(relay_write_wait(reentered, "x", 1, 10), -EDEADLK);
  CHECK(!relay_reserve(reentered, 1, &reservation) && errno == EDEADLK);
  EQUAL(relay_read(buf, &one, 1), -EDEADLK);
  EQUAL(relay_poll(buf), POLLERR);
  EQUAL(relay_poll_fd(buf), -EDEADLK);
  EQUAL(relay_flush(reentered), -EDEADLK);
  EQUAL(relay_reset(reentered), -EDEADLK);
  EQUAL(relay_close(reentered), -EDEADLK);
  EQUAL(relay_switch_subbuf(buf, 1), 0);
  EQUAL(relay_statistics(buf, &stat, sizeof stat), -EDEADLK);
  CHECK(!relay_private(reentered));
  seen.starts++;
  return 1;
}

static int start_with_nonsense(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  static const int nonsense[] = {-1, 2, INT_MIN, INT_MAX};
  (void)buf, (void)subbuf, (void)previous, (void)padding;
  return nonsense[seen.starts++ % 4];
}

TEST(anything_but_0_goes_on) {
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start_with_nonsense}, 4, 4);
  for (int i = 0; i < 9; i++) EQUAL(relay_printf(chan, "%04d", i), 0);
  EQUAL(seen.starts, 9);
  CHECK(!strcmp(drain(relay_buffer(chan, 0)), "0005000600070008"));
  relay_detach(chan);
}

static int start_and_scribble(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  (void)previous, (void)padding;
  seen.starts++;
  memset(subbuf, '!', 8);
  relay_subbuf_start_reserve(buf, seen.starts % 2 ? 1 : SIZE_MAX);
  return 1;
}

TEST(what_a_callback_writes_past_its_header_is_overwritten) {
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start_and_scribble}, 8, 4);
  EQUAL(relay_write(chan, "abc", 3), 0);
  EQUAL(relay_write(chan, "def", 3), 0);
  // The next one is all header, which leaves no room for a record.
  EQUAL(relay_write(chan, "ghi", 3), -EMSGSIZE);
  CHECK(!strcmp(drain(relay_buffer(chan, 0)), "!abcdef"));
  EQUAL(relay_write(chan, "ghi", 3), 0);
  EQUAL(relay_flush(chan), 0);
  CHECK(!strcmp(drain(relay_buffer(chan, 0)), "!!!!!!!!!ghi"));
  relay_detach(chan);
}

static int start_on_zeroes(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  static const char zeroes[5000];
  (void)buf, (void)previous, (void)padding;
  CHECK(!memcmp(subbuf, zeroes, sizeof zeroes));
  seen.starts++;
  return 1;
}

TEST(a_new_buffer_is_zeroed) {
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start_on_zeroes}, 5000, 3);
  for (int i = 0; i < 2; i++) EQUAL(relay_switch_subbuf(relay_buffer(chan, 0), 1), 1);
  EQUAL(seen.starts, 3);
  relay_detach(chan);
}

TEST(a_callback_that_calls_back_is_refused) {
  reentered = open_with((relay_callbacks){.subbuf_start = reenter}, 4, 3);
  EQUAL(relay_write(reentered, "abcd", 4), 0);
  EQUAL(relay_write(reentered, "efgh", 4), 0);
  EQUAL(seen.starts, 1);
  CHECK(!strcmp(drain(relay_buffer(reentered, 0)), "abcdefgh"));
  relay_detach(reentered);
}

static int inside;

static int start_alone(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  (void)buf, (void)subbuf, (void)previous, (void)padding;
  EQUAL(__atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST), 1);
  seen.starts++;
  EQUAL(__atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST), 0);
  return 1;
}

static void *write_many(void *chan) {
  relay_reservation reservation;
  for (int i = 0; i < 5000; i++) {
    EQUAL(relay_write(chan, "ab", 2), 0);
    char *space = relay_reserve(chan, 2, &reservation);
    CHECK(space);
    memcpy(space, "cd", 2);
    if (i % 100) relay_commit(&reservation);
    else relay_cancel(&reservation);
  }
  return NULL;
}

TEST(threads_take_turns_in_a_callback) {
  relay_chan *chan = open_with((relay_callbacks){.subbuf_start = start_alone}, 64, 8);
  relay_buf *buf = relay_buffer(chan, 0);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) EQUAL(pthread_create(&threads[i], NULL, write_many, chan), 0);
  char text[100];
  for (int i = 0; i < 1000; i++) {
    ssize_t n = relay_read(buf, text, sizeof text);
    CHECK(n >= 0 && n % 2 == 0);
    for (ssize_t j = 0; j < n; j += 2)
      CHECK(!memcmp(text + j, "ab", 2) || !memcmp(text + j, "cd", 2));
  }
  for (int i = 0; i < 4; i++) EQUAL(pthread_join(threads[i], NULL), 0);
  drain(buf);
  struct relay_stat stat = account(buf);
  EQUAL(stat.subbufs_produced + 1, seen.starts);
  EQUAL(stat.records_written, 39800);
  EQUAL(stat.records_read + stat.lost_overwritten, stat.records_written);
  EQUAL(stat.cancelled, 200);
  relay_detach(chan);
}
