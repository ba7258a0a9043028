// SPDX-License-Identifier: Apache-2.0
// Reading as relay does it, without what relay does wrong. Each test is one behaviour, and runs on
// whatever subject.h opens.
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "subject.h"

TEST(a_read_never_waits_and_says_0_when_there_is_nothing) {
  subject it = open_subject(64, 4, 0);
  char text[10];
  EQUAL(read_some(it, text, 10), 0);
  EQUAL(relay_write(it.chan, "abc", 3), 0);
  EQUAL(read_some(it, text, 10), 3);
  EQUAL(read_some(it, text, 10), 0);
  end_subject(it);
}

TEST(a_read_crosses_sub_buffers_and_strips_padding) {
  subject it = open_subject(8, 8, 0);
  for (int i = 0; i < 6; i++) EQUAL(relay_printf(it.chan, "<%03d>", i), 0);
  EQUAL(account(it.buf).padding, 15);
  char text[100] = {0};
  EQUAL(read_some(it, text, sizeof text), 30);
  CHECK(!strcmp(text, "<000><001><002><003><004><005>"));
  end_subject(it);
}

TEST(a_read_takes_the_unfinished_sub_buffer_too) {
  subject it = open_subject(4096, 4, 0);
  for (int i = 0; i < 5; i++) {
    EQUAL(relay_write(it.chan, "ab", 2), 0);
    CHECK(!strcmp(read_all(it), "ab"));
  }
  EQUAL(account(it.buf).subbufs_produced, 0);
  end_subject(it);
}

TEST(what_was_read_makes_room) {
  subject it = open_subject(4, 3, 0);
  for (int i = 0; i < 50; i++) {
    EQUAL(relay_write(it.chan, "abcd", 4), 0);
    EQUAL(relay_write(it.chan, "ef", 2), 0);
    CHECK(!strcmp(read_all(it), "abcdef"));
  }
  EQUAL(account(it.buf).records_read, 100);
  end_subject(it);
}

TEST(a_read_may_end_inside_a_record_and_the_rest_comes_next) {
  subject it = open_subject(16, 4, 0);
  for (size_t size = 1; size < 12; size++) {
    EQUAL(relay_write(it.chan, "0123456789", 10), 0);
    EQUAL(relay_write(it.chan, "abcdefghij", 10), 0);
    char text[40] = {0};
    size_t count = 0;
    for (ssize_t n; (n = read_some(it, text + count, size)) > 0; count += (size_t)n)
      CHECK((size_t)n == size || count + (size_t)n == 20);
    CHECK(!strcmp(text, "0123456789abcdefghij"));
  }
  end_subject(it);
}

enum { STREAM = 65536 };

// No two bytes of it stand next to each other twice: what was read tells where it stood.
static unsigned char stream[STREAM];
static int place_of[65536];

static void make_stream(void) {
  int count = 0;
  for (int a = 0; a < 256; a++) {
    stream[count++] = (unsigned char)a;
    for (int b = a + 1; b < 256; b++) {
      stream[count++] = (unsigned char)a;
      stream[count++] = (unsigned char)b;
    }
  }
  EQUAL(count, STREAM);
  for (int i = 0; i + 1 < STREAM; i++) place_of[stream[i] << 8 | stream[i + 1]] = i;
}

struct part_reader {
  pthread_t thread;
  subject it;
  size_t size; // of its reads
  int reads, next;
};

static char is_read[STREAM];
static int read_count;
static pthread_barrier_t turn;

static void *read_parts(void *argument) {
  struct part_reader *me = argument;
  unsigned char part[16];
  while (read_count < STREAM) {
    // All begin to read at once, and look at the count when none reads.
    pthread_barrier_wait(&turn);
    ssize_t count = read_some(me->it, part, me->size);
    CHECK(count >= 0 && count <= (ssize_t)me->size);
    if (count > 0) {
      int at = count > 1 ? place_of[part[0] << 8 | part[1]] : STREAM - 1;
      CHECK(at >= me->next && at + count <= STREAM && !memcmp(stream + at, part, (size_t)count));
      for (int i = at; i < at + count; i++)
        EQUAL(__atomic_exchange_n(&is_read[i], 1, __ATOMIC_SEQ_CST), 0);
      me->next = at + (int)count;
      me->reads++;
    }
    __atomic_fetch_add(&read_count, (int)count, __ATOMIC_SEQ_CST);
    pthread_barrier_wait(&turn);
  }
  return NULL;
}

TEST(two_readers_at_once_get_each_byte_once_and_in_order) {
  subject it = open_subject(4096, 20, 0), other = open_again(it);
  make_stream();
  for (int at = 0, length; at < STREAM; at += length) {
    length = STREAM - at < 13 ? STREAM - at : 13;
    EQUAL(relay_write(it.chan, stream + at, (size_t)length), 0);
  }
  struct part_reader readers[] = {{.it = it, .size = 7}, {.it = other, .size = 10}};
  EQUAL(pthread_barrier_init(&turn, NULL, 2), 0);
  for (int i = 0; i < 2; i++)
    EQUAL(pthread_create(&readers[i].thread, NULL, read_parts, &readers[i]), 0);
  for (int i = 0; i < 2; i++) {
    EQUAL(pthread_join(readers[i].thread, NULL), 0);
    CHECK(readers[i].reads > 1000);
  }
  if (other.fd >= 0) close(other.fd);
  end_subject(it);
}

TEST(a_cut_record_is_neither_lost_nor_torn_by_overwriting) {
  subject it = open_subject(8, 4, RELAY_OVERWRITE);
  char text[20] = {0};
  EQUAL(relay_write(it.chan, "abcdefgh", 8), 0);
  EQUAL(read_some(it, text, 3), 3);
  for (int i = 0; i < 100; i++) EQUAL(relay_printf(it.chan, "(%06d)", i), 0);
  EQUAL(read_some(it, text + 3, 5), 5);
  CHECK(!strcmp(text, "abcdefgh"));
  const char *rest = read_all(it);
  EQUAL(strlen(rest) % 8, 0);
  CHECK(!strcmp(rest + strlen(rest) - 8, "(000099)"));
  end_subject(it);
}

// Each record says which it is, so that a torn one would be noticed. The reader's odd sizes cut
// many of them.
TEST(overwriting_delivers_whole_records_and_counts_the_others) {
  subject it = open_subject(64, 4, RELAY_OVERWRITE);
  char record[20] = {0};
  size_t have = 0;
  long next = 0, seen = 0;
  for (long i = 0; i < 3000; i++) {
    EQUAL(relay_printf(it.chan, "[%05ld:%05ld]", i, 99999 - i), 0);
    if (i % 50 > 10 && i < 2999) continue;
    // Everything at the end; else what a short read gives.
    for (ssize_t n; (n = read_some(it, record + have, have < 6 ? 5 : 13 - have)) > 0;) {
      have += (size_t)n;
      if (have == 13) {
        long number, check;
        CHECK(sscanf(record, "[%05ld:%05ld]", &number, &check) == 2);
        EQUAL(number + check, 99999);
        CHECK(number >= next);
        next = number + 1;
        have = 0;
        seen++;
      } else if (i < 2999) {
        break;
      }
    }
  }
  EQUAL(have, 0);
  EQUAL(next, 3000);
  struct relay_stat stat = account(it.buf);
  CHECK(stat.lost_overwritten > 0);
  EQUAL(stat.lost_overwritten + (uint64_t)seen, 3000);
  EQUAL(stat.records_read, seen);
  end_subject(it);
}

TEST(empty_sub_buffers_are_no_obstacle) {
  subject it = open_subject(8, 8, 0);
  for (int count = 0; count < 7; count++) {
    for (int i = 0; i < count; i++) EQUAL(relay_switch_subbuf(it.buf, 1), 1);
    EQUAL(ready(it), 0);
    EQUAL(relay_write(it.chan, "abc", 3), 0);
    EQUAL(ready(it), POLLIN);
    // At the first read, and once.
    char text[10];
    EQUAL(read_some(it, text, sizeof text), 3);
    EQUAL(ready(it), 0);
    EQUAL(read_some(it, text, sizeof text), 0);
  }
  end_subject(it);
}

TEST(after_a_partial_read_and_a_flush_poll_and_read_agree) {
  subject it = open_subject(8, 4, 0);
  char text[10];
  EQUAL(relay_write(it.chan, "abc", 3), 0);
  EQUAL(read_some(it, text, 2), 2);
  EQUAL(relay_flush(it.chan), 0);
  EQUAL(ready(it), POLLIN);
  EQUAL(read_some(it, text, 10), 1);
  EQUAL(ready(it), 0);
  EQUAL(relay_write(it.chan, "def", 3), 0);
  EQUAL(read_some(it, text, 10), 3);
  EQUAL(relay_flush(it.chan), 0);
  EQUAL(ready(it), 0);
  EQUAL(read_some(it, text, 10), 0);
  end_subject(it);
}

TEST(a_single_byte_in_a_large_sub_buffer_wakes_its_reader) {
  subject it = open_subject(1 << 20, 2, 0);
  for (int i = 0; i < 3; i++) {
    EQUAL(ready(it), 0);
    EQUAL(relay_write(it.chan, "x", 1), 0);
    wait_for_data(it);
    CHECK(!strcmp(read_all(it), "x"));
  }
  end_subject(it);
}

// One random operation; `expected` is what can be read afterwards.
static void disturb(subject it, unsigned choice, unsigned size, char *expected) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyz";
  relay_reservation reservation;
  size_t length = strlen(expected);
  switch (choice % 8) {
    case 0:
    case 1:
      if (relay_write(it.chan, letters + size, size) == 0)
        strncat(expected, letters + size, size);
      break;
    case 2:
      relay_write(it.chan, letters, 13); // Too big.
      break;
    case 3: {
      char text[20];
      ssize_t n = read_some(it, text, size);
      // Short where records were lost: a loss is between two reads.
      CHECK(n >= (length > 0) && (size_t)n <= size && (size_t)n <= length);
      CHECK(!memcmp(text, expected, (size_t)n));
      memmove(expected, expected + n, length - (size_t)n + 1);
      break;
    }
    case 4: relay_flush(it.chan); break;
    case 5: relay_switch_subbuf(it.buf, 1); break;
    case 6: relay_write(it.chan, "", 0); break;
    default:
      if (relay_reserve(it.chan, size, &reservation)) relay_cancel(&reservation);
  }
}

TEST(poll_agrees_with_read_whatever_happens) {
  subject it = open_subject(12, 4, 0);
  char expected[200] = "";
  unsigned random = 1;
  for (int i = 0; i < 2000; i++) {
    random = random * 1103515245 + 12345;
    disturb(it, random >> 16, (random >> 24) % 12 + 1, expected);
    EQUAL(ready(it), *expected ? POLLIN : 0);
  }
  CHECK(!strcmp(read_all(it), expected));
  end_subject(it);
}

static subject shared;
static int counts[256];

static void *read_threes(void *unused) {
  unsigned char bytes[3];
  for (ssize_t n; (n = read_some(shared, bytes, 3)) != 0;) {
    CHECK(n > 0);
    for (ssize_t i = 0; i < n; i++) __atomic_add_fetch(&counts[bytes[i]], 1, __ATOMIC_RELAXED);
  }
  return unused;
}

TEST(readers_share_one_cursor) {
  shared = open_subject(256, 8, 0);
  pthread_t threads[3];
  for (int i = 0; i < 1000; i++) {
    unsigned char byte = (unsigned char)(i % 250);
    EQUAL(relay_write(shared.chan, &byte, 1), 0);
  }
  for (int i = 0; i < 3; i++) EQUAL(pthread_create(&threads[i], NULL, read_threes, NULL), 0);
  for (int i = 0; i < 3; i++) EQUAL(pthread_join(threads[i], NULL), 0);
  for (int i = 0; i < 250; i++) EQUAL(counts[i], 4);
  end_subject(shared);
}

static volatile sig_atomic_t by_handler;

static void write_from_handler(int signal) {
  char record[3] = {(char)('0' + by_handler / 100), (char)('0' + by_handler / 10 % 10),
                    (char)('0' + by_handler % 10)};
  (void)signal;
  if (by_handler < 300 && relay_write(shared.chan, record, 3) == 0) by_handler = by_handler + 1;
}

TEST(a_writer_that_interrupts_a_reader_harms_nobody) {
  shared = open_subject(64, 8, 0);
  struct sigaction action = {.sa_handler = write_from_handler};
  struct itimerval every = {{0, 300}, {0, 300}};
  char text[1000];
  size_t count = 0;
  EQUAL(sigaction(SIGALRM, &action, NULL), 0);
  EQUAL(setitimer(ITIMER_REAL, &every, NULL), 0);
  while (count < 900) {
    ssize_t n = read_some(shared, text + count, 1);
    CHECK(n >= 0);
    count += (size_t)n;
  }
  for (size_t i = 0; i < 900; i++) {
    const int digits[] = {(int)i / 300, (int)i / 30 % 10, (int)i / 3 % 10};
    EQUAL(text[i] - '0', digits[i % 3]);
  }
  EQUAL(read_some(shared, text, 1), 0);
  end_subject(shared);
}
