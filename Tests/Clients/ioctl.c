// SPDX-License-Identifier: Apache-2.0
// What a program can ask of a device ($DEVICE, of channel "relay") by ioctl, and frames as it reads
// them. Each test has a daemon of its own.
#include "test.h"

#include <fcntl.h>
#include <pthread.h>
#include <relay_ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int device(void) {
  int fd = open(getenv("DEVICE"), O_RDONLY);
  CHECK(fd >= 0);
  return fd;
}

static void put(const char *text, size_t length) {
  static relay_chan *chan;
  if (!chan) CHECK(chan = relay_attach(NULL, "relay"));
  EQUAL(relay_write(chan, text, length), 0);
}

static void set(int fd, unsigned long command, int value) { EQUAL(ioctl(fd, command, &value), 0); }

#define FAILS(call, code) \
  do {                    \
    errno = 0;            \
    EQUAL(call, -1);      \
    EQUAL(errno, code);   \
  } while (0)

// The next frame of a reply, or NULL.
static const struct relay_frame *next(const char *reply, ssize_t count, size_t *at) {
  if ((ssize_t)*at >= count) return NULL;
  const struct relay_frame *frame = (const void *)(reply + *at);
  EQUAL(*at % 8, 0);
  *at += (frame->size + frame->length + 7) & ~(size_t)7;
  CHECK((ssize_t)*at <= count);
  return frame;
}

static const char *payload(const struct relay_frame *frame) {
  return (const char *)frame + frame->size;
}

static _Alignas(8) char reply[128 << 10];

TEST(geometry_says_what_the_channel_is) {
  struct relay_geometry geometry;
  memset(&geometry, 0xff, sizeof geometry);
  EQUAL(ioctl(device(), RELAY_IOC_GEOMETRY, &geometry), 0);
  EQUAL(geometry.size, sizeof geometry);
  EQUAL(geometry.subbuf_size, 64 << 10);
  EQUAL(geometry.n_subbufs, 4);
  EQUAL(geometry.cpu, 0);
  EQUAL(geometry.reserved, 0);
  EQUAL(geometry.flags, RELAY_GEOMETRY_GLOBAL | RELAY_GEOMETRY_TIMESTAMPS);
  CHECK(geometry.incarnation != 0);
  EQUAL(strcmp(geometry.channel, "relay"), 0);
}

TEST(statistics_count) {
  struct relay_buffer_statistics s;
  char byte[3];
  int fd = device();
  put("one", 3);
  put("two", 3);
  EQUAL(read(fd, byte, 3), 3);
  EQUAL(ioctl(fd, RELAY_IOC_STATISTICS, &s), 0);
  EQUAL(s.records_written, 2);
  EQUAL(s.records_read, 1);
  EQUAL(s.records_unread, 1);
  EQUAL(s.bytes_unread, 3);
  EQUAL(s.subbufs_produced, 0);
  EQUAL(s.backlog_max, 0);
}

TEST(flush_leaves_the_subbuffer) {
  struct relay_buffer_statistics s;
  int fd = device();
  put("one", 3);
  EQUAL(ioctl(fd, RELAY_IOC_FLUSH), 0);
  EQUAL(ioctl(fd, RELAY_IOC_STATISTICS, &s), 0);
  EQUAL(s.subbufs_produced, 1);
  EQUAL(s.backlog_max, 1);
}

TEST(unknown_commands_and_sizes_are_not_ours) {
  int fd = device();
  char bytes[512] = {0};
  FAILS(ioctl(fd, _IO('r', 0x60)), ENOTTY);
  FAILS(ioctl(fd, _IO('r', 0x7f)), ENOTTY);
  FAILS(ioctl(fd, _IO('q', 0x62)), ENOTTY);
  FAILS(ioctl(fd, _IOR('r', 0x60, char[512]), bytes), ENOTTY);
  FAILS(ioctl(fd, _IOR('r', 0x60, char), bytes), ENOTTY);
  FAILS(ioctl(fd, _IOW('r', 0x60, struct relay_geometry), bytes), ENOTTY);
  FAILS(ioctl(fd, _IOR('r', 0x61, uint64_t), bytes), ENOTTY);
  FAILS(ioctl(fd, _IOW('r', 0x67, char), bytes), ENOTTY);
  FAILS(ioctl(fd, _IOW('r', 0x67, char[512]), bytes), ENOTTY);
  FAILS(ioctl(fd, _IOWR('r', 0x67, int), bytes), ENOTTY);
  CHECK(!isatty(fd));
}

TEST(pointers_to_nowhere_are_faults) {
  int fd = device();
  long page = sysconf(_SC_PAGESIZE);
  char *gap = mmap(NULL, (size_t)page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  char *fixed = mmap(NULL, (size_t)page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(gap != MAP_FAILED && fixed != MAP_FAILED);
  void *nowhere[] = {NULL, (void *)1, gap, (void *)~(uintptr_t)0, (void *)(~(uintptr_t)0 << 12)};
  for (size_t i = 0; i < sizeof nowhere / sizeof *nowhere; i++) {
    FAILS(ioctl(fd, RELAY_IOC_GEOMETRY, nowhere[i]), EFAULT);
    FAILS(ioctl(fd, RELAY_IOC_STATISTICS, nowhere[i]), EFAULT);
    FAILS(ioctl(fd, RELAY_IOC_FRAMES, nowhere[i]), EFAULT);
    FAILS(ioctl(fd, RELAY_IOC_BLOCK, nowhere[i]), EFAULT);
    FAILS(ioctl(fd, RELAY_IOC_PEEK, nowhere[i]), EFAULT);
  }
  FAILS(ioctl(fd, RELAY_IOC_GEOMETRY, fixed), EFAULT);
  FAILS(ioctl(fd, RELAY_IOC_GEOMETRY, fixed + page - 4), EFAULT);
  EQUAL(ioctl(fd, RELAY_IOC_FLUSH, NULL), 0);
}

TEST(values_that_cannot_be_are_refused) {
  int fd = device();
  int values[] = {2, -2, 1 << 30, -1};
  for (int i = 0; i < 4; i++) {
    FAILS(ioctl(fd, RELAY_IOC_FRAMES, &values[i]), EINVAL);
    FAILS(ioctl(fd, RELAY_IOC_PEEK, &values[i]), EINVAL);
    if (i < 3) FAILS(ioctl(fd, RELAY_IOC_BLOCK, &values[i]), EINVAL);
  }
}

TEST(frames_have_numbers_lengths_and_times) {
  int fd = device();
  struct timespec now;
  const char *texts[] = {"one", "", "eight888", "the last"};
  set(fd, RELAY_IOC_FRAMES, 1);
  for (int i = 0; i < 4; i++) put(texts[i], strlen(texts[i]));
  ssize_t count = read(fd, reply, sizeof reply);
  CHECK(count > 0);
  size_t at = 0;
  uint64_t time = 1;
  for (int i = 0; i < 4; i++) {
    const struct relay_frame *frame = next(reply, count, &at);
    CHECK(frame);
    EQUAL(frame->size, sizeof *frame);
    EQUAL(frame->type, RELAY_FRAME_RECORD);
    EQUAL(frame->sequence, i);
    EQUAL(frame->length, strlen(texts[i]));
    EQUAL(frame->record_length, strlen(texts[i]));
    EQUAL(frame->offset, 0);
    EQUAL(memcmp(payload(frame), texts[i], frame->length), 0);
    CHECK(frame->time >= time);
    time = frame->time;
  }
  EQUAL(next(reply, count, &at), NULL);
  clock_gettime(CLOCK_MONOTONIC, &now);
  CHECK(time / 1000000000 <= (uint64_t)now.tv_sec);
  EQUAL(read(fd, reply, sizeof reply), 0);
}

TEST(a_read_of_any_size_has_whole_frames) {
  int fd = device();
  set(fd, RELAY_IOC_FRAMES, 1);
  char text[100];
  memset(text, 'x', sizeof text);
  uint64_t records = 0;
  for (size_t size = RELAY_FRAME_MIN; size < 1000; size += 13) {
    for (size_t length = 0; length < 10; length++) put(text, length * 10);
    size_t had = 0, length = 0;
    for (;;) {
      ssize_t count = read(fd, reply, size);
      CHECK(count >= 0 && (size_t)count <= size);
      if (count == 0) break;
      size_t at = 0;
      for (const struct relay_frame *frame; (frame = next(reply, count, &at));) {
        EQUAL(frame->sequence, records);
        EQUAL(frame->record_length, length * 10);
        EQUAL(frame->offset, had);
        had += frame->length;
        if (had < frame->record_length) continue;
        had = 0, length++, records++;
      }
    }
    EQUAL(length, 10);
  }
  FAILS(read(fd, reply, RELAY_FRAME_MIN - 1), EINVAL);
}

TEST(a_long_read_has_whole_frames) {
  int fd = device();
  static char text[30000], target[1 << 20] __attribute__((aligned(8)));
  set(fd, RELAY_IOC_FRAMES, 1);
  for (int i = 0; i < 8; i++) put(text, sizeof text);
  uint64_t records = 0;
  // At an odd place, whose pages a request cuts otherwise.
  for (ssize_t count; (count = read(fd, target + 24, sizeof target - 24)) > 0;) {
    size_t at = 0;
    for (const struct relay_frame *frame; (frame = next(target + 24, count, &at));) {
      EQUAL(frame->length, sizeof text);
      EQUAL(frame->sequence, records++);
    }
  }
  EQUAL(records, 8);
}

TEST(a_record_is_never_given_to_two_files) {
  int fds[] = {device(), device()};
  for (int i = 0; i < 2; i++) set(fds[i], RELAY_IOC_FRAMES, 1);
  put("one", 3);
  put("two", 3);
  size_t at = 0;
  EQUAL(read(fds[0], reply, RELAY_FRAME_MIN), 48);
  EQUAL(next(reply, 48, &at)->sequence, 0);
  at = 0;
  EQUAL(read(fds[1], reply, RELAY_FRAME_MIN), 48);
  EQUAL(next(reply, 48, &at)->sequence, 1);
}

enum { RECORDS = 3000 };

struct frame_reader {
  pthread_t thread;
  int fd, reads;
  int64_t last;
};

static int seen_of[RECORDS], seen_count;
static pthread_barrier_t turn;

// What record `sequence` consists of; how much of it there is.
static size_t record_text(uint64_t sequence, char *text) {
  size_t length = 1 + sequence % 60;
  for (size_t i = 0; i < length; i++) text[i] = (char)(sequence * 7 + i);
  return length;
}

static void *read_frames(void *argument) {
  struct frame_reader *me = argument;
  _Alignas(8) char some[256];
  char text[60];
  while (seen_count < RECORDS) {
    // All begin to read at once, and look at the count when none reads.
    pthread_barrier_wait(&turn);
    ssize_t count = read(me->fd, some, sizeof some);
    CHECK(count >= 0);
    size_t at = 0;
    for (const struct relay_frame *frame; (frame = next(some, count, &at));) {
      EQUAL(frame->type, RELAY_FRAME_RECORD);
      CHECK(frame->sequence < RECORDS && (int64_t)frame->sequence > me->last);
      me->last = (int64_t)frame->sequence;
      EQUAL(frame->offset, 0);
      EQUAL(frame->length, frame->record_length);
      EQUAL(frame->length, record_text(frame->sequence, text));
      CHECK(!memcmp(payload(frame), text, frame->length));
      EQUAL(__atomic_exchange_n(&seen_of[frame->sequence], 1, __ATOMIC_SEQ_CST), 0);
      __atomic_fetch_add(&seen_count, 1, __ATOMIC_SEQ_CST);
    }
    me->reads += count > 0;
    pthread_barrier_wait(&turn);
  }
  return NULL;
}

TEST(two_readers_at_once_get_each_record_whole_and_once) {
  struct frame_reader readers[2];
  char text[60];
  for (uint64_t i = 0; i < RECORDS; i++) put(text, record_text(i, text));
  EQUAL(pthread_barrier_init(&turn, NULL, 2), 0);
  for (int i = 0; i < 2; i++) {
    readers[i] = (struct frame_reader){.fd = device(), .last = -1};
    set(readers[i].fd, RELAY_IOC_FRAMES, 1);
    EQUAL(pthread_create(&readers[i].thread, NULL, read_frames, &readers[i]), 0);
  }
  for (int i = 0; i < 2; i++) {
    EQUAL(pthread_join(readers[i].thread, NULL), 0);
    CHECK(readers[i].reads > 100);
  }
}

TEST(losses_stand_where_they_happened) {
  int fd = device();
  static char text[16 << 10];
  set(fd, RELAY_IOC_FRAMES, 1);
  relay_chan *chan = relay_attach(NULL, "relay");
  CHECK(chan);
  int full = 0;
  while (relay_write(chan, text, sizeof text) == 0) full++;
  EQUAL(full, 16);
  EQUAL(relay_write(chan, text, sizeof text), -ENOBUFS);
  ssize_t count = read(fd, reply, sizeof reply);
  CHECK(count > 0);
  while (read(fd, reply, sizeof reply) > 0) {}
  put("next", 4);
  count = read(fd, reply, sizeof reply);
  size_t at = 0;
  const struct relay_frame *frame = next(reply, count, &at);
  CHECK(frame);
  EQUAL(frame->type, RELAY_FRAME_LOST);
  EQUAL(frame->sequence, 16);
  struct relay_loss loss;
  EQUAL(frame->length, sizeof loss);
  memcpy(&loss, payload(frame), sizeof loss);
  EQUAL(loss.full, 2);
  EQUAL(loss.overwritten + loss.stalled + loss.restart, 0);
  frame = next(reply, count, &at);
  CHECK(frame && frame->type == RELAY_FRAME_RECORD);
  EQUAL(frame->sequence, 16);
}

TEST(poll_tells_of_frames_without_bytes) {
  struct pollfd bytes = {.fd = device(), .events = POLLIN};
  struct pollfd frames = {.fd = device(), .events = POLLIN};
  set(frames.fd, RELAY_IOC_FRAMES, 1);
  EQUAL(poll(&frames, 1, 0), 0);
  put("", 0);
  EQUAL(poll(&frames, 1, 10000), 1);
  EQUAL(poll(&bytes, 1, 0), 0);
  EQUAL(read(frames.fd, reply, sizeof reply), sizeof(struct relay_frame));
  EQUAL(poll(&frames, 1, 0), 0);
}

TEST(blocking_is_the_files_own_choice) {
  int fd = device();
  EQUAL(read(fd, reply, 8), 0);
  set(fd, RELAY_IOC_BLOCK, 1);
  EQUAL(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
  FAILS(read(fd, reply, 8), EAGAIN);
  EQUAL(fcntl(fd, F_SETFL, 0), 0);
  pid_t child = fork();
  if (child == 0) {
    put("late", 4);
    _exit(0);
  }
  EQUAL(read(fd, reply, 8), 4);
  set(fd, RELAY_IOC_BLOCK, -1);
  EQUAL(read(fd, reply, 8), 0);
}

TEST(a_sole_reader_has_the_buffer_for_itself) {
  int fd = device(), other = device();
  EQUAL(ioctl(fd, RELAY_IOC_EXCL), 0);
  FAILS(ioctl(other, RELAY_IOC_EXCL), EBUSY);
  FAILS(ioctl(other, RELAY_IOC_NXCL), EBUSY);
  FAILS(open(getenv("DEVICE"), O_RDONLY), EBUSY);
  put("one", 3);
  FAILS(read(other, reply, 8), EBUSY);
  struct pollfd poller = {.fd = other, .events = POLLIN};
  EQUAL(poll(&poller, 1, 0), 1);
  EQUAL(poller.revents, POLLERR);
  EQUAL(read(fd, reply, 8), 3);
  EQUAL(ioctl(fd, RELAY_IOC_NXCL), 0);
  close(device());
  EQUAL(ioctl(other, RELAY_IOC_EXCL), 0);
  close(other);
  put("two", 3);
  // A close is answered before the device has heard of it.
  int last;
  while ((last = open(getenv("DEVICE"), O_RDONLY)) < 0) EQUAL(errno, EBUSY);
  EQUAL(read(fd, reply, 8), 3);
}

TEST(peeking_takes_nothing) {
  int fd = device(), peeker = device();
  set(peeker, RELAY_IOC_PEEK, 1);
  put("one", 3);
  EQUAL(read(peeker, reply, 8), 3);
  EQUAL(read(peeker, reply, 8), 0);
  EQUAL(read(fd, reply, 8), 3);
  put("two", 3);
  set(peeker, RELAY_IOC_PEEK, 0);
  EQUAL(read(peeker, reply, 8), 3);
  EQUAL(read(fd, reply, 8), 0);
}

TEST(a_peeker_is_told_what_it_missed) {
  int fd = device(), peeker = device();
  static char text[48 << 10];
  set(peeker, RELAY_IOC_PEEK, 1);
  set(peeker, RELAY_IOC_FRAMES, 1);
  for (int i = 0; i < 3; i++) put(text, sizeof text);
  while (read(fd, reply, sizeof reply) > 0) {}
  size_t at = 0;
  ssize_t count = read(peeker, reply, sizeof reply);
  const struct relay_frame *frame = next(reply, count, &at);
  CHECK(frame);
  EQUAL(frame->type, RELAY_FRAME_LOST);
  EQUAL(frame->sequence, 2);
  struct relay_loss loss;
  memcpy(&loss, payload(frame), sizeof loss);
  EQUAL(loss.overwritten, 2);
  frame = next(reply, count, &at);
  CHECK(frame && frame->type == RELAY_FRAME_RECORD);
  EQUAL(frame->sequence, 2);
}
