// SPDX-License-Identifier: Apache-2.0
// Own channels read by records: their bytes, numbers, times, and what was lost before them.
#include <time.h>

#include "test.h"

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

TEST(records_come_whole_with_their_times) {
  relay_chan *chan = open_small(16, 4, RELAY_TIMESTAMPS);
  relay_buf *buf = relay_buffer(chan, 0);
  struct relay_record record;
  char text[16];
  // What the library may be wrong by.
  uint64_t last = now() - 100000;
  EQUAL(relay_read_record(buf, text, sizeof text, &record, sizeof record), -EAGAIN);
  for (unsigned i = 0; i < 20; i++) {
    EQUAL(relay_write(chan, "abcdefg", i % 8), 0);
    CHECK(relay_poll(buf) & POLLIN);
    EQUAL(relay_read_record(buf, text, sizeof text, &record, sizeof record), i % 8);
    CHECK(!memcmp(text, "abcdefg", i % 8));
    EQUAL(record.sequence, i);
    CHECK(record.time >= last && record.time <= now() + 100000);
    last = record.time;
    CHECK(!record.lost_full && !record.lost_overwritten && !record.lost_stalled);
  }
  EQUAL(relay_close(chan), 0);
  EQUAL(relay_read_record(buf, text, sizeof text, &record, sizeof record), -EPIPE);
  relay_detach(chan);
}

TEST(an_empty_record_wakes_who_waits_for_records) {
  relay_chan *chan = open_small(16, 4, RELAY_TIMESTAMPS);
  relay_buf *buf = relay_buffer(chan, 0);
  struct relay_record record;
  int fd = relay_poll_fd(buf);
  CHECK(fd >= 0 && !readable(fd));
  EQUAL(relay_write(chan, NULL, 0), 0);
  CHECK(readable(fd));
  CHECK(relay_poll(buf) & POLLIN);
  EQUAL(relay_read_record(buf, NULL, 0, &record, sizeof record), 0);
  CHECK(record.time > 0);
  CHECK(!readable(fd));
  relay_detach(chan);
}

TEST(what_was_lost_is_told_at_its_place) {
  relay_chan *chan = open_small(16, 2, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  struct relay_record record;
  char text[16];
  for (int i = 0; i < 5; i++) relay_write(chan, "0123456789abcdef", 16);
  for (int i = 0; i < 2; i++) {
    EQUAL(relay_read_record(buf, text, sizeof text, &record, sizeof record), 16);
    EQUAL(record.lost_full, 0);
  }
  EQUAL(relay_write(chan, "x", 1), 0);
  EQUAL(relay_read_record(buf, text, sizeof text, &record, sizeof record), 1);
  EQUAL(record.lost_full, 3);
  EQUAL(record.sequence, 2);
  EQUAL(record.time, 0);
  relay_detach(chan);
}

TEST(a_record_that_does_not_fit_stays) {
  relay_chan *chan = open_small(16, 2, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  char text[16] = {0};
  relay_write(chan, "abcd", 4);
  EQUAL(relay_read_record(buf, text, 3, NULL, 0), -EMSGSIZE);
  CHECK(!text[0]);
  EQUAL(relay_read(buf, text, 1), 1);
  EQUAL(relay_read_record(buf, text + 1, 3, NULL, 0), 3);
  CHECK(!strcmp(text, "abcd"));
  relay_detach(chan);
}

TEST(callers_of_other_versions_get_what_they_have_room_for) {
  relay_chan *chan = open_small(16, 2, RELAY_TIMESTAMPS);
  relay_buf *buf = relay_buffer(chan, 0);
  struct {
    struct relay_record record;
    uint64_t more;
  } newer;
  char one;
  for (int i = 0; i < 3; i++) relay_write(chan, "a", 1);
  memset(&newer, 0xff, sizeof newer);
  EQUAL(relay_read_record(buf, &one, 1, &newer.record, sizeof newer), 1);
  CHECK(newer.record.time > 0 && newer.more == 0);
  memset(&newer, 0xff, sizeof newer);
  EQUAL(relay_read_record(buf, &one, 1, &newer.record, sizeof(uint64_t)), 1);
  CHECK(newer.record.sequence == 1 && newer.record.time == UINT64_MAX);
  EQUAL(relay_read_record(buf, NULL, 1, NULL, 0), -EINVAL);
  EQUAL(relay_read_record(buf, &one, 1, NULL, 1), -EINVAL);
  EQUAL(relay_read_record(NULL, &one, 1, NULL, 0), -EINVAL);
  EQUAL(relay_read_record(buf, &one, 1, NULL, 0), 1);
  relay_detach(chan);
}
