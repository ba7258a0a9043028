// SPDX-License-Identifier: Apache-2.0
// A child that is told its own number before it becomes another program, which posix_spawn cannot.
#include "clinux.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "retry.h"

enum { FIRST = 3 };

static void clinux_decimal(char *text, pid_t number) {
  char digits[12];
  int count = 0;
  do digits[count++] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  while (count > 0) *text++ = digits[--count];
  *text = '\0';
}

// Between fork and exec: nothing that may take a lock. Returns errno.
static int clinux_become(
    char *const argv[], char *const envp[], char *pid, const int *fds, size_t count) {
  clinux_decimal(pid, getpid());
  for (size_t i = 0; i < count; i++) {
    // fds[i] >= place, since fds ascends: what stood there has been given its own place.
    int place = FIRST + (int)i;
    if (fds[i] == place ? fcntl(place, F_SETFD, 0) < 0 : dup2(fds[i], place) < 0) return errno;
  }
  execvpe(argv[0], argv, envp);
  return errno;
}

pid_t clinux_start(
    char *const argv[], char *const envp[], char *pid, const int *fds, size_t count) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return -errno;
  // Beyond the places of what is handed over.
  int report = RETRY(fcntl(ends[1], F_DUPFD_CLOEXEC, FIRST + (int)count));
  close(ends[1]);
  pid_t child = report < 0 ? report : RETRY(fork());
  if (child == 0) {
    int code = clinux_become(argv, envp, pid, fds, count);
    _exit(write(report, &code, sizeof code) == sizeof code ? 127 : 126);
  }
  if (report >= 0) close(report);
  int code = 0;
  // Nothing comes from a child that became the program, or that was killed before.
  if (child > 0 && RETRY(read(ends[0], &code, sizeof code)) == sizeof code) {
    RETRY(waitpid(child, NULL, 0));
    child = -code;
  }
  close(ends[0]);
  return child;
}
