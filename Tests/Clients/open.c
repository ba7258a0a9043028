// SPDX-License-Identifier: Apache-2.0
// Records that are never ended. The first argument says how, the second is the channel, whose
// sub-buffers are of 4 KiB:
//
// jump        a signal handler that interrupts relay_write leaves it by siglongjmp, until a record
//             stays open; then writes go on
// leave N     reserves up to N records, each in a sub-buffer of its own, and ends none; says how
//             many, and the errno value of the last where that was refused
// write       writes records of 4 KiB, and says for each line of its input what became of one
//
// All say what they did in a line, and wait for the end of their input.
#include <errno.h>
#include <relay.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

enum { SUBBUF = 4096 };
static char record[SUBBUF];
static relay_chan *chan;
static sigjmp_buf out;
static volatile sig_atomic_t is_inside;

static void leave(int signal) {
  (void)signal;
  if (is_inside) siglongjmp(out, 1);
}

static void wait_for_end(void) {
  fflush(stdout);
  while (getchar() != EOF) {
  }
}

// Returns what the write did that came after the jump.
static int jump(void) {
  struct sigaction action = {.sa_handler = leave};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval timer = {{0, 200}, {0, 200}};
  setitimer(ITIMER_REAL, &timer, NULL);
  // Most of the time passes in the copy, between reserve and commit.
  volatile long jumps = 0;
  if (sigsetjmp(out, 1)) {
    is_inside = 0;
    jumps++;
  }
  while (jumps < 20) {
    is_inside = 1;
    relay_write(chan, record, sizeof record);
    is_inside = 0;
  }
  struct itimerval off = {{0, 0}, {0, 0}};
  setitimer(ITIMER_REAL, &off, NULL);
  // One more, which is certainly out of the copy: of memory that cannot be read.
  sigaction(SIGSEGV, &action, NULL);
  char *hidden = mmap(NULL, SUBBUF, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (!sigsetjmp(out, 1)) {
    is_inside = 1;
    relay_write(chan, hidden, SUBBUF);
  }
  is_inside = 0;
  return relay_write(chan, "after\n", 6);
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  memset(record, 'x', sizeof record);
  chan = relay_attach(NULL, argv[2]);
  if (!chan) {
    perror(argv[2]);
    return 1;
  }
  if (!strcmp(argv[1], "jump")) {
    printf("%d\n", jump());
  } else if (!strcmp(argv[1], "leave")) {
    int left = 0, refusal = 0;
    for (int i = 0; i < atoi(argv[3]); i++) {
      relay_reservation open, rest;
      if (!relay_reserve(chan, 1, &open)) {
        refusal = errno;
        break;
      }
      left++;
      // What is left of the sub-buffer.
      if (relay_reserve(chan, SUBBUF - 1, &rest)) relay_commit(&rest);
    }
    printf("%d %d\n", left, refusal);
  } else {
    char line[16];
    for (;;) {
      puts("ready");
      fflush(stdout);
      if (!fgets(line, sizeof line, stdin)) return 0;
      printf("%d ", relay_write(chan, record, sizeof record));
    }
  }
  wait_for_end();
  return 0;
}
