// SPDX-License-Identifier: Apache-2.0
// An application that closes descriptors it did not open, and gives their numbers to files of its
// own.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "application.h"

static const char fifty[] = "fifty bytes that a daemon writes to its stderr....";

static void write_to_standard(void) {
  char byte;
  for (int fd = 0; fd < 3; fd++) {
    say("number %d", fd);
    say_result("write", write(fd, fifty, 50));
    say_result("pwrite", pwrite(fd, fifty, 50, 0));
  }
  say_result("read", pread(0, &byte, 1, 0));
}

// closed MASK: starts without the standard descriptors of the mask, as daemons do.
SCENARIO(closed) {
  MUST(argc == 1);
  int mask = atoi(argv[0]);
  for (int fd = 0; fd < 3; fd++)
    if (mask & 1 << fd) close(fd);
  attach();
  write_to_standard();
  char name[] = "own0";
  for (; name[3] < '4'; name[3]++) open_file(name);
  write_to_standard();
  record("one\n");
  record_many();
  write_to_standard();
  relay_detach(chan);
  write_to_standard();
}

// The numbers that an application gives to its own files: all that one may find in it, but for some
// that it leaves free.
enum { FIRST = 3, END = 1024, FREE = 200, FREE_END = 300, KINDS = 7 };
static const char *const kinds[KINDS] = {"file",    "datagrams", "packets", "eventfd",
                                         "epoll",   "memory",    "pipe"};
static const char *const hello = "what the application's other end sent";

struct own {
  struct stat identity;
  int peer;
};
static struct own owns[END];

static int make(int number, int *peer) {
  int ends[2];
  char name[32];
  *peer = -1;
  switch (number % KINDS) {
    case 0:
      snprintf(name, sizeof name, "file%d", number);
      return open(name, O_RDWR | O_CREAT | O_APPEND, 0644);
    case 1:
    case 2:
      MUST(socketpair(AF_UNIX, number % KINDS == 1 ? SOCK_DGRAM : SOCK_SEQPACKET, 0, ends) == 0);
      MUST(send(ends[1], hello, strlen(hello), 0) > 0);
      *peer = ends[1];
      return ends[0];
    case 3:
      return eventfd(7, EFD_NONBLOCK);
    case 4:
      return epoll_create1(0);
    case 5:
      MUST((ends[0] = memfd_create("own", 0)) >= 0);
      MUST(write(ends[0], hello, strlen(hello)) > 0);
      return ends[0];
    default:
      MUST(pipe2(ends, O_NONBLOCK) == 0);
      MUST(write(ends[1], hello, strlen(hello)) > 0);
      *peer = ends[1];
      return ends[0];
  }
}

static void take_numbers(void) {
  for (int number = FIRST; number < END; number++) {
    if (number >= FREE && number < FREE_END) continue;
    // Made in the free range, where the other ends stay: a handful.
    int made = make(number, &owns[number].peer);
    MUST(made >= 0);
    if (made != number) {
      MUST(dup2(made, number) == number);
      close(made);
    }
    if (owns[number].peer >= 0) {
      // Out of the way of the loop.
      int moved = fcntl(owns[number].peer, F_DUPFD, END);
      MUST(moved >= 0);
      close(owns[number].peer);
      owns[number].peer = moved;
    }
    MUST(fstat(number, &owns[number].identity) == 0);
  }
}

static void look_at(int number, int has_content) {
  struct stat now;
  struct own *own = &owns[number];
  char bytes[256];
  ssize_t count = 0;
  eventfd_t value = 0;
  struct epoll_event event = {.events = EPOLLIN};
  const char *kind = kinds[number % KINDS];
  if (fstat(number, &now) != 0 || now.st_dev != own->identity.st_dev ||
      now.st_ino != own->identity.st_ino || (fcntl(number, F_GETFD) & FD_CLOEXEC)) {
    say("number %d is not the application's %s any more", number, kind);
    return;
  }
  if (!has_content) return;
  switch (number % KINDS) {
    case 0:
      MUST(write(number, hello, strlen(hello)) == (ssize_t)strlen(hello));
      return;
    case 1:
    case 2:
      count = recv(number, bytes, sizeof bytes, MSG_DONTWAIT);
      if (recv(own->peer, bytes, 1, MSG_DONTWAIT) != -1 || errno != EAGAIN)
        say("a byte came out of %s %d", kind, number);
      break;
    case 3:
      if (eventfd_read(number, &value) != 0 || value != 7)
        say("%s %d: %d", kind, number, (int)value);
      return;
    case 4:
      if (epoll_wait(number, &event, 1, 0) != 0 || epoll_ctl(number, EPOLL_CTL_ADD, 1, &event) ||
          epoll_ctl(number, EPOLL_CTL_DEL, 1, &event))
        say("%s %d is another one", kind, number);
      return;
    case 5:
      count = pread(number, bytes, sizeof bytes, 0);
      break;
    default:
      count = read(number, bytes, sizeof bytes);
  }
  if (count != (ssize_t)strlen(hello) || memcmp(bytes, hello, strlen(hello)) != 0)
    say("%s %d holds %zd bytes that are not the application's", kind, number, count);
}

static void look_at_all(int has_content) {
  for (int number = FIRST; number < END; number++)
    if (number < FREE || number >= FREE_END) look_at(number, has_content);
  say("all looked at");
}

// Two descriptors each: one attachment for each kind of file that may come in their place.
static relay_chan *chans[KINDS], *own_chan;
static relay_buf *own_buffer;
static relay_mapping *mapping;

static void use_all(const char *text) {
  char bytes[256];
  struct relay_subbuf subbuf;
  struct relay_stat stat;
  for (int i = 0; i < KINDS; i++) relay_write(chans[i], text, strlen(text));
  relay_statistics(relay_buffer(chans[0], 0), &stat, sizeof stat);
  relay_write(own_chan, text, strlen(text));
  relay_poll(own_buffer);
  relay_read(own_buffer, bytes, sizeof bytes);
  relay_write(own_chan, text, strlen(text));
  relay_map_next(mapping, &subbuf, sizeof subbuf);
  (void)bytes, (void)subbuf, (void)stat;
}

static void leave_all(void) {
  for (int i = 0; i < KINDS; i++) relay_detach(chans[i]);
  relay_detach(own_chan);
  relay_unmap(mapping);
}

static void write_in_child(int leaves) {
  pid_t child = fork();
  MUST(child >= 0);
  if (child == 0) {
    use_all("child\n");
    if (leaves) leave_all();
    look_at_all(1);
    write_said("said.child");
    _exit(0);
  }
  int status;
  MUST(waitpid(child, &status, 0) == child && status == 0);
}

// reuse END: after closefrom(3) all numbers are the application's. END is what it does then:
// detach, fork, child (which detaches), exit.
SCENARIO(reuse) {
  MUST(argc == 1);
  const char *end = argv[0];
  int is_fork = !strcmp(end, "fork"), is_child = !strcmp(end, "child");
  // The other ends of its sockets and pipes are beyond the numbers that are looked at.
  struct rlimit many = {4096, 4096};
  MUST(setrlimit(RLIMIT_NOFILE, &many) == 0);
  for (int i = 0; i < KINDS; i++) chans[i] = relay_attach(NULL, "relay");
  own_chan = relay_open("own", 4096, 4, RELAY_GLOBAL, NULL, NULL);
  own_buffer = relay_buffer(own_chan, 0);
  relay_poll_fd(own_buffer);
  mapping = relay_map(NULL, "mapped", 0, RELAY_MAP_UNFINISHED);
  relay_map_fd(mapping);
  use_all("before\n");
  closefrom(FIRST);
  take_numbers();
  use_all("reused\n");
  // A reader of the channel may come, and relayd may go and another one come, meanwhile.
  rest();
  use_all("rested\n");
  rest();
  use_all("again\n");
  if (is_fork || is_child) write_in_child(is_child);
  if (!strcmp(end, "detach")) leave_all();
  // What the child read was the parent's, too.
  look_at_all(!is_fork && !is_child);
}
