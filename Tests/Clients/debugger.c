// SPDX-License-Identifier: Apache-2.0
// usage: debugger attach|seize PID
// Attaches to a process as a debugger does, in the old way or in the new one, waits until it is
// stopped, and lets it go.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

static int fail(const char *what) {
  perror(what);
  return 1;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  pid_t pid = atoi(argv[2]);
  int status;
  if (!strcmp(argv[1], "attach")) {
    if (ptrace(PTRACE_ATTACH, pid, NULL, NULL) < 0) return fail("attach");
  } else {
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0) return fail("seize");
    if (ptrace(PTRACE_INTERRUPT, pid, NULL, NULL) < 0) return fail("interrupt");
  }
  if (waitpid(pid, &status, __WALL) != pid) return fail("wait");
  if (ptrace(PTRACE_DETACH, pid, NULL, NULL) < 0) return fail("detach");
  return 0;
}
