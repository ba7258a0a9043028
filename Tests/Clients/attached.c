// SPDX-License-Identifier: Apache-2.0
// Daemon channels. RELAY_SOCKET names a relayd with the global channels relay (sub-buffers of
// 4 KiB) and small (2 of 8 bytes), and `DAEMON` its process. What is written the caller reads back.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

static relay_chan *attach(const char *name) {
  relay_chan *chan = relay_attach(NULL, name);
  if (!chan) perror(name);
  CHECK(chan);
  return chan;
}

// The child's part; returns its wait status.
static int in_child(void (*work)(relay_chan *), relay_chan *chan) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    work(chan);
    _exit(0);
  }
  int status;
  EQUAL(waitpid(child, &status, 0), child);
  return status;
}

static int descriptors(void) {
  int count = 0;
  DIR *directory = opendir("/proc/self/fd");
  CHECK(directory);
  while (readdir(directory)) count++;
  closedir(directory);
  return count;
}

TEST(every_way_of_writing) {
  relay_chan *chan = attach("relay");
  struct iovec pieces[] = {{"thr", 3}, {"ee ", 3}};
  relay_reservation reservation;
  EQUAL(relay_write(chan, "one ", 4), 0);
  EQUAL(relay_printf(chan, "%s%d ", "t", 2), 0);
  EQUAL(relay_writev(chan, pieces, 2), 0);
  EQUAL(relay_write_wait(chan, "four ", 5, 0), 0);
  memcpy(relay_reserve(chan, 5, &reservation), "five ", 5);
  relay_commit(&reservation);
  memcpy(relay_reserve(chan, 5, &reservation), "none ", 5);
  relay_cancel(&reservation);
  EQUAL(relay_write(chan, "six\n", 4), 0);
  relay_detach(chan);
}

TEST(what_cannot_be_attached) {
  errno = 0;
  CHECK(!relay_attach(NULL, "nosuch") && errno == ENOENT);
  CHECK(!relay_attach("/nosuch/socket", "relay") && errno == ECONNREFUSED);
  CHECK(!relay_attach(NULL, NULL) && errno == EINVAL);
  CHECK(!relay_attach(NULL, "") && errno == EINVAL);
  CHECK(!relay_create(NULL, "relay", 4096, 4, 0) && errno == EEXIST);
  CHECK(!relay_create(NULL, "one", 4096, 1, 0) && errno == EINVAL);
  CHECK(!relay_create(NULL, "none", 0, 4, 0) && errno == EINVAL);
  CHECK(!relay_create(NULL, "digit1", 4096, 4, 0) && errno == EINVAL);
  CHECK(!relay_create(NULL, "comma:mode=overwrite", 4096, 4, 0) && errno == EINVAL);
  CHECK(!relay_create(NULL, "huge", SIZE_MAX, SIZE_MAX, 0) && errno == EINVAL);
  CHECK(!relay_create(NULL, "flag", 4096, 4, 8) && errno == EINVAL);
}

// For a user who may do nothing.
TEST(what_is_not_permitted) {
  CHECK(!relay_attach(NULL, "relay") && errno == EPERM);
  CHECK(!relay_create(NULL, "mine", 4096, 4, 0) && errno == EPERM);
}

// relay takes one producer at a time.
TEST(one_producer_too_many) {
  relay_chan *chan = attach("relay");
  pid_t child = fork();
  if (child == 0) {
    CHECK(relay_write(chan, "x", 1) == -EMFILE);
    CHECK(relay_write(chan, "x", 1) == -EMFILE);
    CHECK(!relay_attach(NULL, "relay") && errno == EMFILE);
    relay_detach(chan);
    _exit(0);
  }
  int status;
  EQUAL(waitpid(child, &status, 0), child);
  EQUAL(status, 0);
  EQUAL(relay_write(chan, "parent\n", 7), 0);
  relay_detach(chan);
}

TEST(reading_is_for_own_channels) {
  relay_chan *chan = attach("relay");
  relay_buf *buf = relay_buffer(chan, 0);
  char one;
  CHECK(relay_buffers(chan) == 1 && buf && !relay_buffer(chan, 1) && !relay_private(chan));
  EQUAL(relay_read(buf, &one, 1), -EOPNOTSUPP);
  EQUAL(relay_read_record(buf, &one, 1, NULL, 0), -EOPNOTSUPP);
  EQUAL(relay_poll(buf), POLLNVAL);
  EQUAL(relay_poll_fd(buf), -EOPNOTSUPP);
  EQUAL(relay_subbufs_consumed(chan, 0, 1), -EOPNOTSUPP);
  EQUAL(relay_late_setup_files(chan, "x"), -EINVAL);
  relay_subbuf_start_reserve(buf, 1);
  relay_detach(chan);
}

TEST(the_whole_channel_and_its_buffer) {
  relay_chan *chan = attach("small");
  relay_buf *buf = relay_buffer(chan, 0);
  EQUAL(relay_write(chan, "123456789", 9), -EMSGSIZE);
  EQUAL(relay_write(chan, "abc", 3), 0);
  EQUAL(relay_buf_empty(buf), 1);
  EQUAL(relay_flush(chan), 0);
  EQUAL(relay_buf_empty(buf), 0);
  EQUAL(relay_buf_full(buf), 0);
  EQUAL(relay_write(chan, "12345678", 8), 0);
  EQUAL(relay_write(chan, "e", 1), -ENOBUFS);
  EQUAL(relay_write_wait(chan, "e", 1, 20), -ENOBUFS);
  EQUAL(relay_buf_full(buf), 1);
  EQUAL(relay_flush(chan), -ENOBUFS);
  EQUAL(relay_switch_subbuf(buf, 1), 0);
  EQUAL(relay_switch_subbuf(buf, 9), 0);
  struct relay_stat stat = account(buf);
  EQUAL(stat.records_written, 2);
  EQUAL(stat.lost_full, 1);
  EQUAL(stat.lost_too_big, 2);
  EQUAL(stat.subbufs_produced, 1);
  EQUAL(stat.padding, 5);
  EQUAL(relay_reset(chan), 0);
  EQUAL(account(buf).records_written, 0);
  EQUAL(relay_switch_subbuf(buf, 8), 8);
  EQUAL(relay_write(chan, "f\n", 2), 0);
  relay_detach(chan);
}

TEST(a_created_channel_lives_until_it_is_closed) {
  relay_chan *chan = relay_create(NULL, "made", 4096, 4, RELAY_OVERWRITE | RELAY_GLOBAL);
  CHECK(chan);
  EQUAL(relay_buffers(chan), 1);
  for (int i = 0; i < 20000; i++) EQUAL(relay_write(chan, "x", 1), 0);
  relay_detach(chan);
  chan = attach("made");
  CHECK(account(relay_buffer(chan, 0)).lost_overwritten > 0);
  EQUAL(relay_close(chan), 0);
  EQUAL(relay_write(chan, "x", 1), -EPIPE);
  EQUAL(relay_close(chan), -ENOENT);
  relay_detach(chan);
  CHECK(!relay_attach(NULL, "made") && errno == ENOENT);
}

static relay_reservation parents;

static void write_as_child(relay_chan *chan) {
  // The parent's record is not this process's to end.
  relay_commit(&parents);
  relay_reservation own;
  EQUAL(relay_write(chan, "child\n", 6), 0);
  CHECK(relay_buffer(chan, 0) && relay_buffers(chan) == 1);
  memcpy(relay_reserve(chan, 6, &own), "again\n", 6);
  relay_commit(&own);
}

static void write_as_family(relay_chan *chan) {
  write_as_child(chan);
  EQUAL(in_child(write_as_child, chan), 0);
  relay_detach(chan);
}

TEST(a_forked_child_attaches_in_its_own_name) {
  relay_chan *chan = attach("relay");
  char *space = relay_reserve(chan, 7, &parents);
  memcpy(space, "parent\n", 7);
  EQUAL(in_child(write_as_family, chan), 0);
  EQUAL(account(relay_buffer(chan, 0)).records_written, 5);
  relay_commit(&parents);
  EQUAL(relay_write(chan, "end\n", 4), 0);
  relay_detach(chan);
}

TEST(a_child_that_no_handler_saw_attaches_too) {
  relay_chan *chan = attach("relay");
  pid_t child = _Fork();
  CHECK(child >= 0);
  if (child == 0) {
    write_as_child(chan);
    _exit(0);
  }
  int status;
  EQUAL(waitpid(child, &status, 0), child);
  EQUAL(status, 0);
  EQUAL(relay_write(chan, "parent\n", 7), 0);
  relay_detach(chan);
}

static void detach_unused(relay_chan *chan) {
  // The parent's four descriptors were closed by the fork.
  int before = descriptors();
  relay_detach(chan);
  EQUAL(descriptors(), before);
}

TEST(a_child_may_detach_what_it_never_used) {
  int before = descriptors();
  relay_chan *chan = attach("relay");
  EQUAL(descriptors(), before + 2);
  EQUAL(in_child(detach_unused, chan), 0);
  EQUAL(relay_write(chan, "parent\n", 7), 0);
  relay_detach(chan);
}

static void write_and_close_all(relay_chan *chan) {
  struct relay_stat stat;
  for (int i = 1; i < 3; i++) {
    closefrom(3);
    EQUAL(relay_write(chan, "x", 1), 0);
    EQUAL(relay_statistics(relay_buffer(chan, 0), &stat, sizeof stat), 0);
    EQUAL(stat.records_written, i);
  }
  closefrom(3);
  EQUAL(relay_reset(chan), 0);
  closefrom(3);
  EQUAL(relay_close(chan), 0);
  closefrom(3);
  relay_detach(chan);
  // The standard ones, that of the directory, and its . and .. entries.
  EQUAL(descriptors(), 6);
}

TEST(a_request_after_closefrom_has_a_new_connection) {
  relay_chan *chan = relay_create(NULL, "made", 4096, 4, RELAY_GLOBAL);
  CHECK(chan);
  write_and_close_all(chan);
}

static void be_refused_in_grandchild(relay_chan *chan) {
  EQUAL(relay_write(chan, "x", 1), -EMFILE);
  EQUAL(relay_write_wait(chan, "x", 1, 10), -EMFILE);
  EQUAL(account(relay_buffer(chan, 0)).lost_restart, 2);
}

static void be_refused_in_child(relay_chan *chan) {
  EQUAL(relay_write(chan, "x", 1), -EMFILE);
  EQUAL(relay_write_wait(chan, "x", 1, 10), -EMFILE);
  EQUAL(relay_printf(chan, "x"), -EMFILE);
  EQUAL(in_child(be_refused_in_grandchild, chan), 0);
  EQUAL(account(relay_buffer(chan, 0)).lost_restart, 3);
}

// relay takes one producer at a time.
TEST(records_refused_in_children_are_counted_once) {
  relay_chan *chan = attach("relay");
  EQUAL(in_child(be_refused_in_child, chan), 0);
  EQUAL(relay_write(chan, "parent\n", 7), 0);
  relay_detach(chan);
}

static void die_inside_a_record(relay_chan *chan) {
  CHECK(relay_reserve(chan, 6, &parents));
  kill(getpid(), SIGKILL);
}

TEST(a_child_that_dies_inside_a_record_costs_that_record) {
  relay_chan *chan = attach("relay");
  EQUAL(relay_write(chan, "before\n", 7), 0);
  EQUAL(in_child(die_inside_a_record, chan), SIGKILL);
  EQUAL(relay_write(chan, "after\n", 6), 0);
  while (account(relay_buffer(chan, 0)).aborted == 0) poll(NULL, 0, 1);
  relay_detach(chan);
}

TEST(attaching_a_thousand_times_leaves_nothing_behind) {
  int before = 0;
  for (int i = 0; i < 1000; i++) {
    relay_chan *chan = attach("relay");
    EQUAL(relay_write(chan, "x", i == 999), 0);
    relay_detach(chan);
    if (i == 0) before = descriptors();
  }
  EQUAL(descriptors(), before);
}

// The same process, and nothing of what it had: neither memory nor descriptors.
TEST(a_program_that_is_replaced_attaches_anew) {
  relay_chan *chan = attach("relay");
  relay_reservation reservation;
  EQUAL(relay_write(chan, "before\n", 7), 0);
  CHECK(relay_reserve(chan, 8, &reservation));
  execl("/proc/self/exe", "attached", "after_an_exec", NULL);
  CHECK(!"exec");
}

TEST(after_an_exec) {
  int count = descriptors();
  relay_chan *chan = attach("relay");
  EQUAL(relay_write(chan, "after\n", 6), 0);
  relay_detach(chan);
  EQUAL(descriptors(), count);
}

// Prints who is left behind, stopped.
TEST(a_stopped_writer_is_left_behind) {
  relay_chan *chan = attach("relay");
  relay_reservation reservation;
  pid_t child = fork();
  int status;
  CHECK(child >= 0);
  if (child == 0) {
    // Of a session of its own, or the end of this process would have it go on.
    setsid();
    memcpy(relay_reserve(chan, 8, &reservation), "stopped\n", 8);
    raise(SIGSTOP);
    relay_commit(&reservation);
    _exit(0);
  }
  EQUAL(waitpid(child, &status, WUNTRACED), child);
  CHECK(WIFSTOPPED(status));
  EQUAL(relay_write(chan, "behind\n", 7), 0);
  printf("%d\n", (int)child);
  relay_detach(chan);
}

TEST(too_few_descriptors_are_said) {
  struct rlimit limit;
  for (int left = 0; left < 4; left++) {
    int highest = dup(0);
    close(highest);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = (rlim_t)(highest + left);
    EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
    errno = 0;
    CHECK(!relay_attach(NULL, "relay"));
    EQUAL(errno, EMFILE);
    limit.rlim_cur = limit.rlim_max;
    EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  relay_detach(attach("relay"));
}

TEST(two_hundred_at_once) {
  relay_chan *chans[200];
  for (int i = 0; i < 200; i++) chans[i] = attach("relay");
  EQUAL(relay_write(chans[199], "x", 1), 0);
  for (int i = 0; i < 200; i++) relay_detach(chans[i]);
}

// The C library's, counted: librelay calls these.
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t);
static volatile long allocations;

void *malloc(size_t size) {
  allocations++;
  return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
  allocations++;
  return __libc_calloc(count, size);
}

TEST(writing_allocates_nothing) {
  relay_chan *chan = relay_create(NULL, "made", 4096, 4, RELAY_OVERWRITE | RELAY_GLOBAL);
  struct iovec pieces[] = {{"ab", 2}, {"cd", 2}};
  relay_reservation reservation;
  CHECK(chan && allocations > 0);
  long before = allocations;
  for (int i = 0; i < 10000; i++) {
    EQUAL(relay_write(chan, "0123456789", 10), 0);
    EQUAL(relay_writev(chan, pieces, 2), 0);
    memcpy(relay_reserve(chan, 3, &reservation), "abc", 3);
    relay_commit(&reservation);
    CHECK(relay_reserve(chan, 3, &reservation));
    relay_cancel(&reservation);
  }
  EQUAL(allocations - before, 0);
  CHECK(account(relay_buffer(chan, 0)).subbufs_produced > 10);
  relay_close(chan);
  relay_detach(chan);
}

TEST(nobody_waits_for_a_daemon_that_is_gone) {
  relay_chan *chan = attach("small");
  while (relay_write(chan, "abcd", 4) == 0) continue;
  EQUAL(kill(atoi(getenv("DAEMON")), SIGKILL), 0);
  EQUAL(relay_write_wait(chan, "abcd", 4, -1), -ENOBUFS);
  CHECK(relay_reset(chan) < 0);
  relay_detach(chan);
}
