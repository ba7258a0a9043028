// SPDX-License-Identifier: Apache-2.0
// usage: kernel_loop FILES OUT
// A consumer as one writes it for the kernel's relay: a thread for each CPU's file, FILES and the
// CPU's number; it polls with a time-out and reads until there is nothing more, into OUT and the
// CPU's number. After SIGTERM each reads what is left and ends; how often poll said that there is
// something, before its time was over, is told then. Nothing in it knows of relayd.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MAX_CPUS = 1024, TIMEOUT_MS = 100 };

static volatile sig_atomic_t is_over;

struct consumer {
  pthread_t thread;
  int in, out;
  unsigned wakes;
};

static void stop(int signal) {
  (void)signal;
  is_over = 1;
}

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void read_until_nothing_is_left(struct consumer *consumer) {
  char data[65536];
  for (;;) {
    ssize_t count = read(consumer->in, data, sizeof data);
    if (count == 0) return;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("read");
    for (ssize_t done = 0; done < count;) {
      ssize_t n = write(consumer->out, data + done, (size_t)(count - done));
      if (n < 0) fail("write");
      done += n;
    }
  }
}

static void *consume(void *argument) {
  struct consumer *consumer = argument;
  for (;;) {
    // Looked at before the last read, so that it is the last one.
    int last = is_over;
    struct pollfd ask = {.fd = consumer->in, .events = POLLIN};
    if (poll(&ask, 1, last ? 0 : TIMEOUT_MS) < 0 && errno != EINTR) fail("poll");
    if (ask.revents & ~POLLIN) fail("poll: an error or the end");
    if (ask.revents && !last) consumer->wakes++;
    read_until_nothing_is_left(consumer);
    if (last) return NULL;
  }
}

int main(int argc, char **argv) {
  static struct consumer consumers[MAX_CPUS];
  int count = 0;
  struct sigaction action = {.sa_handler = stop};
  if (argc != 3 || sigaction(SIGTERM, &action, NULL)) return 2;
  for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF) && cpu < MAX_CPUS; cpu++) {
    char name[4096];
    snprintf(name, sizeof name, "%s%d", argv[1], cpu);
    int in = open(name, O_RDONLY);
    if (in < 0 && errno == ENOENT) continue;
    if (in < 0) fail(name);
    snprintf(name, sizeof name, "%s%d", argv[2], cpu);
    int out = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0) fail(name);
    consumers[count].in = in;
    consumers[count].out = out;
    if (pthread_create(&consumers[count].thread, NULL, consume, &consumers[count])) fail("thread");
    count++;
  }
  if (count == 0) fail(argv[1]);
  puts("ready");
  fflush(stdout);
  unsigned wakes = 0;
  for (int i = 0; i < count; i++) {
    pthread_join(consumers[i].thread, NULL);
    wakes += consumers[i].wakes;
  }
  printf("woken %u\n", wakes);
  return 0;
}
