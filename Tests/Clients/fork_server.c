// SPDX-License-Identifier: Apache-2.0
// A server whose workers give up their root directory and user before they write. RELAY_SOCKET
// names a relayd with the global channels relay and second, into which only root may write; DAEMON
// is its process. What is written the caller reads back.
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test.h"

enum { NOBODY = 65534 };

static const char *empty_directory;

static void remove_directory(void) { rmdir(empty_directory); }

static relay_chan *attach(const char *name) {
  static char path[] = "/tmp/relay-empty.XXXXXX";
  if (!empty_directory) {
    empty_directory = mkdtemp(path);
    CHECK(empty_directory && chmod(empty_directory, 0755) == 0);
    atexit(remove_directory);
  }
  relay_chan *chan = relay_attach(NULL, name);
  if (!chan) perror(name);
  CHECK(chan);
  return chan;
}

static void become_nobody(void) {
  CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
}

static void drop_all(void) {
  CHECK(chroot(empty_directory) == 0 && chdir("/") == 0);
  become_nobody();
}

static int print(relay_chan *chan, const char *text) {
  return relay_write(chan, text, strlen(text));
}

typedef void work(relay_chan *);

// A worker that has dropped all.
static pid_t start(work *work, relay_chan *chan) {
  pid_t child = fork();
  CHECK(child >= 0);
  if (child > 0) return child;
  drop_all();
  work(chan);
  _exit(0);
}

static void succeeds(pid_t child) {
  int status;
  EQUAL(waitpid(child, &status, 0), child);
  EQUAL(status, 0);
}

// What a worker without a token gets: it reaches no socket.
static void gets_nothing(relay_chan *chan) { EQUAL(print(chan, "not this\n"), -ECONNREFUSED); }

// A worker's first write, which may come again: the daemon is busy, or another thread attaches.
static void writes(relay_chan *chan) {
  int result;
  while ((result = print(chan, "worker\n")) == -ETIMEDOUT || result == -EAGAIN) poll(NULL, 0, 5);
  EQUAL(result, 0);
}

static int descriptors(void) {
  int count = 0;
  DIR *directory = opendir("/proc/self/fd");
  CHECK(directory);
  while (readdir(directory)) count++;
  closedir(directory);
  return count;
}

TEST(each_worker_needs_a_token) {
  relay_chan *chan = attach("relay");
  int count = descriptors();
  for (int i = 0; i < 3; i++) {
    EQUAL(relay_attach_for_child(chan), 0);
    succeeds(start(writes, chan));
    EQUAL(descriptors(), count);
    succeeds(start(gets_nothing, chan));
  }
  EQUAL(print(chan, "master\n"), 0);
  relay_detach(chan);
}

static void writes_in_threads(relay_chan *chan);

TEST(workers_of_several_threads_and_channels) {
  relay_chan *chans[2] = {attach("relay"), attach("second")};
  pid_t workers[8];
  for (int i = 0; i < 8; i++) {
    for (int j = 0; j < 2; j++) EQUAL(relay_attach_for_child(chans[j]), 0);
    workers[i] = fork();
    CHECK(workers[i] >= 0);
    if (workers[i] > 0) continue;
    drop_all();
    for (int j = 1; j >= 0; j--) writes_in_threads(chans[j]);
    struct relay_stat stat;
    EQUAL(relay_statistics(relay_buffer(chans[0], 0), &stat, sizeof stat), 0);
    CHECK(stat.records_written >= 4);
    // The rights are the worker's own, but for writing.
    EQUAL(relay_reset(chans[0]), -EPERM);
    EQUAL(relay_close(chans[0]), -EPERM);
    EQUAL(relay_flush(chans[0]), 0);
    _exit(0);
  }
  for (int i = 0; i < 8; i++) succeeds(workers[i]);
  for (int j = 0; j < 2; j++) relay_detach(chans[j]);
}

static void *writes_in_a_thread(void *chan) {
  writes(chan);
  return NULL;
}

static void writes_in_threads(relay_chan *chan) {
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) EQUAL(pthread_create(&threads[i], NULL, writes_in_a_thread, chan), 0);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

static void is_killed_inside_a_record(relay_chan *chan) {
  relay_reservation reservation;
  while (!relay_reserve(chan, 8, &reservation)) CHECK(errno == ETIMEDOUT);
  raise(SIGKILL);
}

TEST(a_worker_that_dies_inside_a_record) {
  relay_chan *chan = attach("relay");
  int status;
  EQUAL(relay_attach_for_child(chan), 0);
  waitpid(start(is_killed_inside_a_record, chan), &status, 0);
  CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EQUAL(print(chan, "behind\n"), 0);
  relay_detach(chan);
}

// As the server forks a helper: the token stays the worker's, and is not the helper's.
static void forks_before_it_writes(relay_chan *chan) {
  pid_t helper = fork();
  CHECK(helper >= 0);
  if (helper == 0) {
    gets_nothing(chan);
    gets_nothing(chan);
    _exit(0);
  }
  succeeds(helper);
  writes(chan);
  // Its children, whom it attaches: it can reach no daemon itself.
  EQUAL(relay_attach_for_child(chan), -ECONNREFUSED);
  helper = fork();
  CHECK(helper >= 0);
  if (helper == 0) {
    gets_nothing(chan);
    _exit(0);
  }
  succeeds(helper);
}

TEST(a_child_of_a_worker_has_no_token) {
  relay_chan *chan = attach("relay");
  EQUAL(relay_attach_for_child(chan), 0);
  succeeds(start(forks_before_it_writes, chan));
  relay_detach(chan);
}

static pid_t clone_without_handlers(void) {
  return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

static void clones_before_it_writes(relay_chan *chan) {
  pid_t helper = clone_without_handlers();
  CHECK(helper >= 0);
  if (helper == 0) {
    gets_nothing(chan);
    _exit(0);
  }
  succeeds(helper);
  writes(chan);
}

// They share the parent's token: it is not for them, and stays good.
TEST(children_that_no_handler_saw_have_no_token) {
  relay_chan *chan = attach("relay");
  EQUAL(relay_attach_for_child(chan), 0);
  pid_t child = clone_without_handlers();
  CHECK(child >= 0);
  if (child == 0) {
    drop_all();
    gets_nothing(chan);
    relay_detach(chan);
    _exit(0);
  }
  succeeds(child);
  // Nor does this use it up.
  extern char **environ;
  char *arguments[] = {"true", NULL};
  EQUAL(posix_spawnp(&child, "true", NULL, NULL, arguments, environ), 0);
  succeeds(child);
  child = vfork();
  if (child == 0) _exit(0);
  succeeds(child);
  succeeds(start(clones_before_it_writes, chan));
  relay_detach(chan);
}

static long milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void writes_once_the_daemon_goes_on(relay_chan *chan) {
  // The parent has stopped it.
  long start = milliseconds();
  int result = print(chan, "too early\n");
  CHECK(milliseconds() - start < 1000);
  EQUAL(result, -ETIMEDOUT);
  // The parent, which may signal it, has it go on.
  raise(SIGSTOP);
  writes(chan);
}

TEST(a_token_outlasts_a_stopped_daemon) {
  relay_chan *chan = attach("relay");
  pid_t daemon = atoi(getenv("DAEMON"));
  int status;
  EQUAL(relay_attach_for_child(chan), 0);
  EQUAL(kill(daemon, SIGSTOP), 0);
  pid_t worker = start(writes_once_the_daemon_goes_on, chan);
  EQUAL(waitpid(worker, &status, WUNTRACED), worker);
  EQUAL(kill(daemon, SIGCONT), 0);
  CHECK(WIFSTOPPED(status));
  kill(worker, SIGCONT);
  succeeds(worker);
  relay_detach(chan);
}

// It closes what it did not open, and gives the numbers to files of its own.
static void closes_all_descriptors(relay_chan *chan) {
  FILE *files[1024];
  closefrom(3);
  int ends[2], count = 0;
  CHECK(pipe(ends) == 0);
  while (count < 1020 && (files[count] = fdopen(dup(ends[1]), "w"))) count++;
  CHECK(fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
  gets_nothing(chan);
  for (int i = 0; i < count; i++) CHECK(fcntl(fileno(files[i]), F_GETFD) >= 0);
  char byte;
  CHECK(read(ends[0], &byte, 1) == -1 && errno == EAGAIN);
}

TEST(a_token_goes_with_its_descriptor) {
  relay_chan *chan = attach("relay");
  EQUAL(relay_attach_for_child(chan), 0);
  succeeds(start(closes_all_descriptors, chan));
  relay_detach(chan);
}

static void detaches(relay_chan *chan) { relay_detach(chan); }

TEST(tokens_that_nobody_uses_leave_nothing_behind) {
  int before = descriptors();
  relay_chan *chan = attach("relay");
  int count = descriptors();
  // Each replaces the one before.
  for (int i = 0; i < 300; i++) EQUAL(relay_attach_for_child(chan), 0);
  EQUAL(descriptors(), count + 1);
  succeeds(start(detaches, chan));
  EQUAL(descriptors(), count);
  for (int i = 0; i < 300; i++) {
    EQUAL(relay_attach_for_child(chan), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(0);
    succeeds(child);
  }
  EQUAL(relay_attach_for_child(chan), 0);
  relay_detach(chan);
  EQUAL(descriptors(), before);
}

TEST(what_has_no_token) {
  relay_chan *own = open_small(64, 2, 0);
  EQUAL(relay_attach_for_child(own), -EOPNOTSUPP);
  EQUAL(relay_attach_for_child(NULL), -EINVAL);
  relay_detach(own);
}

// A worker that keeps its root directory: it can ask a daemon, and is refused.
static pid_t start_nobody(work *work, relay_chan *chan) {
  EQUAL(relay_attach_for_child(chan), 0);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child > 0) return child;
  become_nobody();
  work(chan);
  _exit(0);
}

static int is_over(int fd) {
  struct pollfd ask = {.fd = fd, .events = POLLIN};
  return poll(&ask, 1, 0) > 0;
}

// Says who it is, then writes all the time until its input ends, or it is refused; then says
// why, and what was counted.
static void writes_until_refused(relay_chan *chan) {
  writes(chan);
  printf("%d %d\n", (int)getpid(), (int)getuid());
  fflush(stdout);
  int result = 0;
  // The memory of the daemon that is gone may fill.
  while ((result == 0 || result == -ENOBUFS) && !is_over(0)) {
    result = relay_write(chan, "", 0);
    poll(NULL, 0, 10);
  }
  struct relay_stat stat = {0};
  if (result == -ENOTCONN) CHECK(relay_statistics(relay_buffer(chan, 0), &stat, sizeof stat) == 0);
  printf("%d %d\n", result, (int)stat.lost_restart);
  fflush(stdout);
}

TEST(a_worker_that_is_in_no_chroot) {
  relay_chan *chan = attach("relay");
  succeeds(start_nobody(writes_until_refused, chan));
  relay_detach(chan);
}

TEST(a_worker_that_stays) {
  relay_chan *chan = attach("relay");
  EQUAL(relay_attach_for_child(chan), 0);
  succeeds(start(writes_until_refused, chan));
  relay_detach(chan);
}

TEST(many_workers_at_once) {
  relay_chan *chan = attach("relay");
  pid_t workers[20];
  int hold[2], ready[2];
  char byte;
  CHECK(pipe(hold) == 0 && pipe(ready) == 0);
  for (int i = 0; i < 20; i++) {
    EQUAL(relay_attach_for_child(chan), 0);
    workers[i] = fork();
    CHECK(workers[i] >= 0);
    if (workers[i] > 0) continue;
    close(hold[1]);
    drop_all();
    writes(chan);
    CHECK(write(ready[1], "x", 1) == 1 && read(hold[0], &byte, 1) == 0);
    _exit(0);
  }
  // All live when the last one attaches.
  for (int i = 0; i < 20; i++) EQUAL(read(ready[0], &byte, 1), 1);
  close(hold[1]);
  for (int i = 0; i < 20; i++) succeeds(workers[i]);
  relay_detach(chan);
}

// The caller restarts the daemon meanwhile.
TEST(a_token_of_a_daemon_that_is_gone) {
  relay_chan *chan = attach("relay");
  EQUAL(relay_attach_for_child(chan), 0);
  printf("ready\n");
  fflush(stdout);
  char byte;
  EQUAL(read(0, &byte, 1), 1);
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    // As any child: by the path.
    writes(chan);
    _exit(0);
  }
  succeeds(child);
  // The parent has gone over to the next one.
  EQUAL(print(chan, "master\n"), 0);
  EQUAL(relay_attach_for_child(chan), 0);
  succeeds(start(writes, chan));
  relay_detach(chan);
}
