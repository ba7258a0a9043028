// SPDX-License-Identifier: Apache-2.0
// What relay does, and relayd with it: writing, switching, reading, waiting, the end. Each test is
// one behaviour, and runs on whatever subject.h opens.
#include <pthread.h>
#include <stdint.h>

#include "subject.h"

TEST(impossible_sizes_are_refused) {
  const size_t cases[][2] = {{0, 4}, {4096, 0}, {SIZE_MAX / 2, 4}, {4096, SIZE_MAX / 2}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    CHECK(!try_open(cases[i][0], cases[i][1], 0).chan);
    EQUAL(errno, EINVAL);
  }
}

TEST(a_single_sub_buffer_is_refused) {
  CHECK(!try_open(4096, 1, 0).chan);
  EQUAL(errno, EINVAL);
}

TEST(sizes_need_not_be_those_of_pages) {
  const size_t sizes[] = {1, 3, 4097};
  for (size_t i = 0; i < 3; i++) {
    subject it = open_subject(sizes[i], 2, 0);
    for (int n = 0; n < 5; n++) {
      EQUAL(relay_write(it.chan, "x", 1), 0);
      CHECK(!strcmp(read_all(it), "x"));
    }
    end_subject(it);
  }
}

TEST(a_global_channel_has_one_buffer) {
  subject it = open_subject(64, 4, RELAY_GLOBAL);
  EQUAL(relay_buffers(it.chan), 1);
  CHECK(!relay_buffer(it.chan, 1));
  if (devices()) {
    char path[200];
    snprintf(path, sizeof path, "%s%s1", devices(), it.name);
    CHECK(access(path, F_OK) == -1 && errno == ENOENT);
  }
  end_subject(it);
}

TEST(a_write_says_what_became_of_its_record) {
  subject it = open_subject(4, 2, 0);
  EQUAL(relay_write(it.chan, "abcd", 4), 0);
  EQUAL(relay_write(it.chan, "efgh", 4), 0);
  EQUAL(relay_write(it.chan, "i", 1), -ENOBUFS);
  EQUAL(relay_write(it.chan, "ijklm", 5), -EMSGSIZE);
  CHECK(!strcmp(read_all(it), "abcdefgh"));
  EQUAL(relay_close(it.chan), 0);
  EQUAL(relay_write(it.chan, "n", 1), -EPIPE);
  end_subject(it);
}

TEST(a_reserved_record_is_invisible_until_it_is_committed) {
  subject it = open_subject(64, 4, 0);
  relay_reservation reservation;
  char *space = relay_reserve(it.chan, 3, &reservation);
  CHECK(space);
  EQUAL(relay_write(it.chan, "def", 3), 0);
  EQUAL(ready(it), 0);
  CHECK(!strcmp(read_all(it), ""));
  memcpy(space, "abc", 3);
  relay_commit(&reservation);
  EQUAL(ready(it), POLLIN);
  CHECK(!strcmp(read_all(it), "abcdef"));
  end_subject(it);
}

TEST(a_switch_leaves_padding_and_counts) {
  subject it = open_subject(8, 3, 0);
  EQUAL(relay_write(it.chan, "abc", 3), 0);
  EQUAL(relay_switch_subbuf(it.buf, 9), 0);
  EQUAL(account(it.buf).lost_too_big, 1);
  EQUAL(account(it.buf).subbufs_produced, 0);
  EQUAL(relay_switch_subbuf(it.buf, 8), 8);
  EQUAL(account(it.buf).subbufs_produced, 1);
  EQUAL(account(it.buf).padding, 5);
  EQUAL(relay_write(it.chan, "de", 2), 0);
  CHECK(!strcmp(read_all(it), "abcde"));
  end_subject(it);
}

TEST(a_buffer_that_was_never_written_to_is_switched_like_any) {
  subject it = open_subject(8, 3, 0);
  EQUAL(relay_switch_subbuf(it.buf, 9), 0);
  EQUAL(account(it.buf).subbufs_produced, 0);
  for (int i = 1; i < 3; i++) {
    EQUAL(relay_switch_subbuf(it.buf, 8), 8);
    EQUAL(account(it.buf).subbufs_produced, i);
    EQUAL(account(it.buf).padding, 8 * i);
  }
  EQUAL(relay_write(it.chan, "abc", 3), 0);
  CHECK(!strcmp(read_all(it), "abc"));
  end_subject(it);
}

TEST(a_write_that_does_not_fit_switches) {
  subject it = open_subject(8, 3, 0);
  EQUAL(relay_write(it.chan, "abcde", 5), 0);
  EQUAL(relay_write(it.chan, "fghij", 5), 0);
  EQUAL(account(it.buf).subbufs_produced, 1);
  EQUAL(account(it.buf).padding, 3);
  CHECK(!strcmp(read_all(it), "abcdefghij"));
  end_subject(it);
}

TEST(after_a_refused_switch_every_write_tries_again) {
  subject it = open_subject(4, 2, 0);
  relay_write(it.chan, "abcd", 4);
  relay_write(it.chan, "efg", 3);
  for (int i = 1; i <= 3; i++) {
    EQUAL(relay_write(it.chan, "hi", 2), -ENOBUFS);
    EQUAL(relay_switch_subbuf(it.buf, 2), 0);
    EQUAL(account(it.buf).lost_full, i);
  }
  char text[5] = {0};
  EQUAL(read_some(it, text, 4), 4);
  CHECK(!strcmp(text, "abcd"));
  CHECK(!strcmp(read_all(it), "efg"));
  EQUAL(relay_write(it.chan, "hi", 2), 0);
  CHECK(!strcmp(read_all(it), "hi"));
  end_subject(it);
}

TEST(full_and_empty_are_as_relay_counts) {
  subject it = open_subject(4, 3, 0);
  EQUAL(relay_buf_empty(it.buf), 1);
  for (int i = 0; i < 3; i++) {
    EQUAL(relay_buf_full(it.buf), 0);
    EQUAL(relay_write(it.chan, "abcd", 4), 0);
    EQUAL(relay_buf_empty(it.buf), i == 0);
  }
  EQUAL(relay_write(it.chan, "e", 1), -ENOBUFS);
  EQUAL(relay_buf_full(it.buf), 1);
  read_all(it);
  EQUAL(relay_buf_full(it.buf), 0);
  EQUAL(relay_buf_empty(it.buf), 1);
  end_subject(it);
}

TEST(without_overwriting_the_oldest_is_kept) {
  subject it = open_subject(4, 3, 0);
  for (int i = 0; i < 10; i++) {
    char record[5];
    snprintf(record, sizeof record, "%04d", i);
    EQUAL(relay_write(it.chan, record, 4), i < 3 ? 0 : -ENOBUFS);
  }
  CHECK(!strcmp(read_all(it), "000000010002"));
  EQUAL(account(it.buf).lost_full, 7);
  end_subject(it);
}

TEST(with_overwriting_the_newest_is_kept) {
  subject it = open_subject(4, 3, RELAY_OVERWRITE);
  for (int i = 0; i < 10; i++) EQUAL(relay_printf(it.chan, "%04d", i), 0);
  CHECK(!strcmp(read_all(it), "000700080009"));
  EQUAL(account(it.buf).lost_overwritten, 7);
  EQUAL(account(it.buf).lost_full, 0);
  end_subject(it);
}

TEST(a_flush_switches_only_where_there_is_data) {
  subject it = open_subject(8, 4, 0);
  for (int i = 0; i < 10; i++) EQUAL(relay_flush(it.chan), 0);
  EQUAL(account(it.buf).subbufs_produced, 0);
  relay_write(it.chan, "abc", 3);
  for (int i = 0; i < 10; i++) EQUAL(relay_flush(it.chan), 0);
  EQUAL(account(it.buf).subbufs_produced, 1);
  EQUAL(account(it.buf).padding, 5);
  CHECK(!strcmp(read_all(it), "abc"));
  end_subject(it);
}

TEST(a_reset_forgets_data_and_counts) {
  subject it = open_subject(4, 3, 0);
  char two[2];
  relay_write(it.chan, "abcd", 4);
  EQUAL(read_some(it, two, 2), 2);
  while (relay_write(it.chan, "abc", 3) == 0) continue;
  EQUAL(relay_reset(it.chan), 0);
  EQUAL(ready(it), 0);
  CHECK(!strcmp(read_all(it), ""));
  struct relay_stat stat = account(it.buf), zero = {0};
  CHECK(!memcmp(&stat, &zero, sizeof stat));
  // Who wrote before writes on, and who had it open reads on.
  for (int i = 0; i < 3; i++) EQUAL(relay_write(it.chan, "efgh", 4), 0);
  CHECK(!strcmp(read_all(it), "efghefghefgh"));
  end_subject(it);
}

TEST(the_backlogs_high_water_mark_is_the_most_that_waited) {
  subject it = open_subject(4, 4, 0);
  char text[5] = {0};
  EQUAL(account(it.buf).backlog_max, 0);
  for (int i = 0; i < 3; i++) EQUAL(relay_write(it.chan, "abcd", 4), 0);
  CHECK(!strcmp(read_all(it), "abcdabcdabcd"));
  EQUAL(account(it.buf).backlog_max, 2);
  for (int i = 0; i < 2; i++) EQUAL(relay_write(it.chan, "efgh", 4), 0);
  CHECK(!strcmp(read_all(it), "efghefgh"));
  EQUAL(account(it.buf).backlog_max, 2);
  while (relay_write(it.chan, "ijkl", 4) == 0) continue;
  EQUAL(relay_buf_full(it.buf), 1);
  EQUAL(account(it.buf).backlog_max, 4);
  EQUAL(read_some(it, text, 4), 4);
  CHECK(!strcmp(text, "ijkl"));
  EQUAL(relay_reset(it.chan), 0);
  EQUAL(account(it.buf).backlog_max, 0);
  for (int i = 0; i < 2; i++) EQUAL(relay_write(it.chan, "mnop", 4), 0);
  CHECK(!strcmp(read_all(it), "mnopmnop"));
  EQUAL(account(it.buf).backlog_max, 1);
  end_subject(it);
}

TEST(what_is_overwritten_is_backlog_no_more) {
  subject it = open_subject(4, 3, RELAY_OVERWRITE);
  for (int i = 0; i < 10; i++) EQUAL(relay_printf(it.chan, "%04d", i), 0);
  EQUAL(account(it.buf).subbufs_produced, 9);
  EQUAL(account(it.buf).backlog_max, 3);
  CHECK(!strcmp(read_all(it), "000700080009"));
  EQUAL(account(it.buf).backlog_max, 3);
  end_subject(it);
}

static volatile int is_over;

static void *write_on(void *chan) {
  while (!is_over) {
    int result = relay_write(chan, "abcd", 4);
    CHECK(result == 0 || result == -ENOBUFS);
  }
  return NULL;
}

TEST(a_reset_among_writers_harms_nothing) {
  subject it = open_subject(64, 4, 0);
  pthread_t writer;
  EQUAL(pthread_create(&writer, NULL, write_on, it.chan), 0);
  char text[40];
  for (int i = 0; i < 100; i++) {
    wait_for_data(it);
    ssize_t count = read_some(it, text, sizeof text);
    CHECK(count >= 0 && count % 4 == 0);
    for (ssize_t at = 0; at < count; at += 4) CHECK(!memcmp(text + at, "abcd", 4));
    EQUAL(relay_reset(it.chan), 0);
  }
  is_over = 1;
  EQUAL(pthread_join(writer, NULL), 0);
  size_t left = strlen(read_all(it));
  struct relay_stat stat = account(it.buf);
  EQUAL(stat.records_written, stat.records_read);
  EQUAL(left, stat.bytes_read);
  end_subject(it);
}

TEST(a_closed_channel_refuses_drains_and_ends) {
  subject it = open_subject(8, 4, 0);
  relay_reservation reservation;
  relay_write(it.chan, "abcdefgh", 8);
  relay_write(it.chan, "ij", 2);
  EQUAL(relay_write(it.chan, "abcdefghi", 9), -EMSGSIZE);
  EQUAL(relay_close(it.chan), 0);
  EQUAL(relay_write(it.chan, "k", 1), -EPIPE);
  CHECK(!relay_reserve(it.chan, 1, &reservation) && errno == EPIPE);
  EQUAL(relay_flush(it.chan), -EPIPE);
  EQUAL(relay_switch_subbuf(it.buf, 1), 0);
  EQUAL(account(it.buf).lost_too_big, 1);
  EQUAL(ready(it), POLLIN | POLLHUP);
  CHECK(!strcmp(read_all(it), "abcdefghij"));
  EQUAL(ready(it), POLLHUP);
  end_subject(it);
}

TEST(every_loss_is_counted_by_its_cause) {
  subject it = open_subject(4, 2, 0);
  relay_reservation reservation;
  CHECK(relay_reserve(it.chan, 1, &reservation));
  relay_cancel(&reservation);
  while (relay_write(it.chan, "abcd", 4) == 0) continue;
  for (int i = 0; i < 2; i++) relay_write(it.chan, "abcde", 5);
  struct relay_stat stat = account(it.buf);
  EQUAL(stat.lost_full, 1);
  EQUAL(stat.lost_too_big, 2);
  EQUAL(stat.cancelled, 1);
  EQUAL(stat.lost_overwritten + stat.lost_stalled + stat.lost_restart + stat.aborted, 0);
  end_subject(it);
}
