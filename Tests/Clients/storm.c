// SPDX-License-Identifier: Apache-2.0
// usage: storm KIND DEVICE CHANNEL    does one thing to a channel again and again, until killed
//
// What an ordinary user does who wants to disturb others, or has made a mistake. Says
// "storming" once it has done it. The storms at the control socket alone are relay-load's.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <relay.h>
#include <relay_ioctl.h>
#include <relay_map.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

// Requests of one kind that wait at the same time.
enum { THREADS = 2, CHILDREN = 2, PEEKERS = 1000 };

static const char *device, *channel;
static atomic_int turns;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void note(void) {
  if (atomic_fetch_add(&turns, 1) == 100 && write(1, "storming\n", 9) != 9) exit(1);
}

static int open_device(void) {
  int fd = open(device, O_RDONLY | O_NONBLOCK);
  if (fd < 0) fail(device);
  return fd;
}

static void *open_and_close(void *unused) {
  for (;; note()) close(open_device());
  return unused;
}

static void *polls(void *unused) {
  struct pollfd poller = {.fd = open_device(), .events = POLLIN};
  for (;; note())
    if (poll(&poller, 1, 0) < 0) fail("poll");
  return unused;
}

static void *asks(void *unused) {
  int fd = open_device();
  char bytes[4096];
  for (;; note()) {
    struct relay_buffer_statistics statistics;
    struct relay_geometry geometry;
    if (ioctl(fd, RELAY_IOC_STATISTICS, &statistics) != 0) fail("RELAY_IOC_STATISTICS");
    if (ioctl(fd, RELAY_IOC_GEOMETRY, &geometry) != 0) fail("RELAY_IOC_GEOMETRY");
    // What it looks at stays there.
    for (int peeks = 1; peeks >= 0; peeks--) {
      if (ioctl(fd, RELAY_IOC_PEEK, &peeks) != 0) fail("RELAY_IOC_PEEK");
      if (peeks && read(fd, bytes, sizeof bytes) < 0) fail("read");
    }
  }
  return unused;
}

static void *maps(void *unused) {
  for (;; note()) {
    relay_mapping *map = relay_map(NULL, channel, 0, 0);
    // Another thread has it.
    if (!map && errno != EBUSY) fail("relay_map");
    relay_unmap(map);
  }
  return unused;
}

static void set(int fd, unsigned long command, int value) {
  if (ioctl(fd, command, &value) != 0) fail("ioctl");
}

static void *peeks(void *ready) {
  int fd = open(device, O_RDONLY);
  if (fd < 0) fail(device);
  set(fd, RELAY_IOC_BLOCK, 1);
  set(fd, RELAY_IOC_PEEK, 1);
  char bytes[4096];
  if (write(*(int *)ready, "", 1) != 1) fail("write");
  for (;;)
    if (read(fd, bytes, sizeof bytes) <= 0) fail("read");
  return NULL;
}

// A writer that wakes many readers again and again. They have a process group of their own, which
// is not stopped: a stop ends a wait.
static void wakes(void) {
  int ready[2];
  if (pipe(ready) != 0) fail("pipe");
  pid_t pid = fork();
  if (pid < 0) fail("fork");
  if (pid == 0) {
    struct rlimit files;
    pthread_attr_t small;
    if (setpgid(0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail("storm");
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) fail("getrlimit");
    files.rlim_cur = files.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) fail("setrlimit");
    if (pthread_attr_init(&small) != 0) fail("pthread_attr_init");
    if (pthread_attr_setstacksize(&small, 64 << 10) != 0) fail("pthread_attr_setstacksize");
    pthread_t thread;
    for (int p = 0; p < PEEKERS; p++)
      if (pthread_create(&thread, &small, peeks, &ready[1]) != 0) fail("pthread_create");
    for (;;) pause();
  }
  char byte;
  for (int p = 0; p < PEEKERS; p++)
    if (read(ready[0], &byte, 1) != 1) fail("read");
  relay_chan *chan = relay_attach(NULL, channel);
  if (!chan) fail(channel);
  // It is there from the first ones on.
  turns = 99;
  for (;; note()) {
    if (relay_write(chan, "storming", 8) != 0) fail("relay_write");
    // The pace of a producer: all are awake and wait again by then.
    usleep(50000);
  }
}

// Looks for data where there are only records without any.
static void *looks(void *unused) {
  int framed = open_device();
  struct pollfd poller = {.fd = open_device(), .events = POLLIN};
  char bytes[4096];
  // What it does not read stays there for the others.
  set(framed, RELAY_IOC_FRAMES, 1);
  for (;; note()) {
    if (poll(&poller, 1, 0) < 0) fail("poll");
    set(poller.fd, RELAY_IOC_PEEK, 1);
    // The storm may have been stopped in the middle of it.
    if (read(poller.fd, bytes, sizeof bytes) < 0 && errno != EINTR) fail("read");
    set(poller.fd, RELAY_IOC_PEEK, 0);
  }
  return unused;
}

static void looks_at_nothing(void) {
  relay_chan *chan = relay_attach(NULL, channel);
  if (!chan) fail(channel);
  while (relay_write(chan, "", 0) == 0) continue;
  turns = 99;
  pthread_t thread;
  for (int t = 1; t < THREADS; t++)
    if (pthread_create(&thread, NULL, looks, NULL) != 0) fail("pthread_create");
  looks(NULL);
}

// Dies in the middle of a record.
static void die(void) {
  relay_chan *chan = relay_attach(NULL, channel);
  relay_reservation record;
  if (!chan || !relay_reserve(chan, 8, &record)) fail(channel);
  _exit(0);
}

static void dies(void) {
  int children = 0;
  for (;;) {
    if (children == CHILDREN) {
      int status;
      if (wait(&status) < 0 || status != 0) exit(1);
      children--;
      note();
    }
    pid_t pid = fork();
    if (pid < 0) fail("fork");
    if (pid == 0) die();
    children++;
  }
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    // Of each thread, or of the process.
    void *(*body)(void *);
    void (*all)(void);
  } kinds[] = {
      {"open", open_and_close, NULL}, {"poll", polls, NULL},
      {"ioctl", asks, NULL},          {"map", maps, NULL},
      {"die", NULL, dies},            {"peek", NULL, wakes},
      {"empty", NULL, looks_at_nothing}};
  if (argc != 4) return 2;
  // Stopped and killed with its children.
  if (setpgid(0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail("storm");
  device = argv[2];
  channel = argv[3];
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(argv[1], kinds[i].name) != 0) continue;
    if (kinds[i].all) kinds[i].all();
    pthread_t thread;
    for (int t = 1; t < THREADS; t++)
      if (pthread_create(&thread, NULL, kinds[i].body, NULL) != 0) return 1;
    kinds[i].body(NULL);
  }
  return 2;
}
