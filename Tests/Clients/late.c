// SPDX-License-Identifier: Apache-2.0
// Attaching where relayd, or its channel, is not there yet or not there any more. RELAY_SOCKET
// names its socket. Where a test rests, its runner does something with relayd and has it go on.
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "test.h"

static void rest(void) { CHECK(raise(SIGSTOP) == 0); }

static int milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

// Fails with that error, not before that time.
static void fails(const char *channel, int timeout_ms, int error) {
  int start = milliseconds();
  errno = 0;
  CHECK(!relay_attach_wait(NULL, channel, timeout_ms));
  EQUAL(errno, error);
  CHECK(milliseconds() - start >= timeout_ms);
}

static void *attach_without_limit(void *channel) {
  relay_chan *chan = relay_attach_wait(NULL, channel, -1);
  if (!chan) perror("relay_attach_wait");
  return chan;
}

// Waits in a thread while this one rests, and writes then.
static void wait_and_write(const char *channel) {
  pthread_t thread;
  void *chan;
  EQUAL(pthread_create(&thread, NULL, attach_without_limit, (void *)channel), 0);
  rest();
  EQUAL(pthread_join(thread, &chan), 0);
  CHECK(chan);
  EQUAL(relay_write(chan, "late\n", 5), 0);
  relay_detach(chan);
}

// Rests: relayd is started.
TEST(a_program_that_starts_before_relayd_waits_for_it) {
  alarm(60);
  fails("relay", 0, ECONNREFUSED);
  fails("relay", 100, ECONNREFUSED);
  wait_and_write("relay");
}

// Rests: the channel is made.
TEST(a_program_that_starts_before_the_channel_waits_for_it) {
  alarm(60);
  fails("made", 0, ENOENT);
  fails("made", 100, ENOENT);
  wait_and_write("made");
}

// Rests: relayd goes on.
TEST(a_stopped_relayd_is_waited_for) {
  alarm(60);
  fails("relay", 100, ETIMEDOUT);
  wait_and_write("relay");
}

TEST(what_no_time_changes_is_said_at_once) {
  int start = milliseconds();
  CHECK(!relay_attach_wait(NULL, NULL, -1) && errno == EINVAL);
  CHECK(!relay_attach_wait(NULL, "", -1) && errno == EINVAL);
  CHECK(setgid(4003) == 0 && setuid(4003) == 0);
  CHECK(!relay_attach_wait(NULL, "relay", 20000) && errno == EPERM);
  CHECK(milliseconds() - start < 10000);
}

// A byte for each attachment, until relayd ends for good. While there is none, for longer than it
// may wait, it says so; nothing else ever goes wrong.
TEST(attaching_goes_on_through_restarts) {
  alarm(200);
  for (int refused = 0; refused < 20;) {
    relay_chan *chan = relay_attach(NULL, "relay");
    if (!chan) {
      EQUAL(errno, ECONNREFUSED);
      ++refused;
      continue;
    }
    refused = 0;
    relay_detach(chan);
    CHECK(write(1, ".", 1) == 1);
    // Other errors would end it at once.
    chan = relay_attach_wait(NULL, "relay", 5000);
    if (!chan) EQUAL(errno, ECONNREFUSED);
    relay_detach(chan);
  }
}
