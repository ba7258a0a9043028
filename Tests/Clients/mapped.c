// SPDX-License-Identifier: Apache-2.0
// Mapped consumers of a daemon's channels, as a C program has them.
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "mapped.h"

TEST(sub_buffers_come_as_writers_leave_them) {
  relay_chan *chan = attach();
  relay_mapping *mapping = map(0);
  struct relay_subbuf subbuf;
  EQUAL(relay_map_next(mapping, &subbuf, sizeof subbuf), -EAGAIN);
  CHECK(!readable(relay_map_fd(mapping)));
  EQUAL(relay_write(chan, "one\n", 4), 0);
  EQUAL(relay_map_next(mapping, &subbuf, sizeof subbuf), -EAGAIN);
  EQUAL(relay_flush(chan), 0);
  subbuf = next(mapping);
  CHECK(is(&subbuf, "one\n"));
  EQUAL(subbuf.seq, 1);
  EQUAL(subbuf.padding, 4096 - 4);
  EQUAL(subbuf.flags, RELAY_SUBBUF_LAST);
  EQUAL(subbuf.records, 1);
  EQUAL(subbuf.produced, 1);
  EQUAL(subbuf.consumed, 0);
  EQUAL(relay_map_consumed(mapping, 1), 0);
  EQUAL(relay_write(chan, "two\n", 4), 0);
  EQUAL(relay_flush(chan), 0);
  subbuf = next(mapping);
  CHECK(is(&subbuf, "two\n"));
  EQUAL(subbuf.first_record, 1);
  EQUAL(subbuf.consumed, 1);
  relay_unmap(mapping);
  relay_detach(chan);
}

TEST(a_new_buffer_is_zeroed) {
  static const char zeroes[4095];
  relay_chan *chan = attach();
  relay_mapping *mapping = map(0);
  EQUAL(relay_write(chan, "x", 1), 0);
  EQUAL(relay_flush(chan), 0);
  struct relay_subbuf subbuf = next(mapping);
  CHECK(is(&subbuf, "x"));
  EQUAL(subbuf.padding, sizeof zeroes);
  CHECK(!memcmp((char *)subbuf.pieces->iov_base + 1, zeroes, sizeof zeroes));
  relay_unmap(mapping);
  relay_detach(chan);
}

TEST(unfinished_ones_come_too_where_that_is_asked_for) {
  relay_chan *chan = attach();
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  EQUAL(relay_write(chan, "one\n", 4), 0);
  struct relay_subbuf one = next(mapping);
  CHECK(is(&one, "one\n") && one.flags == 0);
  EQUAL(relay_write(chan, "two\n", 4), 0);
  struct relay_subbuf two = next(mapping);
  CHECK(is(&two, "two\n"));
  CHECK((char *)two.pieces->iov_base == (char *)one.pieces->iov_base + 4);
  EQUAL(relay_map_consumed(mapping, 2), 0);
  relay_unmap(mapping);
  relay_detach(chan);
}

// Whatever it is to be told of, without a call before that.
TEST(who_only_polls_is_told) {
  relay_chan *chan = attach();
  for (int unfinished = 0; unfinished < 2; unfinished++) {
    relay_mapping *mapping = map(unfinished ? RELAY_MAP_UNFINISHED : 0);
    EQUAL(relay_write(chan, "one\n", 4), 0);
    if (!unfinished) EQUAL(relay_flush(chan), 0);
    struct pollfd ask = {.fd = relay_map_fd(mapping), .events = POLLIN};
    EQUAL(poll(&ask, 1, 20000), 1);
    struct relay_subbuf subbuf = next(mapping);
    CHECK(is(&subbuf, "one\n"));
    EQUAL(relay_map_consumed(mapping, 1), 0);
    relay_unmap(mapping);
  }
  relay_detach(chan);
}

TEST(the_end_is_told) {
  relay_chan *chan = relay_create(NULL, "mine", 4096, 4, RELAY_GLOBAL);
  CHECK(chan);
  relay_mapping *mapping = relay_map(NULL, "mine", 0, 0);
  CHECK(mapping);
  EQUAL(relay_write(chan, "last\n", 5), 0);
  EQUAL(relay_close(chan), 0);
  struct relay_subbuf subbuf = next(mapping), end;
  CHECK(is(&subbuf, "last\n") && subbuf.flags == RELAY_SUBBUF_LAST);
  EQUAL(relay_map_next(mapping, &end, sizeof end), -EAGAIN);
  EQUAL(relay_map_consumed(mapping, 1), 0);
  CHECK(readable(relay_map_fd(mapping)));
  EQUAL(relay_map_next(mapping, &end, sizeof end), -EPIPE);
  relay_unmap(mapping);
  relay_detach(chan);
}

TEST(more_than_was_handed_out_cannot_be_consumed) {
  relay_chan *chan = attach();
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  EQUAL(relay_write(chan, "one\n", 4), 0);
  EQUAL(relay_map_consumed(mapping, 1), -EINVAL);
  struct relay_subbuf subbuf = next(mapping);
  EQUAL(relay_map_consumed(mapping, 2), -EINVAL);
  EQUAL(relay_map_consumed(mapping, SIZE_MAX), -EINVAL);
  EQUAL(relay_map_consumed(mapping, UINT32_MAX), -EINVAL);
  CHECK(is(&subbuf, "one\n"));
  relay_unmap(mapping);
  // Nothing was consumed.
  mapping = map(RELAY_MAP_UNFINISHED);
  subbuf = next(mapping);
  CHECK(is(&subbuf, "one\n"));
  EQUAL(relay_map_consumed(mapping, 1), 0);
  EQUAL(relay_map_consumed(mapping, 1), -EINVAL);
  EQUAL(relay_map_consumed(mapping, 0), 0);
  relay_unmap(mapping);
  relay_detach(chan);
}

TEST(what_is_handed_out_cannot_be_written) {
  relay_chan *chan = attach();
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  EQUAL(relay_write(chan, "one\n", 4), 0);
  struct relay_subbuf subbuf = next(mapping);
  long page = sysconf(_SC_PAGESIZE);
  char *start = (char *)((uintptr_t)subbuf.pieces->iov_base & ~((uintptr_t)page - 1));
  CHECK(mprotect(start, (size_t)page, PROT_READ | PROT_WRITE) < 0 && errno == EACCES);
  relay_unmap(mapping);
  relay_detach(chan);
}

TEST(what_cannot_be_mapped) {
  CHECK(!relay_map(NULL, NULL, 0, 0) && errno == EINVAL);
  CHECK(!relay_map(NULL, "", 0, 0) && errno == EINVAL);
  CHECK(!relay_map(NULL, "relay", 0, 2) && errno == EINVAL);
  CHECK(!relay_map(NULL, "nothing", 0, 0) && errno == ENOENT);
  CHECK(!relay_map(NULL, "relay", 4711, 0) && errno == ENOENT);
  CHECK(!relay_map(NULL, "relay", UINT32_MAX, 0) && errno == ENOENT);
  CHECK(!relay_map("/nowhere/control", "relay", 0, 0) && errno == ECONNREFUSED);
  struct relay_subbuf subbuf;
  EQUAL(relay_map_next(NULL, &subbuf, sizeof subbuf), -EINVAL);
  EQUAL(relay_map_consumed(NULL, 0), -EINVAL);
  EQUAL(relay_map_fd(NULL), -EINVAL);
  relay_unmap(NULL);
  relay_mapping *mapping = map(0);
  EQUAL(relay_map_next(mapping, NULL, 0), -EINVAL);
  CHECK(!relay_map(NULL, "relay", 0, 0) && errno == EBUSY);
  relay_unmap(mapping);
  relay_unmap(map(0));
}

TEST(who_may_not_read_may_not_map) {
  CHECK(!relay_map(NULL, "relay", 0, 0) && errno == EPERM);
}

TEST(who_may_read_may_map) { relay_unmap(map(0)); }

TEST(a_reset_gives_back_what_is_in_hand) {
  relay_chan *chan = attach();
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  EQUAL(relay_write(chan, "one\n", 4), 0);
  next(mapping);
  struct relay_stat stat;
  EQUAL(relay_statistics(relay_buffer(chan, 0), &stat, sizeof stat), 0);
  EQUAL(stat.records_read, 0);
  EQUAL(relay_flush(chan), 0);
  EQUAL(relay_reset(chan), 0);
  EQUAL(relay_map_consumed(mapping, 1), -ESTALE);
  EQUAL(relay_map_consumed(mapping, 1), -EINVAL);
  EQUAL(relay_write(chan, "two\n", 4), 0);
  struct relay_subbuf subbuf = next(mapping);
  CHECK(is(&subbuf, "two\n"));
  EQUAL(subbuf.consumed, 0);
  EQUAL(relay_map_consumed(mapping, 1), 0);
  relay_unmap(mapping);
  relay_detach(chan);
}

TEST(two_sub_buffers_that_are_overwritten_cannot_be_mapped) {
  CHECK(!relay_map(NULL, "relay", 0, 0) && errno == EOPNOTSUPP);
}

// A record: its writer, its number, and bytes that follow from both.
#define LENGTH 1000
#define RECORDS 50000
struct record {
  uint32_t writer, number;
  unsigned char bytes[LENGTH - 8];
};

static void write_records(uint32_t writer, int timeout) {
  relay_chan *chan = attach();
  struct record record = {.writer = writer};
  for (record.number = 0; record.number < RECORDS; record.number++) {
    memset(record.bytes, (int)(writer + record.number), sizeof record.bytes);
    int result;
    do {
      // What is not waited for is lost, and counted.
      result = timeout ? relay_write_wait(chan, &record, sizeof record, timeout)
                       : relay_write(chan, &record, sizeof record);
    } while (timeout && result == -ENOBUFS);
    CHECK(result == 0 || (!timeout && result == -ENOBUFS));
  }
  relay_detach(chan);
  _exit(0);
}

static void check_record(const struct record *record) {
  CHECK(record->writer < 2 && record->number < RECORDS);
  unsigned char byte = (unsigned char)(record->writer + record->number);
  CHECK(record->bytes[0] == byte);
  CHECK(!memcmp(record->bytes, record->bytes + 1, sizeof record->bytes - 1));
}

// 100 MB by two producers. With `overwrites` some are lost, and none is torn.
static void consume(int overwrites) {
  pid_t writers[2];
  for (uint32_t i = 0; i < 2; i++) {
    writers[i] = fork();
    if (writers[i] == 0) write_records(i, overwrites ? 0 : 1000);
  }
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  uint64_t seen = 0, lost = 0, last[2] = {0, 0}, writing = 2;
  for (;;) {
    struct relay_subbuf subbuf;
    int result = relay_map_next(mapping, &subbuf, sizeof subbuf);
    if (result == -EAGAIN) {
      if (!writing) break;
      struct pollfd ask = {.fd = relay_map_fd(mapping), .events = POLLIN};
      poll(&ask, 1, 10);
      while (writing && waitpid(-1, NULL, WNOHANG) > 0) writing--;
      continue;
    }
    EQUAL(result, 0);
    EQUAL(subbuf.first_record, seen + lost + subbuf.lost_overwritten);
    EQUAL(subbuf.bytes, subbuf.records * LENGTH);
    lost += subbuf.lost_overwritten;
    for (uint32_t i = 0; i < subbuf.n_pieces; i++) {
      const char *at = subbuf.pieces[i].iov_base, *end = at + subbuf.pieces[i].iov_len;
      for (; at < end; at += LENGTH) {
        struct record record;
        memcpy(&record, at, 8);
        check_record((const struct record *)at);
        CHECK(last[record.writer] <= record.number);
        if (!overwrites) EQUAL(last[record.writer], record.number);
        last[record.writer] = record.number + 1;
        seen++;
      }
    }
    EQUAL(relay_map_consumed(mapping, 1), 0);
  }
  relay_unmap(mapping);
  if (!overwrites) EQUAL(seen, 2 * RECORDS);
}

TEST(all_of_100_mb_comes) { consume(0); }

TEST(nothing_that_is_overwritten_meanwhile_is_torn) { consume(1); }
