// SPDX-License-Identifier: Apache-2.0
// Own channels read where they lie.
#include <pthread.h>

#include "test.h"

static int mapped, unmapped;

static void note_mapped(relay_buf *buf) {
  CHECK(buf);
  mapped++;
}

static void note_unmapped(relay_buf *buf) {
  CHECK(buf);
  unmapped++;
}

TEST(callbacks_learn_of_a_mapping) {
  relay_callbacks callbacks = {
      .size = sizeof callbacks, .buf_mapped = note_mapped, .buf_unmapped = note_unmapped};
  relay_chan *chan = relay_open(NULL, 16, 4, RELAY_GLOBAL, &callbacks, NULL);
  CHECK(chan);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_mapping *map = relay_map_buffer(buf, 0);
  CHECK(map && mapped == 1 && unmapped == 0);
  CHECK(!relay_map_buffer(buf, 0) && errno == EBUSY);
  EQUAL(mapped, 1);
  relay_unmap(map);
  EQUAL(unmapped, 1);
  CHECK(!relay_map_buffer(NULL, 0) && errno == EINVAL);
  CHECK(!relay_map_buffer(buf, 2) && errno == EINVAL);
  relay_detach(chan);
}

TEST(an_own_buffer_is_read_where_it_lies) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_mapping *map = relay_map_buffer(relay_buffer(chan, 0), 0);
  struct relay_subbuf subbuf;
  int fd = relay_map_fd(map);
  CHECK(fd >= 0 && !readable(fd));
  EQUAL(relay_write(chan, "0123456789", 10), 0);
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), -EAGAIN);
  CHECK(!readable(fd));
  EQUAL(relay_write(chan, "abcdefghij", 10), 0);
  CHECK(readable(fd));
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), 0);
  CHECK(!readable(fd));
  EQUAL(subbuf.padding, 6);
  EQUAL(subbuf.n_pieces, 1);
  EQUAL(subbuf.pieces[0].iov_len, 10);
  CHECK(!memcmp(subbuf.pieces[0].iov_base, "0123456789", 10));
  EQUAL(relay_map_consumed(map, 2), -EINVAL);
  EQUAL(relay_map_consumed(map, 1), 0);
  EQUAL(relay_close(chan), 0);
  CHECK(readable(fd));
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), 0);
  CHECK(!memcmp(subbuf.pieces[0].iov_base, "abcdefghij", 10));
  EQUAL(relay_map_consumed(map, 1), 0);
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), -EPIPE);
  CHECK(readable(fd));
  EQUAL(account(relay_buffer(chan, 0)).records_read, 2);
  relay_unmap(map);
  relay_detach(chan);
}

TEST(nobody_reads_what_is_mapped) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_buf *buf = relay_buffer(chan, 0);
  relay_mapping *map = relay_map_buffer(buf, RELAY_MAP_UNFINISHED);
  struct relay_subbuf subbuf;
  char text[16];
  EQUAL(relay_write(chan, "abc", 3), 0);
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), 0);
  EQUAL(relay_read(buf, text, sizeof text), -EBUSY);
  EQUAL(relay_read_record(buf, text, sizeof text, NULL, 0), -EBUSY);
  EQUAL(relay_subbufs_consumed(chan, 0, 1), -EBUSY);
  EQUAL(relay_poll(buf), POLLERR);
  EQUAL(account(buf).records_read, 0);
  relay_unmap(map);
  CHECK(!strcmp(drain(buf), "abc"));
  relay_detach(chan);
}

TEST(a_reset_takes_what_is_in_hand) {
  relay_chan *chan = open_small(16, 4, 0);
  relay_mapping *map = relay_map_buffer(relay_buffer(chan, 0), RELAY_MAP_UNFINISHED);
  struct relay_subbuf subbuf;
  EQUAL(relay_write(chan, "abc", 3), 0);
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), 0);
  EQUAL(relay_reset(chan), 0);
  EQUAL(relay_map_consumed(map, 1), -ESTALE);
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), -EAGAIN);
  EQUAL(relay_write(chan, "def", 3), 0);
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), 0);
  CHECK(!memcmp(subbuf.pieces[0].iov_base, "def", 3));
  relay_unmap(map);
  relay_detach(chan);
}

TEST(writers_that_overwrite_need_a_sub_buffer_beside_what_is_in_hand) {
  relay_chan *chan = open_small(16, 2, RELAY_OVERWRITE);
  CHECK(!relay_map_buffer(relay_buffer(chan, 0), 0) && errno == EOPNOTSUPP);
  relay_detach(chan);
  chan = open_small(16, 2, 0);
  relay_unmap(relay_map_buffer(relay_buffer(chan, 0), 0));
  relay_detach(chan);
  chan = open_small(16, 3, RELAY_OVERWRITE);
  relay_mapping *map = relay_map_buffer(relay_buffer(chan, 0), 0);
  struct relay_subbuf subbuf;
  for (int i = 0; i < 100; i++) {
    EQUAL(relay_printf(chan, "%016d", i), 0);
    if (i == 1) EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), 0);
  }
  CHECK(!memcmp(subbuf.pieces[0].iov_base, "0000000000000000", 16));
  relay_unmap(map);
  relay_detach(chan);
}

static relay_mapping *to_unmap;

static int start_and_unmap(relay_buf *buf, void *subbuf, void *previous, size_t padding) {
  (void)buf, (void)subbuf, (void)previous, (void)padding;
  struct relay_subbuf next;
  if (to_unmap) {
    EQUAL(relay_map_next(to_unmap, &next, sizeof next), -EDEADLK);
    EQUAL(relay_map_consumed(to_unmap, 1), -EDEADLK);
    relay_unmap(to_unmap);
  }
  to_unmap = NULL;
  return 1;
}

TEST(a_callback_may_unmap) {
  relay_callbacks callbacks = {
      .size = sizeof callbacks, .subbuf_start = start_and_unmap, .buf_unmapped = note_unmapped};
  relay_chan *chan = relay_open(NULL, 16, 4, RELAY_GLOBAL, &callbacks, NULL);
  relay_buf *buf = relay_buffer(chan, 0);
  for (int i = 1; i < 3; i++) {
    relay_mapping *map = relay_map_buffer(buf, RELAY_MAP_UNFINISHED);
    CHECK(map);
    struct relay_subbuf subbuf;
    EQUAL(relay_write(chan, "abc", 3), 0);
    EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), 0);
    to_unmap = map;
    EQUAL(relay_flush(chan), 0);
    EQUAL(unmapped, i);
    CHECK(!strcmp(drain(buf), "abc"));
  }
  relay_detach(chan);
}

static int is_mapped;

static void begin(relay_buf *buf) {
  (void)buf;
  EQUAL(is_mapped++, 0);
}

static void end(relay_buf *buf) {
  (void)buf;
  EQUAL(is_mapped--, 1);
}

static void *map_often(void *buf) {
  for (int i = 0; i < 20000; i++) {
    relay_mapping *map = relay_map_buffer(buf, 0);
    CHECK(map || errno == EBUSY);
    relay_unmap(map);
  }
  return NULL;
}

TEST(callbacks_learn_of_mappings_in_their_order) {
  relay_callbacks callbacks = {
      .size = sizeof callbacks, .buf_mapped = begin, .buf_unmapped = end};
  relay_chan *chan = relay_open(NULL, 16, 4, RELAY_GLOBAL, &callbacks, NULL);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++)
    EQUAL(pthread_create(&threads[i], NULL, map_often, relay_buffer(chan, 0)), 0);
  for (int i = 0; i < 4; i++) EQUAL(pthread_join(threads[i], NULL), 0);
  EQUAL(is_mapped, 0);
  relay_detach(chan);
}

TEST(who_has_all_it_may_have_is_told_of_nothing) {
  relay_chan *chan = open_small(64, 4, 0);
  relay_mapping *map = relay_map_buffer(relay_buffer(chan, 0), RELAY_MAP_UNFINISHED);
  int fd = relay_map_fd(map), result;
  struct relay_subbuf subbuf;
  do {
    EQUAL(relay_write(chan, "x", 1), 0);
    result = relay_map_next(map, &subbuf, sizeof subbuf);
  } while (result == 0);
  EQUAL(result, -ENOBUFS);
  CHECK(!readable(fd));
  EQUAL(relay_write(chan, "x", 1), 0);
  CHECK(!readable(fd));
  EQUAL(relay_map_consumed(map, 1), 0);
  CHECK(readable(fd));
  EQUAL(relay_map_next(map, &subbuf, sizeof subbuf), 0);
  relay_unmap(map);
  relay_detach(chan);
}
