// SPDX-License-Identifier: Apache-2.0
// An application with children of every kind, under limits, without privileges, with signals.
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "application.h"

static const struct {
  const char *name;
  int resource;
} limits[] = {
    {"as", RLIMIT_AS},           {"core", RLIMIT_CORE},     {"cpu", RLIMIT_CPU},
    {"data", RLIMIT_DATA},       {"fsize", RLIMIT_FSIZE},   {"locks", RLIMIT_LOCKS},
    {"memlock", RLIMIT_MEMLOCK}, {"msgqueue", RLIMIT_MSGQUEUE}, {"nice", RLIMIT_NICE},
    {"nofile", RLIMIT_NOFILE},   {"nproc", RLIMIT_NPROC},   {"rss", RLIMIT_RSS},
    {"rtprio", RLIMIT_RTPRIO},   {"rttime", RLIMIT_RTTIME}, {"sigpending", RLIMIT_SIGPENDING},
    {"stack", RLIMIT_STACK},
};

static struct rlimit before;

static int limit_to(const char *name, rlim_t value) {
  for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
    if (strcmp(limits[i].name, name) != 0) continue;
    MUST(getrlimit(limits[i].resource, &before) == 0);
    struct rlimit limit = {value, before.rlim_max};
    MUST(setrlimit(limits[i].resource, &limit) == 0);
    return limits[i].resource;
  }
  errno = EINVAL;
  fail(name);
  return -1;
}

// limit NAME VALUE WHEN: the soft limit is that small from before or after it attaches on.
SCENARIO(limit) {
  MUST(argc == 3);
  int is_late = !strcmp(argv[2], "late");
  record("first\n");
  if (is_late) attach();
  int resource = limit_to(argv[0], strtoull(argv[1], NULL, 10));
  if (!is_late) attach();
  relay_write(chan, "limited\n", 8);
  record_many();
  // relayd may go, and another one come.
  rest();
  relay_write(chan, "rested\n", 7);
  record_many();
  pid_t child = resource == RLIMIT_NPROC ? -1 : fork();
  if (child == 0) {
    relay_write(chan, "child\n", 6);
    _exit(5);
  }
  int status = -1;
  if (child > 0) waitpid(child, &status, 0);
  say("child %d", status);
  relay_detach(chan);
  chan = NULL;
  MUST(setrlimit(resource, &before) == 0);
  record("last\n");
}

static void take_memory(void) {
  for (size_t size = 1 << 20; size >= 16; size /= 2)
    while (malloc(size)) continue;
}

// exhausted WHEN: there is no memory left, from before or after it attaches on.
SCENARIO(exhausted) {
  MUST(argc == 1);
  int is_late = !strcmp(argv[0], "late");
  record("first\n");
  relay_chan *own = NULL;
  relay_mapping *map = NULL;
  if (!is_late) {
    limit_to("as", 0);
    take_memory();
  }
  attach();
  own = relay_open("own", 4096, 4, RELAY_GLOBAL, NULL, NULL);
  map = relay_map(NULL, "mapped", 0, RELAY_MAP_UNFINISHED);
  if (is_late) {
    limit_to("as", 0);
    take_memory();
  }
  char byte;
  struct relay_subbuf subbuf;
  relay_poll_fd(relay_buffer(own, 0));
  relay_read(relay_buffer(own, 0), &byte, 1);
  relay_map_next(map, &subbuf, sizeof subbuf);
  relay_map_fd(map);
  (void)byte, (void)subbuf;
  relay_write(own, "own\n", 4);
  record("exhausted\n");
  record_many();
  rest();
  record("rested\n");
  record_many();
  struct relay_stat stat;
  relay_statistics(relay_buffer(chan, 0), &stat, sizeof stat);
  pid_t child = fork();
  if (child == 0) {
    relay_write(chan, "child\n", 6);
    _exit(5);
  }
  int status = -1;
  if (child > 0) waitpid(child, &status, 0);
  say("child %d", status);
  (void)stat;
  relay_unmap(map);
  relay_detach(own);
  relay_detach(chan);
  chan = NULL;
  MUST(setrlimit(RLIMIT_AS, &before) == 0);
}

static char stack[256 << 10];

static int child_work(void *name) {
  record(name);
  record_many();
  return 9;
}

static void await(const char *what, pid_t child, int flags) {
  int status;
  MUST(child > 0 && waitpid(child, &status, flags) == child);
  say("%s: %d", what, status);
}

// children: each way to make one, each of which writes.
SCENARIO(children) {
  (void)argc, (void)argv;
  attach();
  record("parent\n");
  pid_t child = fork();
  if (child == 0) {
    child_work("fork\n");
    relay_detach(chan);
    write_said("said.fork");
    exit(4);
  }
  await("fork", child, 0);
  child = _Fork();
  if (child == 0) _exit(child_work("_Fork\n"));
  await("_Fork", child, 0);
  child = vfork();
  if (child == 0) {
    relay_write(chan, "vfork\n", 6);
    _exit(6);
  }
  await("vfork", child, 0);
  char *top = stack + sizeof stack;
  await("clone", clone(child_work, top, SIGCHLD, "clone\n"), 0);
  await("files", clone(child_work, top, CLONE_FILES | SIGCHLD, "clone, files\n"), 0);
  await("memory", clone(child_work, top, CLONE_VM | SIGCHLD, "clone, memory\n"), 0);
  await("silent", clone(child_work, top, 0, "clone, no signal\n"), __WCLONE);
  // What is open in a new program is what the application left open.
  char *list[] = {"sh", "-c", "ls /proc/self/fd >spawned; exit 8", NULL};
  MUST(posix_spawnp(&child, "sh", NULL, NULL, list, environ) == 0);
  await("spawn", child, 0);
  child = vfork();
  if (child == 0) {
    execlp("sh", "sh", "-c", "ls /proc/self/fd >execed; exit 7", NULL);
    _exit(1);
  }
  await("exec", child, 0);
  record("parent again\n");
  record_many();
  relay_detach(chan);
}

// prisoner: gives its root directory and its rights up, as servers do.
SCENARIO(prisoner) {
  (void)argc, (void)argv;
  attach();
  record("free\n");
  MUST(chroot(".") == 0 && chdir("/") == 0);
  MUST(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
  record("imprisoned\n");
  record_many();
  rest();
  record("rested\n");
  record_many();
  pid_t child = fork();
  if (child == 0) {
    relay_write(chan, "child\n", 6);
    _exit(5);
  }
  await("child", child, 0);
  relay_detach(chan);
}

// resting: whatever becomes of relayd meanwhile.
SCENARIO(resting) {
  (void)argc, (void)argv;
  attach();
  record("before\n");
  record_many();
  rest();
  record("meanwhile\n");
  record_many();
  pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 10; i++) relay_write(chan, "child\n", 6);
    _exit(5);
  }
  await("child", child, 0);
  rest();
  record("after\n");
  record_many();
  relay_detach(chan);
}

static sigjmp_buf out;
static volatile sig_atomic_t is_inside, jumps;

static void jump(int signal) {
  (void)signal;
  int saved = errno;
  relay_write(chan, "handler\n", 8);
  if (is_inside) {
    is_inside = 0;
    jumps++;
    siglongjmp(out, 1);
  }
  errno = saved;
}

// jumps: handlers that leave relay_write for good, which is forbidden, and yet harms nobody.
SCENARIO(jumps) {
  (void)argc, (void)argv;
  struct sigaction action = {.sa_handler = jump};
  MUST(sigaction(SIGALRM, &action, NULL) == 0);
  attach();
  static char big[3000];
  memset(big, 'x', sizeof big);
  volatile int turns = 0;
  while (jumps < 200) {
    if (sigsetjmp(out, 1) == 0) {
      // Some hundred microseconds: in or between calls, as it comes.
      struct itimerval timer = {{0, 0}, {0, 50 + turns++ % 17}};
      is_inside = 1;
      setitimer(ITIMER_REAL, &timer, NULL);
      for (;;) relay_write(chan, big, sizeof big);
    }
  }
  alarm(50);
  signal(SIGALRM, SIG_DFL);
  record("after all\n");
  record_many();
  say("%d jumps", (int)jumps);
  relay_detach(chan);
}

// aborted: leaves a core, where it may.
SCENARIO(aborted) {
  (void)argc, (void)argv;
  struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
  MUST(setrlimit(RLIMIT_CORE, &all) == 0);
  attach();
  record("one record\n");
  write_said("said");
  rest();
  abort();
}
