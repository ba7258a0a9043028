// SPDX-License-Identifier: Apache-2.0
// Mapped consumers that take their time: what they are told, and what becomes of what they have.
#include "mapped.h"

TEST(reporting_nothing_buys_no_time) {
  relay_chan *chan = attach();
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  EQUAL(relay_write(chan, "one\n", 4), 0);
  next(mapping);
  alarm(60);
  int result;
  while ((result = relay_map_consumed(mapping, 0)) == 0) poll(NULL, 0, 20);
  EQUAL(result, -ESTALE);
  relay_unmap(mapping);
  relay_detach(chan);
}

// Each step waits for the descriptor, and for nothing else.
TEST(who_was_too_slow_is_told_to_go_on) {
  relay_chan *chan = attach();
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  struct pollfd ask = {.fd = relay_map_fd(mapping), .events = POLLIN};
  struct relay_subbuf subbuf;
  EQUAL(relay_write(chan, "one\n", 4), 0);
  next(mapping);
  int result;
  do {
    EQUAL(poll(&ask, 1, 20000), 1);
    result = relay_map_next(mapping, &subbuf, sizeof subbuf);
  } while (result == -EAGAIN);
  EQUAL(result, -ESTALE);
  EQUAL(poll(&ask, 1, 20000), 1);
  next(mapping);
  while ((result = relay_map_consumed(mapping, 0)) == 0) poll(NULL, 0, 20);
  EQUAL(result, -ESTALE);
  EQUAL(poll(&ask, 1, 20000), 1);
  subbuf = next(mapping);
  CHECK(is(&subbuf, "one\n"));
  EQUAL(relay_map_consumed(mapping, 1), 0);
  relay_unmap(mapping);
  relay_detach(chan);
}

// It has been idle for so long that nobody would have looked by then, but for the stop.
TEST(what_is_behind_a_stopped_writer_comes) {
  relay_chan *chan = attach();
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  struct pollfd ask = {.fd = relay_map_fd(mapping), .events = POLLIN};
  EQUAL(poll(&ask, 1, 4000), 0);
  relay_reservation reservation;
  CHECK(relay_reserve(chan, 4, &reservation));
  EQUAL(relay_write(chan, "two\n", 4), 0);
  EQUAL(poll(&ask, 1, 1500), 1);
  struct relay_subbuf subbuf = next(mapping);
  CHECK(is(&subbuf, "two\n"));
  EQUAL(subbuf.lost_stalled, 1);
  EQUAL(relay_map_consumed(mapping, 1), 0);
  relay_commit(&reservation);
  relay_unmap(mapping);
  relay_detach(chan);
}

// Of three sub-buffers one has a record that is not finished, one is in hand, and one is full.
TEST(a_writer_waits_no_longer_than_a_consumer_may_take) {
  static char full[4096] = "full";
  relay_chan *chan = attach();
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  relay_reservation reservation;
  CHECK(relay_reserve(chan, sizeof full, &reservation));
  EQUAL(relay_write(chan, full, sizeof full), 0);
  EQUAL(next(mapping).lost_stalled, 1);
  EQUAL(relay_write(chan, full, sizeof full), 0);
  EQUAL(relay_write(chan, "x", 1), -ENOBUFS);
  EQUAL(relay_write_wait(chan, "x", 1, 20000), 0);
  EQUAL(relay_map_consumed(mapping, 1), -ESTALE);
  relay_commit(&reservation);
  relay_unmap(mapping);
  relay_detach(chan);
}

// Asks when it is told to, and only then, until it is to end: how often.
TEST(attentive) {
  relay_mapping *mapping = map(0);
  alarm(60);
  puts("mapped");
  fflush(stdout);
  struct pollfd ask[] = {{.fd = 0, .events = POLLIN},
                         {.fd = relay_map_fd(mapping), .events = POLLIN}};
  struct relay_subbuf subbuf;
  int count = 0;
  while (poll(ask, 2, -1) > 0 && !ask[0].revents) {
    EQUAL(relay_map_next(mapping, &subbuf, sizeof subbuf), -EAGAIN);
    count++;
  }
  printf("%d\n", count);
  relay_unmap(mapping);
}

// All until the end: how much that was.
TEST(drain_all) {
  relay_mapping *mapping = map(0);
  alarm(60);
  puts("mapped");
  fflush(stdout);
  struct pollfd ask = {.fd = relay_map_fd(mapping), .events = POLLIN};
  struct relay_subbuf subbuf;
  uint64_t bytes = 0;
  int result;
  while ((result = relay_map_next(mapping, &subbuf, sizeof subbuf)) != -EPIPE) {
    if (result == -EAGAIN) {
      EQUAL(poll(&ask, 1, 20000), 1);
      continue;
    }
    EQUAL(result, 0);
    bytes += subbuf.bytes;
    EQUAL(relay_map_consumed(mapping, 1), 0);
  }
  while (getchar() != '\n') {}
  printf("%llu\n", (unsigned long long)bytes);
  relay_unmap(mapping);
}

// Its first line: that it has what was handed out. Then what becomes of that.
TEST(hold) {
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  struct relay_subbuf subbuf = next(mapping);
  alarm(60);
  printf("%.*s", (int)subbuf.bytes, (char *)subbuf.pieces->iov_base);
  fflush(stdout);
  while (getchar() != '\n') {}
  printf("%d", -relay_map_consumed(mapping, 1));
  printf(" %d\n", -relay_map_next(mapping, &subbuf, sizeof subbuf));
  relay_unmap(mapping);
}

// Stopped until others have the buffer: says so, and what it has in the end.
TEST(comes_back) {
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  alarm(60);
  next(mapping);
  puts("mapped");
  fflush(stdout);
  struct pollfd ask = {.fd = relay_map_fd(mapping), .events = POLLIN};
  struct relay_subbuf subbuf;
  int result;
  while ((result = relay_map_next(mapping, &subbuf, sizeof subbuf)) != 0) {
    if (result != -EAGAIN) printf("%d ", -result);
    fflush(stdout);
    if (result != -ESTALE) EQUAL(poll(&ask, 1, 20000), 1);
  }
  while (getchar() != '\n') {}
  printf("%.*s", (int)subbuf.bytes, (char *)subbuf.pieces->iov_base);
  relay_unmap(mapping);
}

// Its channel is closed, and it keeps its connection.
TEST(keep_the_connection) {
  relay_mapping *mapping = relay_map(NULL, "mine", 0, 0);
  CHECK(mapping);
  alarm(60);
  puts("mapped");
  fflush(stdout);
  while (getchar() != '\n') {}
  struct relay_subbuf subbuf;
  printf("%d\n", -relay_map_next(mapping, &subbuf, sizeof subbuf));
  relay_unmap(mapping);
}

// With nothing in hand.
TEST(idle) {
  relay_mapping *mapping = map(0);
  alarm(60);
  puts("mapped");
  fflush(stdout);
  while (getchar() != '\n') {}
  struct relay_subbuf subbuf;
  printf("%d\n", -relay_map_next(mapping, &subbuf, sizeof subbuf));
  relay_unmap(mapping);
}

TEST(mappings_leave_no_descriptors_behind) {
  relay_mapping *mapping = map(0);
  int highest = relay_map_fd(mapping);
  relay_unmap(mapping);
  for (int i = 0; i < 20; i++) {
    mapping = map(0);
    EQUAL(relay_map_fd(mapping), highest);
    relay_unmap(mapping);
  }
}

TEST(a_mapping_whose_descriptors_are_closed_has_no_daemon) {
  relay_mapping *mapping = map(0);
  struct relay_subbuf subbuf;
  closefrom(3);
  EQUAL(relay_map_fd(mapping), -EBADF);
  EQUAL(relay_map_next(mapping, &subbuf, sizeof subbuf), -ECONNRESET);
  EQUAL(relay_map_consumed(mapping, 0), -ECONNRESET);
  relay_unmap(mapping);
  relay_unmap(map(0));
}
