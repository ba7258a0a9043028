// SPDX-License-Identifier: Apache-2.0
// Own channels: opening, reading, waiting, sub-buffers, counts, end.
#include <unistd.h>

#include "test.h"

TEST(what_cannot_be_opened_is_refused) {
  relay_callbacks none = {0}, huge = {.size = 1 << 20}, odd = {.size = 20};
  const struct {
    size_t size, count;
    unsigned flags;
    const relay_callbacks *callbacks;
    int error;
  } cases[] = {
      {0, 4, 0, NULL, EINVAL},          {4096, 0, 0, NULL, EINVAL},
      {4096, 1, 0, NULL, EINVAL},       {SIZE_MAX, 4, 0, NULL, EINVAL},
      {4096, SIZE_MAX, 0, NULL, EINVAL}, {(32 << 20) + 1, 2, 0, NULL, EINVAL},
      {4096, 65537, 0, NULL, EINVAL},   {4096, 4, 8, NULL, EINVAL},
      {4096, 4, 0, &none, EINVAL},      {4096, 4, 0, &huge, EINVAL},
      {4096, 4, 0, &odd, EINVAL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    errno = 0;
    relay_chan *chan = relay_open(
        "x", cases[i].size, cases[i].count, cases[i].flags, cases[i].callbacks, NULL);
    CHECK(!chan);
    EQUAL(errno, cases[i].error);
  }
}

TEST(private_data_is_the_callers) {
  int mine;
  relay_chan *chan = relay_open("x", 64, 2, 0, NULL, &mine);
  CHECK(chan && relay_private(chan) == &mine);
  relay_detach(chan);
}

TEST(a_read_may_end_inside_a_record) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  char text[10] = {0};
  relay_write(chan, "abcdef", 6);
  EQUAL(relay_read(buf, text, 0), 0);
  EQUAL(relay_read(buf, text, 4), 4);
  CHECK(!strcmp(text, "abcd"));
  CHECK(!strcmp(drain(buf), "ef"));
  EQUAL(relay_read(buf, text, 4), 0);
  relay_detach(chan);
}

TEST(a_descriptor_is_readable_while_there_is_data) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_reservation reservation;
  int fd = relay_poll_fd(buf);
  CHECK(fd >= 0);
  EQUAL(relay_poll_fd(buf), fd);
  for (int i = 0; i < 3; i++) {
    CHECK(!readable(fd) && relay_poll(buf) == 0);
    relay_write(chan, "ab", 2);
    CHECK(readable(fd));
    EQUAL(relay_poll(buf), POLLIN | POLLRDNORM);
    char one;
    EQUAL(relay_read(buf, &one, 1), 1);
    CHECK(readable(fd));
    drain(buf);
  }
  // Woken for nothing: one look settles it.
  CHECK(relay_reserve(chan, 1, &reservation));
  relay_cancel(&reservation);
  EQUAL(relay_poll(buf), 0);
  CHECK(!readable(fd));
  relay_write(chan, "c", 1);
  CHECK(readable(fd));
  relay_detach(chan);
}

TEST(a_descriptor_that_comes_after_the_data_is_readable) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_write(chan, "ab", 2);
  CHECK(readable(relay_poll_fd(relay_buffer(chan, 0))));
  relay_detach(chan);
}

TEST(each_buffer_has_its_own_descriptor) {
  relay_chan *chan = relay_open(NULL, 64, 4, 0, NULL, NULL);
  CHECK(chan);
  unsigned cpus = relay_buffers(chan), count = 0;
  int fds[4096];
  for (unsigned cpu = 0; cpu < cpus; cpu++)
    fds[cpu] = relay_buffer(chan, cpu) ? relay_poll_fd(relay_buffer(chan, cpu)) : -1;
  EQUAL(relay_write(chan, "x", 1), 0);
  for (unsigned cpu = 0; cpu < cpus; cpu++) {
    if (fds[cpu] < 0) continue;
    EQUAL(readable(fds[cpu]), relay_poll(relay_buffer(chan, cpu)) & POLLIN);
    count += (unsigned)readable(fds[cpu]);
  }
  EQUAL(count, 1);
  relay_detach(chan);
}

TEST(a_flush_closes_a_sub_buffer_that_holds_data) {
  relay_chan *chan = open_small(64, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(relay_flush(chan), 0);
  EQUAL(account(buf).subbufs_produced, 0);
  relay_write(chan, "ab", 2);
  EQUAL(relay_buf_empty(buf), 1);
  EQUAL(relay_flush(chan), 0);
  EQUAL(relay_flush(chan), 0);
  EQUAL(account(buf).subbufs_produced, 1);
  EQUAL(account(buf).padding, 62);
  EQUAL(relay_buf_empty(buf), 0);
  CHECK(!strcmp(drain(buf), "ab"));
  EQUAL(relay_buf_empty(buf), 1);
  relay_detach(chan);
}

TEST(a_switch_leaves_even_an_empty_sub_buffer) {
  relay_chan *chan = open_small(8, 3, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_write(chan, "a", 1);
  EQUAL(relay_switch_subbuf(buf, 9), 0);
  EQUAL(account(buf).lost_too_big, 1);
  EQUAL(account(buf).subbufs_produced, 0);
  EQUAL(relay_switch_subbuf(buf, 8), 8);
  EQUAL(relay_switch_subbuf(buf, 3), 3);
  EQUAL(account(buf).subbufs_produced, 2);
  relay_write(chan, "b", 1);
  EQUAL(relay_switch_subbuf(buf, 1), 0);
  EQUAL(relay_buf_full(buf), 1);
  CHECK(!strcmp(drain(buf), "ab"));
  EQUAL(relay_switch_subbuf(buf, 1), 1);
  relay_close(chan);
  EQUAL(relay_switch_subbuf(buf, 1), 0);
  relay_detach(chan);
}

TEST(a_reset_buffer_is_switched_as_a_new_one) {
  relay_chan *chan = open_small(8, 3, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_write(chan, "abc", 3);
  for (int i = 0; i < 4; i++) {
    EQUAL(relay_reset(chan), 0);
    EQUAL(relay_switch_subbuf(buf, 8), 8);
    EQUAL(account(buf).subbufs_produced, 1);
    EQUAL(account(buf).padding, 8);
  }
  relay_detach(chan);
}

TEST(a_reset_forgets_everything) {
  relay_chan *chan = open_small(4, 3, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  int fd = relay_poll_fd(buf);
  while (relay_write(chan, "abc", 3) == 0) continue;
  EQUAL(relay_reset(chan), 0);
  CHECK(!readable(fd));
  struct relay_stat stat = account(buf), zero = {0};
  CHECK(!memcmp(&stat, &zero, sizeof stat));
  EQUAL(relay_write(chan, "d", 1), 0);
  CHECK(!strcmp(drain(buf), "d"));
  relay_detach(chan);
}

TEST(a_poll_descriptor_that_the_program_closed_is_said) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  CHECK(relay_poll_fd(buf) > 2);
  closefrom(3);
  EQUAL(relay_poll_fd(buf), -EBADF);
  EQUAL(relay_write(chan, "ab", 2), 0);
  EQUAL(relay_poll(buf), POLLIN | POLLRDNORM);
  CHECK(!strcmp(drain(buf), "ab"));
  relay_detach(chan);
}

TEST(a_closed_channel_refuses_and_drains) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  int fd = relay_poll_fd(buf);
  relay_reservation reservation;
  relay_write(chan, "ab", 2);
  EQUAL(relay_close(chan), 0);
  EQUAL(relay_close(chan), 0);
  EQUAL(relay_write(chan, "c", 1), -EPIPE);
  EQUAL(relay_write_wait(chan, "c", 1, -1), -EPIPE);
  EQUAL(relay_printf(chan, "c"), -EPIPE);
  EQUAL(relay_flush(chan), -EPIPE);
  CHECK(!relay_reserve(chan, 1, &reservation) && errno == EPIPE);
  EQUAL(relay_poll(buf), POLLIN | POLLRDNORM | POLLHUP);
  CHECK(readable(fd));
  CHECK(!strcmp(drain(buf), "ab"));
  EQUAL(relay_poll(buf), POLLHUP);
  CHECK(readable(fd));
  relay_detach(chan);
}

TEST(a_reader_that_waits_learns_of_the_close) {
  relay_chan *chan = open_small(16, 4, 0);
  int fd = relay_poll_fd(relay_buffer(chan, 0));
  CHECK(!readable(fd));
  relay_close(chan);
  CHECK(readable(fd));
  relay_detach(chan);
}

TEST(statistics_come_in_the_callers_size) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_write(chan, "ab", 2);
  struct {
    struct relay_stat known;
    uint64_t newer;
  } stat = {.newer = 1};
  EQUAL(relay_statistics(buf, &stat.known, sizeof stat), 0);
  EQUAL(stat.known.records_written, 1);
  EQUAL(stat.known.bytes_written, 2);
  EQUAL(stat.newer, 0);
  memset(&stat, 1, sizeof stat);
  EQUAL(relay_statistics(buf, &stat.known, 16), 0);
  EQUAL(stat.known.subbufs_consumed, 0);
  EQUAL(stat.known.records_written, 0x0101010101010101);
  relay_detach(chan);
}

TEST(a_name_is_given_once) {
  relay_chan *chan = open_small(16, 4, 0);
  EQUAL(relay_late_setup_files(NULL, "x"), -EINVAL);
  EQUAL(relay_late_setup_files(chan, NULL), -EINVAL);
  EQUAL(relay_late_setup_files(chan, ""), -EINVAL);
  EQUAL(relay_late_setup_files(chan, "x"), 0);
  EQUAL(relay_late_setup_files(chan, "x"), -EEXIST);
  relay_detach(chan);
}

TEST(opening_and_detaching_leaves_nothing_behind) {
  int first = -1;
  for (int i = 0; i < 300; i++) {
    relay_chan *chan = open_small(16, 4, 0);
    int fd = relay_poll_fd(relay_buffer(chan, 0));
    if (i == 0) first = fd;
    EQUAL(fd, first);
    relay_write(chan, "x", 1);
    relay_detach(chan);
  }
}
