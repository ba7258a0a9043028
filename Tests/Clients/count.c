// SPDX-License-Identifier: Apache-2.0
// A producer that goes on whatever becomes of its daemon: writes records of 8 bytes until its input
// ends, then says how many were written and how many refused. The argument says how: "steady",
// "slow", "handler" (from a signal handler), "forked" (a child too, which says its own counts).
#include <errno.h>
#include <poll.h>
#include <relay.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static relay_chan *chan;
static volatile sig_atomic_t written, refused;

static void write_one(int signal) {
  (void)signal;
  int saved = errno;
  errno = 77;
  int result = relay_write(chan, "12345678", 8);
  if (errno != 77) abort();
  if (result == 0) {
    written++;
  } else {
    refused++;
  }
  errno = saved;
}

static int has_more(int milliseconds) {
  struct pollfd input = {.fd = 0, .events = POLLIN};
  int result = poll(&input, 1, milliseconds);
  return result == 0 || (result < 0 && errno == EINTR);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  const char *how = argv[2];
  chan = relay_attach(NULL, argv[1]);
  if (!chan) {
    perror(argv[1]);
    return 1;
  }
  pid_t child = 0;
  if (!strcmp(how, "forked")) child = fork();
  write_one(0);
  if (child > 0 || strcmp(how, "forked")) {
    puts("ready");
    fflush(stdout);
  }
  int is_handler = !strcmp(how, "handler");
  if (is_handler) {
    struct sigaction action = {.sa_handler = write_one};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval timer = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &timer, NULL);
  }
  while (has_more(!strcmp(how, "slow") ? 100 : 1))
    if (!is_handler) write_one(0);
  signal(SIGALRM, SIG_IGN);
  if (child > 0) waitpid(child, NULL, 0);
  printf("%d %d\n", (int)written, (int)refused);
  // Asked of the daemon there is now.
  struct relay_stat stat;
  if (relay_statistics(relay_buffer(chan, 0), &stat, sizeof stat) != 0) return 3;
  relay_detach(chan);
  return 0;
}
