// SPDX-License-Identifier: Apache-2.0
// Readers that take all they can of a device ($DEVICE, of channel "relay"), or will not give it up.
// Each says what it got, a line at a time, and goes on when it is told to by a line, or ends by a
// signal.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <relay_ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mapped.h"

static int device(int flags) { return open(getenv("DEVICE"), flags); }

static void say(long long number) {
  printf("%lld\n", number);
  fflush(stdout);
}

// The line that lets it go on.
static void wait_for_line(void) {
  while (getchar() != '\n') {}
}

// Opens until it is refused: how many, and why no more.
TEST(open_all) {
  int count = 0;
  while (device(O_RDONLY) >= 0) count++;
  int code = errno;
  say(count);
  say(code);
  wait_for_line();
}

// Is refused 3,000 times.
TEST(open_storm) {
  while (device(O_RDONLY) >= 0) {}
  for (int i = 0; i < 3000; i++) CHECK(device(O_RDONLY) < 0);
  say(errno);
}

// What it gets without one open file more than it has.
TEST(map_beside_open_files) {
  while (device(O_WRONLY) >= 0) {}
  EQUAL(errno, EDQUOT);
  CHECK(!relay_map(NULL, "relay", 0, 0));
  say(errno);
}

// Has the device for itself: what becomes of a read and a poll that wait.
static void *wait_for_data(void *fd) {
  char byte;
  ssize_t count = read(*(int *)fd, &byte, 1);
  return (void *)(intptr_t)(count < 0 ? errno : 0);
}

TEST(exclusive) {
  int fd = device(O_RDONLY), on = 1;
  CHECK(fd >= 0);
  EQUAL(ioctl(fd, RELAY_IOC_EXCL), 0);
  EQUAL(ioctl(fd, RELAY_IOC_BLOCK, &on), 0);
  pthread_t reader;
  EQUAL(pthread_create(&reader, NULL, wait_for_data, &fd), 0);
  say(0);
  struct pollfd ask = {.fd = fd, .events = POLLIN};
  EQUAL(poll(&ask, 1, 20000), 1);
  void *code;
  pthread_join(reader, &code);
  say(ask.revents);
  say((intptr_t)code);
  char byte;
  EQUAL(read(fd, &byte, 1), -1);
  say(errno);
  EQUAL(ioctl(fd, RELAY_IOC_EXCL), -1);
  say(errno);
  EQUAL(device(O_RDONLY), -1);
  say(errno);
  wait_for_line();
}

// Opens the device for itself again whenever it can.
TEST(exclusive_again_and_again) {
  for (int said = 0;; sched_yield()) {
    int fd = device(O_RDONLY);
    if (fd < 0) continue;
    if (ioctl(fd, RELAY_IOC_EXCL) < 0) {
      close(fd);
      continue;
    }
    if (!said++) say(0);
    char byte;
    struct pollfd ask = {.fd = fd, .events = POLLIN};
    while (poll(&ask, 1, -1) == 1 && read(fd, &byte, 1) >= 0) {}
    close(fd);
  }
}

// Peeks, in a thread that is not its first, until it may go on.
static void *peek_in_thread(void *nothing) {
  int fd = device(O_RDONLY), on = 1;
  CHECK(fd >= 0);
  EQUAL(ioctl(fd, RELAY_IOC_PEEK, &on), 0);
  say(0);
  wait_for_line();
  return nothing;
}

TEST(peek) {
  pthread_t thread;
  EQUAL(pthread_create(&thread, NULL, peek_in_thread, NULL), 0);
  pthread_join(thread, NULL);
}

// Only writes.
TEST(write_only) {
  CHECK(device(O_WRONLY) >= 0);
  say(0);
  wait_for_line();
}

// Until the descriptor is readable; a lost buffer does not make it so at once.
static void wait_for_bell(relay_mapping *mapping) {
  struct pollfd ask = {.fd = relay_map_fd(mapping), .events = POLLIN};
  CHECK(poll(&ask, 1, 1) >= 0);
}

// Maps, consumes nothing, and maps again as soon as it can.
TEST(map_again_and_again) {
  for (int said = 0;;) {
    relay_mapping *mapping = relay_map(NULL, "relay", 0, RELAY_MAP_UNFINISHED);
    if (!mapping) continue;
    struct relay_subbuf subbuf;
    int result = -EAGAIN;
    while (result == -EAGAIN) {
      result = relay_map_next(mapping, &subbuf, sizeof subbuf);
      if (!said++) say(0);
      if (result == -EAGAIN) wait_for_bell(mapping);
    }
    while (result == 0) {
      result = relay_map_consumed(mapping, 0);
      wait_for_bell(mapping);
    }
    relay_unmap(mapping);
  }
}

// Has something in hand when it is evicted: what its calls say, and what comes when it is told of
// something again.
TEST(mapped) {
  relay_mapping *mapping = map(RELAY_MAP_UNFINISHED);
  struct relay_subbuf subbuf = next(mapping);
  say(subbuf.bytes);
  wait_for_line();
  say(-relay_map_consumed(mapping, 1));
  say(-relay_map_next(mapping, &subbuf, sizeof subbuf));
  struct pollfd ask = {.fd = relay_map_fd(mapping), .events = POLLIN};
  int result;
  do EQUAL(poll(&ask, 1, 30000), 1);
  while ((result = relay_map_next(mapping, &subbuf, sizeof subbuf)) == -EBUSY);
  say(result);
  say(subbuf.bytes);
  EQUAL(relay_map_consumed(mapping, 1), 0);
  relay_unmap(mapping);
}

// Reads that wait, each in a thread of its own: a line for each that may not.
static void *read_in_thread(void *fd) {
  char byte;
  if (read(*(int *)fd, &byte, 1) < 0) say(errno);
  return NULL;
}

TEST(wait_to_read) {
  int fd = device(O_RDONLY), on = 1;
  CHECK(fd >= 0);
  EQUAL(ioctl(fd, RELAY_IOC_BLOCK, &on), 0);
  pthread_t threads[1030];
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 << 10);
  for (int i = 0; i < 1030; i++)
    EQUAL(pthread_create(&threads[i], &small, read_in_thread, &fd), 0);
  for (int i = 0; i < 1030; i++) pthread_join(threads[i], NULL);
}

// One read that waits for data.
TEST(read_one) {
  int fd = device(O_RDONLY), on = 1;
  CHECK(fd >= 0);
  EQUAL(ioctl(fd, RELAY_IOC_BLOCK, &on), 0);
  say(0);
  char byte;
  say(read(fd, &byte, 1));
}

// Writes that wait, each of a process of its own: a line for each that may not.
TEST(wait_to_write) {
  static char record[100 << 10];
  for (int i = 0; i < 60; i++) {
    if (fork()) continue;
    int fd = device(O_WRONLY);
    CHECK(fd >= 0);
    if (write(fd, record, sizeof record) < 0) say(errno);
    _exit(0);
  }
  while (wait(NULL) > 0) {}
}

// One write that waits for room.
TEST(write_one) {
  static char record[100 << 10];
  int fd = device(O_WRONLY);
  CHECK(fd >= 0);
  say(0);
  say(write(fd, record, sizeof record));
}
