// SPDX-License-Identifier: Apache-2.0
// The main program of an application that uses librelay, and what its scenarios share.
// usage: application SCENARIO [ARGUMENT]...    in a directory of its own
#include "application.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct scenario *scenarios;
relay_chan *chan;

static char said[64 << 10];
static size_t said_count;

void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  size_t room = sizeof said - said_count;
  int count = vsnprintf(said + said_count, room, format, arguments);
  va_end(arguments);
  MUST(count >= 0 && (size_t)count + 1 < room);
  said_count += (size_t)count;
  said[said_count++] = '\n';
}

void say_result(const char *what, long long result) {
  const char *why = result < 0 ? strerrorname_np(errno) : "";
  say("%s: %lld %s", what, result, why);
}

void write_said(const char *name) {
  int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0 || write(file, said, said_count) != (ssize_t)said_count) _exit(70);
  close(file);
}

void fail(const char *what) {
  dprintf(2, "%s: %s\n", what, strerror(errno));
  _exit(70);
}

void rest(void) { MUST(raise(SIGSTOP) == 0); }

void attach(void) { chan = relay_attach(NULL, "relay"); }

int open_file(const char *name) {
  int file = open(name, O_RDWR | O_CREAT | O_APPEND, 0644);
  say_result(name, file);
  return file;
}

void record(const char *text) {
  static int log = -1;
  if (log < 0) MUST((log = open_file("log")) >= 0);
  size_t length = strlen(text);
  relay_write(chan, text, length);
  MUST(write(log, text, length) == (ssize_t)length);
}

void record_many(void) {
  char line[64];
  for (int i = 0; i < 200; i++) {
    snprintf(line, sizeof line, "line %d of many, which fill sub-buffers\n", i);
    relay_write(chan, line, strlen(line));
  }
}

int main(int argc, char **argv) {
  // However it goes wrong, it ends.
  alarm(50);
  for (struct scenario *scenario = scenarios; argc > 1 && scenario; scenario = scenario->next) {
    if (strcmp(scenario->name, argv[1]) != 0) continue;
    scenario->run(argc - 2, argv + 2);
    write_said("said");
    return 3;
  }
  return 64;
}
