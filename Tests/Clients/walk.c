// SPDX-License-Identifier: Apache-2.0
// What readers of a device ($DEVICE, of channel "relay") get behind more records without any bytes,
// or given up, than relayd passes at a time. Each test has a daemon of its own.
#include "test.h"

#include <fcntl.h>
#include <pthread.h>
#include <relay_ioctl.h>
#include <unistd.h>

enum { PASSED = 200000 };

static relay_chan *channel(void) {
  static relay_chan *chan;
  if (!chan) CHECK(chan = relay_attach(NULL, "relay"));
  return chan;
}

static void put(const char *text) { EQUAL(relay_write(channel(), text, strlen(text)), 0); }

static void put_empty(void) {
  for (int i = 0; i < PASSED; i++) put("");
}

static void put_cancelled(void) {
  for (int i = 0; i < PASSED; i++) {
    relay_reservation record;
    CHECK(relay_reserve(channel(), 1, &record));
    relay_cancel(&record);
  }
}

static void (*const puts_passed[])(void) = {put_empty, put_cancelled};

#define EACH_KIND for (int kind = 0; kind < 2; kind++)

static int device(int flags) {
  int fd = open(getenv("DEVICE"), O_RDONLY | flags);
  CHECK(fd >= 0);
  return fd;
}

static void set(int fd, unsigned long command, int value) { EQUAL(ioctl(fd, command, &value), 0); }

static void expect(int fd, const char *text) {
  char bytes[64];
  EQUAL(read(fd, bytes, sizeof bytes), strlen(text));
  CHECK(!memcmp(bytes, text, strlen(text)));
}

static short poll_in(int fd, int milliseconds) {
  struct pollfd poller = {.fd = fd, .events = POLLIN};
  CHECK(poll(&poller, 1, milliseconds) >= 0);
  return poller.revents;
}

TEST(read_finds_what_is_behind) {
  int fd = device(0);
  EACH_KIND {
    puts_passed[kind]();
    put("one");
    expect(fd, "one");
    puts_passed[kind]();
    expect(fd, "");
  }
}

TEST(nonblocking_read_finds_what_is_behind) {
  int fd = device(O_NONBLOCK);
  set(fd, RELAY_IOC_BLOCK, 1);
  EACH_KIND {
    puts_passed[kind]();
    put("one");
    expect(fd, "one");
    puts_passed[kind]();
    char byte;
    EQUAL(read(fd, &byte, 1), -1);
    EQUAL(errno, EAGAIN);
  }
}

static void *reads(void *file) {
  expect(*(int *)file, "one");
  return NULL;
}

TEST(blocking_read_finds_what_is_behind_and_what_comes) {
  int fd = device(0);
  set(fd, RELAY_IOC_BLOCK, 1);
  EACH_KIND {
    puts_passed[kind]();
    put("one");
    expect(fd, "one");
    puts_passed[kind]();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, reads, &fd) == 0);
    puts_passed[kind]();
    put("one");
    CHECK(pthread_join(thread, NULL) == 0);
  }
}

TEST(poll_says_what_is_behind) {
  int fd = device(0);
  EACH_KIND {
    puts_passed[kind]();
    put("one");
    EQUAL(poll_in(fd, 60000), POLLIN);
    expect(fd, "one");
    puts_passed[kind]();
    EQUAL(poll_in(fd, 0), 0);
    expect(fd, "");
  }
}

TEST(poll_beside_a_reader_of_frames_says_what_is_behind) {
  int fd = device(0);
  int framed = device(0);
  set(framed, RELAY_IOC_FRAMES, 1);
  put_empty();
  put("one");
  EQUAL(poll_in(fd, 60000), POLLIN);
  _Alignas(8) char frames[80];
  EQUAL(read(framed, frames, 72), 40);
  EQUAL(((struct relay_frame *)frames)->sequence, 0);
  expect(fd, "one");
}

TEST(framed_read_finds_what_is_behind) {
  int fd = device(0);
  set(fd, RELAY_IOC_FRAMES, 1);
  put_cancelled();
  put("one");
  EQUAL(poll_in(fd, 60000), POLLIN);
  _Alignas(8) char frames[80];
  EQUAL(read(fd, frames, sizeof frames), 48);
  EQUAL(((struct relay_frame *)frames)->sequence, PASSED);
  put_cancelled();
  put("one");
  EQUAL(read(fd, frames, sizeof frames), 48);
  EQUAL(((struct relay_frame *)frames)->sequence, 2 * PASSED + 1);
}

TEST(peeking_read_finds_what_is_behind_and_takes_nothing) {
  EACH_KIND {
    int fd = device(0);
    set(fd, RELAY_IOC_PEEK, 1);
    puts_passed[kind]();
    put("one");
    expect(fd, "one");
    int other = device(0);
    set(other, RELAY_IOC_PEEK, 1);
    EQUAL(poll_in(other, 60000), POLLIN);
    expect(other, "one");
    expect(device(0), "one");
  }
}
