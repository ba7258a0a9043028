// SPDX-License-Identifier: Apache-2.0
// Own channels: relay_subbufs_consumed.
#include <pthread.h>

#include "test.h"

TEST(consumed_sub_buffers_are_passed_and_free) {
  relay_chan *chan = open_small(4, 3, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_write(chan, "abcd", 4);
  relay_write(chan, "ef", 2);
  relay_write(chan, "g", 1);
  relay_write(chan, "hijk", 4);
  EQUAL(relay_write(chan, "l", 1), -ENOBUFS);
  char one;
  EQUAL(relay_read(buf, &one, 1), 1);
  EQUAL(relay_subbufs_consumed(chan, 0, 1), 0);
  EQUAL(relay_write(chan, "m", 1), 0);
  EQUAL(relay_subbufs_consumed(chan, 0, SIZE_MAX), 0);
  struct relay_stat stat = account(buf);
  EQUAL(stat.subbufs_consumed, 3);
  EQUAL(stat.subbufs_produced, 3);
  EQUAL(stat.records_read, 4);
  EQUAL(stat.lost_overwritten, 0);
  CHECK(!strcmp(drain(buf), "m"));
  relay_detach(chan);
}

TEST(a_consumed_sub_buffer_may_end_with_empty_records) {
  relay_chan *chan = open_small(4, 3, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_write(chan, "ab", 2);
  char text[2];
  relay_write(chan, "", 0);
  EQUAL(relay_read(buf, text, 2), 2);
  relay_write(chan, "", 0);
  relay_write(chan, "cdef", 4);
  EQUAL(relay_subbufs_consumed(chan, 0, 1), 0);
  EQUAL(account(buf).subbufs_consumed, 1);
  EQUAL(account(buf).records_read, 3);
  CHECK(!strcmp(drain(buf), "cdef"));
  relay_detach(chan);
}

// Consumes one sub-buffer, and says how many that were.
static uint64_t consume_one(relay_chan *chan) {
  relay_buf *buf = relay_buffer(chan, 0);
  uint64_t before = account(buf).subbufs_consumed;
  EQUAL(relay_subbufs_consumed(chan, 0, 1), 0);
  return account(buf).subbufs_consumed - before;
}

static void cancel_one(relay_chan *chan, size_t length) {
  relay_reservation reservation;
  CHECK(relay_reserve(chan, length, &reservation));
  relay_cancel(&reservation);
}

TEST(consuming_ends_where_the_sub_buffer_does) {
  relay_chan *chan = open_small(8, 6, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_write(chan, "aa", 2);
  cancel_one(chan, 6);
  cancel_one(chan, 8);
  EQUAL(relay_switch_subbuf(buf, 8), 8);
  EQUAL(relay_switch_subbuf(buf, 8), 8);
  relay_write(chan, "12345678", 8);
  relay_write(chan, "z", 1);
  // Cancelled in part, as a whole, and empty.
  for (int i = 0; i < 3; i++) {
    EQUAL(consume_one(chan), 1);
    EQUAL(account(buf).records_read, 1);
    EQUAL(account(buf).bytes_read, 2);
  }
  CHECK(!strcmp(drain(buf), "12345678z"));
  relay_detach(chan);
}

TEST(consumed_sub_buffers_with_cancelled_records_add_up) {
  relay_chan *chan = open_small(8, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_write(chan, "ab", 2);
  char text[2];
  EQUAL(relay_read(buf, text, 2), 2);
  // No bytes are left in the sub-buffer.
  relay_write(chan, "", 0);
  cancel_one(chan, 0);
  relay_write(chan, "12345678", 8);
  relay_write(chan, "z", 1);
  EQUAL(consume_one(chan), 1);
  struct relay_stat stat = account(buf);
  EQUAL(stat.records_written, 4);
  EQUAL(stat.records_read, 2);
  EQUAL(stat.cancelled, 1);
  EQUAL(stat.lost_overwritten, 0);
  CHECK(!strcmp(drain(buf), "12345678z"));
  EQUAL(account(buf).records_read, 4);
  relay_detach(chan);
}

TEST(a_sub_buffer_in_a_hundred_pieces_is_consumed_at_once) {
  relay_chan *chan = open_small(300, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  for (int i = 0; i < 100; i++) {
    relay_write(chan, "ab", 2);
    cancel_one(chan, 1);
  }
  relay_write(chan, "c", 1);
  EQUAL(consume_one(chan), 1);
  EQUAL(account(buf).records_read, 100);
  EQUAL(account(buf).bytes_read, 200);
  CHECK(!strcmp(drain(buf), "c"));
  relay_detach(chan);
}

static volatile int is_over;

static void *write_on(void *chan) {
  while (!is_over) relay_write(chan, "12345678", 8);
  return NULL;
}

TEST(consuming_does_not_follow_who_writes_meanwhile) {
  relay_chan *chan = open_small(8, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  pthread_t writers[2];
  for (int i = 0; i < 2; i++) EQUAL(pthread_create(&writers[i], NULL, write_on, chan), 0);
  for (uint64_t consumed = 0, before; consumed < 100000;) {
    before = consumed;
    EQUAL(relay_subbufs_consumed(chan, 0, SIZE_MAX), 0);
    consumed = account(buf).subbufs_consumed;
    // One of the four is the writers'.
    CHECK(consumed - before <= 3);
  }
  is_over = 1;
  for (int i = 0; i < 2; i++) EQUAL(pthread_join(writers[i], NULL), 0);
  relay_detach(chan);
}

TEST(a_sub_buffer_with_an_open_reservation_is_not_consumed) {
  relay_chan *chan = open_small(8, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_reservation reservation;
  relay_write(chan, "abcdefgh", 8);
  relay_write(chan, "ij", 2);
  char *space = relay_reserve(chan, 2, &reservation);
  CHECK(space);
  relay_write(chan, "mnopqrst", 8);
  relay_write(chan, "u", 1);
  EQUAL(relay_subbufs_consumed(chan, 0, SIZE_MAX), 0);
  EQUAL(account(buf).subbufs_consumed, 1);
  EQUAL(account(buf).records_read, 1);
  EQUAL(consume_one(chan), 0);
  memcpy(space, "kl", 2);
  relay_commit(&reservation);
  CHECK(!strcmp(drain(buf), "ijklmnopqrstu"));
  relay_detach(chan);
}

TEST(a_sub_buffer_that_writers_are_in_is_not_consumed) {
  relay_chan *chan = open_small(8, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(consume_one(chan), 0);
  relay_write(chan, "abcd", 4);
  char one;
  EQUAL(relay_read(buf, &one, 1), 1);
  EQUAL(consume_one(chan), 0);
  CHECK(!strcmp(drain(buf), "bcd"));
  relay_detach(chan);
}

TEST(a_loss_before_a_consumed_sub_buffer_is_told_with_what_comes_next) {
  relay_chan *chan = open_small(4, 3, RELAY_OVERWRITE);
  relay_buf *buf = relay_buffer(chan, 0);
  for (int i = 0; i < 10; i++) EQUAL(relay_printf(chan, "%04d", i), 0);
  EQUAL(relay_subbufs_consumed(chan, 0, 1), 0);
  char text[4];
  struct relay_record record;
  EQUAL(relay_read_record(buf, text, 4, &record, sizeof record), 4);
  CHECK(!memcmp(text, "0008", 4));
  EQUAL(record.sequence, 8);
  EQUAL(record.lost_overwritten, 7);
  EQUAL(account(buf).records_read, 2);
  EQUAL(account(buf).lost_overwritten, 7);
  relay_detach(chan);
}

TEST(what_is_left_of_an_overwritten_sub_buffer_is_one) {
  relay_chan *chan = open_small(8, 3, RELAY_OVERWRITE);
  relay_buf *buf = relay_buffer(chan, 0);
  char two[2];
  EQUAL(relay_write(chan, "abcdef", 6), 0);
  EQUAL(relay_read(buf, two, 2), 2);
  for (int i = 0; i < 5; i++) EQUAL(relay_printf(chan, "%08d", i), 0);
  EQUAL(relay_subbufs_consumed(chan, 0, 1), 0);
  CHECK(!strncmp(drain(buf), "0000000", 7));
  struct relay_stat stat = account(buf);
  EQUAL(stat.records_read + stat.lost_overwritten, stat.records_written);
  relay_detach(chan);
}
