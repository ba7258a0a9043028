// SPDX-License-Identifier: Apache-2.0
// Writers that are killed anywhere, one that is not, and a reader that checks every byte. The
// channel is global and discards, RELAY_SOCKET names its relayd.
//
// usage: stress CHANNEL DEVICE KILLS SEED
//
// Prints "kills K read R surely S inside I latest M": records that a writer was inside of when it
// was killed, at least and at most, and the milliseconds that a record of the writer that lives
// took to its reader (at most). Fails at the first record that is damaged, missing, double or out
// of order.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <relay.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WRITERS 2
// Records that a writer is ahead of the reader at most: a megabyte.
#define WINDOW 500
#define MAGIC 0x52454c4159535452u

#define CHECK(condition, ...)                            \
  do {                                                   \
    if (!(condition)) {                                  \
      fprintf(stderr, "%s: ", #condition);               \
      fprintf(stderr, __VA_ARGS__);                      \
      fprintf(stderr, "\n");                             \
      _exit(1);                                          \
    }                                                    \
  } while (0)

// Followed by `words` words, each telling its writer, its record and its place.
struct record {
  uint64_t magic, writer, number, words, time, isLast;
};

// What a writer did, known after its death: `begun` is `done` or one more, and `reserved` says that
// this one surely had its place.
struct writer {
  _Atomic uint64_t begun, reserved, done;
};

static struct shared {
  _Atomic uint64_t latest;
  _Atomic int isEnding;
  // By writer, 0 is the one that lives: the records that were read.
  _Atomic uint64_t read[];
} *shared;
static struct writer *writers;

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t word(uint64_t writer, uint64_t number, uint64_t i) {
  uint64_t x = writer * 0x9e3779b97f4a7c15u + number * 0xbf58476d1ce4e5b9u + i;
  return (x ^ x >> 29) * 0x94d049bb133111ebu;
}

static void fill(struct record *record, uint64_t writer, uint64_t number, uint64_t words) {
  *record = (struct record){
      .magic = MAGIC, .writer = writer, .number = number, .words = words, .time = now()};
  uint64_t *payload = (uint64_t *)(record + 1);
  for (uint64_t i = 0; i < words; i++) payload[i] = word(writer, number, i);
}

static relay_chan *attach(const char *name) {
  relay_chan *chan = relay_attach(NULL, name);
  CHECK(chan, "%s", strerror(errno));
  return chan;
}

// Records of every size, half of them made in place, until it is killed.
static void write_until_killed(const char *name, uint64_t id, struct writer *me) {
  static char bytes[sizeof(struct record) + 512 * 8];
  relay_chan *chan = attach(name);
  for (uint64_t number = 0;; number++) {
    // The reader must keep up: a record that is refused would be counted, but whose?
    while (number - atomic_load(&shared->read[id]) > WINDOW) usleep(20);
    uint64_t words = word(id, number, 1) % 512;
    size_t length = sizeof(struct record) + words * 8;
    int result = 0;
    atomic_store(&me->begun, number + 1);
    if (number % 2) {
      relay_reservation reservation;
      void *place = relay_reserve(chan, length, &reservation);
      if (place) {
        atomic_store(&me->reserved, number + 1);
        fill(place, id, number, words);
        relay_commit(&reservation);
      } else {
        result = -errno;
      }
    } else {
      fill((struct record *)bytes, id, number, words);
      result = relay_write_wait(chan, bytes, length, 10000);
    }
    CHECK(result == 0, "writer %lu: %s", (unsigned long)id, strerror(-result));
    atomic_store(&me->done, number + 1);
  }
}

static void write_until_told(const char *name) {
  struct {
    struct record record;
  } one;
  relay_chan *chan = attach(name);
  for (uint64_t number = 0; !one.record.isLast || !number; number++) {
    struct timespec pause = {.tv_nsec = 1000000};
    nanosleep(&pause, NULL);
    fill(&one.record, 0, number, 0);
    one.record.isLast = (uint64_t)atomic_load(&shared->isEnding);
    int result = relay_write(chan, &one, sizeof one);
    CHECK(result == 0, "the writer that lives: %s", strerror(-result));
  }
}

// Takes whole records off the beginning of the bytes; returns how many bytes are left, or -1 after
// the last record.
static ssize_t check(const char *bytes, size_t count, uint64_t highest) {
  struct record record;
  while (count >= sizeof record) {
    memcpy(&record, bytes, sizeof record);
    CHECK(record.magic == MAGIC && record.writer <= highest && record.words < 512, "damaged");
    size_t length = sizeof record + record.words * 8;
    if (count < length) break;
    for (uint64_t i = 0; i < record.words; i++) {
      uint64_t payload;
      memcpy(&payload, bytes + sizeof record + i * 8, 8);
      CHECK(payload == word(record.writer, record.number, i), "damaged payload");
    }
    uint64_t expected = atomic_fetch_add(&shared->read[record.writer], 1);
    CHECK(record.number == expected, "writer %lu: record %lu instead of %lu",
          (unsigned long)record.writer, (unsigned long)record.number, (unsigned long)expected);
    if (record.writer == 0) {
      uint64_t delay = now() - record.time;
      if (delay > atomic_load(&shared->latest)) atomic_store(&shared->latest, delay);
    }
    bytes += length;
    count -= length;
    if (record.isLast) return -1;
  }
  return (ssize_t)count;
}

static void read_all(const char *device, uint64_t highest) {
  static char bytes[1 << 20];
  size_t count = 0;
  int fd = open(device, O_RDONLY);
  CHECK(fd >= 0, "%s: %s", device, strerror(errno));
  for (;;) {
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    CHECK(poll(&poller, 1, 20000) == 1, "nothing to read in 20 s");
    ssize_t got = read(fd, bytes + count, sizeof bytes - count);
    CHECK(got >= 0, "read: %s", strerror(errno));
    ssize_t left = check(bytes, count + (size_t)got, highest);
    if (left < 0) return;
    memmove(bytes, bytes + count + (size_t)got - left, (size_t)left);
    count = (size_t)left;
  }
}

static pid_t child(void) {
  pid_t pid = fork();
  CHECK(pid >= 0, "%s", strerror(errno));
  if (pid == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
  return pid;
}

static void await(pid_t pid, const char *what) {
  int status;
  CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0,
        "%s failed", what);
}

static void *map(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED, "%s", strerror(errno));
  return memory;
}

int main(int argc, char **argv) {
  CHECK(argc == 5, "usage: stress CHANNEL DEVICE KILLS SEED");
  const uint64_t kills = strtoul(argv[3], NULL, 10);
  const uint64_t highest = kills + WRITERS;
  shared = map(sizeof *shared + (highest + 1) * 8);
  writers = map((highest + 1) * sizeof *writers);
  srandom((unsigned)strtoul(argv[4], NULL, 10));

  pid_t reader = child(), living;
  if (reader == 0) read_all(argv[2], highest), _exit(0);
  if ((living = child()) == 0) write_until_told(argv[1]), _exit(0);

  pid_t victims[WRITERS];
  uint64_t ids[WRITERS], next = 1;
  for (uint64_t killed = 0; killed < kills + WRITERS; killed++) {
    int slot = (int)(killed % WRITERS);
    if (killed >= WRITERS) {
      struct writer *victim = &writers[ids[slot]];
      int status;
      for (uint64_t start = now(); atomic_load(&victim->done) == 0;) {
        CHECK(now() - start < 20000000000, "writer %lu does not write", (unsigned long)ids[slot]);
        usleep(20);
      }
      usleep((useconds_t)random() % 1000);
      kill(victims[slot], SIGKILL);
      CHECK(waitpid(victims[slot], &status, 0) == victims[slot] && WIFSIGNALED(status),
            "a writer ended by itself");
    }
    if (killed >= kills) continue;
    ids[slot] = next++;
    if ((victims[slot] = child()) == 0)
      write_until_killed(argv[1], ids[slot], &writers[ids[slot]]), _exit(1);
  }
  atomic_store(&shared->isEnding, 1);
  await(living, "the writer that lives");
  await(reader, "the reader");

  uint64_t total = atomic_load(&shared->read[0]), inside = 0, surely = 0;
  for (uint64_t id = 1; id < next; id++) {
    uint64_t read = atomic_load(&shared->read[id]), done = atomic_load(&writers[id].done);
    uint64_t begun = atomic_load(&writers[id].begun);
    CHECK(read == done || read == begun, "writer %lu: %lu read of %lu", (unsigned long)id,
          (unsigned long)read, (unsigned long)done);
    if (read < begun) inside++;
    if (read < begun && atomic_load(&writers[id].reserved) == begun) surely++;
    total += read;
  }
  uint64_t latest = atomic_load(&shared->latest) / 1000000;
  printf("kills %lu read %lu surely %lu inside %lu latest %lu\n", (unsigned long)kills,
         (unsigned long)total, (unsigned long)surely, (unsigned long)inside,
         (unsigned long)latest);
  return 0;
}
