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
#include <sys/wait.h>
#include <unistd.h>

// Requests of one kind that wait at the same time.
enum { THREADS = 2, CHILDREN = 2 };

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
    void *(*body)(void *);
  } kinds[] = {
      {"open", open_and_close}, {"poll", polls}, {"ioctl", asks}, {"map", maps}, {"die", NULL}};
  if (argc != 4) return 2;
  // Stopped and killed with its children.
  if (setpgid(0, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail("storm");
  device = argv[2];
  channel = argv[3];
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (strcmp(argv[1], kinds[i].name) != 0) continue;
    if (!kinds[i].body) dies();
    pthread_t thread;
    for (int t = 1; t < THREADS; t++)
      if (pthread_create(&thread, NULL, kinds[i].body, NULL) != 0) return 1;
    kinds[i].body(NULL);
  }
  return 2;
}
