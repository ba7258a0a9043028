// SPDX-License-Identifier: Apache-2.0
// What a producer keeps, and what becomes of its records while relayd is gone, stopped, or refuses
// it. Where a test rests, its runner does something with relayd and has it go on.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test.h"

static relay_chan *attach(const char *socket) {
  // However it goes wrong, it ends, and its children, too.
  alarm(50);
  relay_chan *chan = relay_attach(socket, "relay");
  if (!chan) perror("relay");
  CHECK(chan);
  return chan;
}

static void rest(void) { CHECK(raise(SIGSTOP) == 0); }

static int milliseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int)(now.tv_sec * 1000 + now.tv_nsec / 1000000);
}

TEST(two_descriptors_are_kept_out_of_the_way) {
  char was[1024];
  for (int fd = 0; fd < 1024; fd++) was[fd] = fcntl(fd, F_GETFD) >= 0;
  relay_chan *chan = attach(NULL);
  int count = 0;
  for (int fd = 0; fd < 1024; fd++) {
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || was[fd]) continue;
    count++;
    CHECK(fd >= 960);
    EQUAL(flags, FD_CLOEXEC);
  }
  EQUAL(count, 2);
  relay_detach(chan);
  for (int fd = 0; fd < 1024; fd++) EQUAL(fcntl(fd, F_GETFD) >= 0, was[fd]);
}

// Asks as librelay does, in the protocol's version; returns the reply's type and descriptors.
static int ask(char version, int fds[4]) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int socket_fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", getenv("RELAY_SOCKET"));
  EQUAL(connect(socket_fd, (struct sockaddr *)&address, sizeof address), 0);
  char request[] = {version, 1, 0, 0, 7, 0, 0, 0, 5, 0, 'r', 'e', 'l', 'a', 'y'};
  EQUAL(send(socket_fd, request, sizeof request, 0), sizeof request);
  unsigned char reply[1000];
  char control[CMSG_SPACE(4 * sizeof(int))];
  struct iovec piece = {reply, sizeof reply};
  struct msghdr message = {
      .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t count = recvmsg(socket_fd, &message, 0);
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  if (header) memcpy(fds, CMSG_DATA(header), 4 * sizeof(int));
  close(socket_fd);
  return count > 1 ? reply[1] : 0;
}

TEST(the_ring_cannot_be_written_to_by_accident) {
  int fds[4] = {-1, -1, -1, -1};
  char version = 1;
  while (ask(version, fds) != 128) CHECK(++version < 100);
  for (int i = 0; i < 4; i++) {
    char name[64], link[64] = "";
    snprintf(name, sizeof name, "/proc/self/fd/%d", fds[i]);
    CHECK(readlink(name, link, sizeof link - 1) > 0);
    if (strncmp(link, "/memfd:", 7) != 0) continue;
    errno = 0;
    CHECK(write(fds[i], "scribble", 8) == -1 && (errno == EPERM || errno == EBADF));
    errno = 0;
    CHECK(pwrite(fds[i], "scribble", 8, 0) == -1 && (errno == EPERM || errno == EBADF));
    CHECK(ftruncate(fds[i], 0) == -1);
    if (strstr(link, "relay:relay")) {
      char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], 0);
      CHECK(page != MAP_FAILED);
      // As it was: the ring is in use.
      *(volatile char *)page = *(volatile char *)page;
      puts("the ring is mapped");
    }
  }
}

// Prints how many of this process's mappings are shared with relayd; none of them is dumped.
static void check_dumps(void) {
  FILE *maps = fopen("/proc/self/smaps", "r");
  char line[1000];
  int is_shared = 0, count = 0;
  CHECK(maps);
  while (fgets(line, sizeof line, maps)) {
    if (strchr(line, '-') && strchr(line, '/')) is_shared = strstr(line, "memfd:") != NULL;
    if (strncmp(line, "VmFlags:", 8) != 0 || !is_shared) continue;
    CHECK(strstr(line, " dd"));
    count++;
    is_shared = 0;
  }
  fclose(maps);
  CHECK(count >= 3);
}

TEST(shared_memory_stays_out_of_cores) {
  relay_chan *chan = attach(NULL);
  EQUAL(relay_write(chan, "x", 1), 0);
  check_dumps();
  relay_mapping *map = relay_map(NULL, "relay", 0, 0);
  CHECK(map);
  check_dumps();
  relay_unmap(map);
  rest();
  CHECK(relay_reset(chan) == 0);
  check_dumps();
  pid_t child = fork();
  if (child == 0) {
    EQUAL(relay_write(chan, "x", 1), 0);
    check_dumps();
    _exit(0);
  }
  int status;
  EQUAL(waitpid(child, &status, 0), child);
  EQUAL(status, 0);
}

// Writes once, and returns how long that took.
static int timed_write(relay_chan *chan, int *result) {
  int start = milliseconds();
  *result = relay_write(chan, "x", 1);
  return milliseconds() - start;
}

static relay_chan *shared;
static pthread_barrier_t both;

static void *write_beside(void *unused) {
  (void)unused;
  int result;
  pthread_barrier_wait(&both);
  int took = timed_write(shared, &result);
  CHECK(result < 0);
  return (void *)(long)took;
}

// Both threads at once: one waits some tenths of a second, the other one gets an answer.
static void write_from_two_threads(relay_chan *chan, int *refused) {
  pthread_t thread;
  void *other;
  shared = chan;
  pthread_barrier_init(&both, NULL, 2);
  pthread_create(&thread, NULL, write_beside, NULL);
  pthread_barrier_wait(&both);
  int result, took = timed_write(chan, &result);
  CHECK(result < 0);
  pthread_join(thread, &other);
  int took_other = (int)(long)other;
  int longer = took > took_other ? took : took_other, shorter = took + took_other - longer;
  if (longer >= 700 || shorter >= 100) fprintf(stderr, "%d ms, %d ms\n", longer, shorter);
  CHECK(longer < 700 && shorter < 100);
  *refused += 2;
}

// For a second: most writes fail at once.
static void write_on(relay_chan *chan, int *refused) {
  int result, waits = 0, end = milliseconds() + 1000;
  while (milliseconds() < end) {
    int took = timed_write(chan, &result);
    CHECK(result < 0);
    CHECK(took < 700);
    waits += took >= 50;
    ++*refused;
    poll(NULL, 0, 1);
  }
  if (waits > 4) fprintf(stderr, "%d writes waited\n", waits);
  CHECK(waits <= 4);
}

static void write_until_taken(relay_chan *chan, int *refused) {
  int end = milliseconds() + 20000;
  while (relay_write(chan, "taken\n", 6) != 0) {
    ++*refused;
    CHECK(milliseconds() < end);
    poll(NULL, 0, 2);
  }
}

// Rests: relayd is stopped; it goes on.
TEST(a_childs_first_write_waits_some_tenths_of_a_second) {
  relay_chan *chan = attach(NULL);
  int done[2], go_on[2], refused = 0, status;
  char byte;
  EQUAL(relay_write(chan, "parent\n", 7), 0);
  CHECK(pipe(done) == 0 && pipe(go_on) == 0);
  rest();
  pid_t child = fork();
  if (child == 0) {
    alarm(50);
    write_from_two_threads(chan, &refused);
    write_on(chan, &refused);
    CHECK(write(done[1], "x", 1) == 1);
    CHECK(read(go_on[0], &byte, 1) == 1);
    write_until_taken(chan, &refused);
    EQUAL(account(relay_buffer(chan, 0)).lost_restart, refused);
    exit(0);
  }
  close(done[1]);
  if (read(done[0], &byte, 1) == 1) {
    rest();
    CHECK(write(go_on[1], "x", 1) == 1);
  }
  EQUAL(waitpid(child, &status, 0), child);
  EQUAL(status, 0);
  EQUAL(relay_write(chan, "parent\n", 7), 0);
  relay_detach(chan);
}

// Rests: the next relayd is there; it is stopped; it goes on.
TEST(memory_that_others_left_is_left_within_some_tenths_of_a_second) {
  relay_chan *chan = attach(NULL), *other = attach(NULL);
  int refused = 0;
  EQUAL(relay_write(chan, "one\n", 4), 0);
  rest();
  // Of the two one leads: the memory is closed then.
  write_until_taken(other, &refused);
  write_until_taken(other, &refused);
  EQUAL(refused, 0);
  rest();
  write_from_two_threads(chan, &refused);
  write_on(chan, &refused);
  rest();
  write_until_taken(chan, &refused);
  printf("%d\n", refused);
}

// Writes until it is refused; prints the milliseconds that took.
static int write_until_refused(relay_chan *chan, int seconds) {
  int start = milliseconds(), result, written = 0;
  while ((result = relay_write(chan, "lost\n", 5)) == 0) {
    written++;
    CHECK(milliseconds() < start + 1000 * seconds);
    poll(NULL, 0, 5);
  }
  EQUAL(result, -ENOTCONN);
  printf("%d ", milliseconds() - start);
  return written;
}

// Rests: the next relayd does not take this process; the one after it does. Prints the milliseconds
// until writes were refused, how many were written by then, and how many were refused in all.
static void be_refused(relay_chan *chan, int has_no_descriptors) {
  struct rlimit none = {0, 0}, limit;
  EQUAL(relay_write(chan, "before\n", 7), 0);
  EQUAL(getrlimit(RLIMIT_NOFILE, &limit), 0);
  none.rlim_max = limit.rlim_max;
  rest();
  if (has_no_descriptors) EQUAL(setrlimit(RLIMIT_NOFILE, &none), 0);
  int written = 1 + write_until_refused(chan, 20), refused = 1;
  for (int i = 0; i < 100; i++, refused++) EQUAL(relay_write(chan, "x", 1), -ENOTCONN);
  if (!has_no_descriptors) EQUAL(account(relay_buffer(chan, 0)).lost_restart, refused);
  rest();
  if (has_no_descriptors) EQUAL(setrlimit(RLIMIT_NOFILE, &limit), 0);
  write_until_taken(chan, &refused);
  EQUAL(account(relay_buffer(chan, 0)).lost_restart, written + refused);
  printf("%d %d\n", written, refused);
  relay_detach(chan);
}

TEST(the_next_relayd_does_not_know_the_channel) { be_refused(attach(NULL), 0); }

TEST(the_next_relayd_has_too_many_producers) { be_refused(attach(NULL), 0); }

TEST(the_next_relayd_does_not_know_the_user) {
  relay_chan *chan = attach(NULL);
  CHECK(setgid(4003) == 0 && setuid(4003) == 0);
  be_refused(chan, 0);
}

TEST(no_descriptor_is_left_for_the_next_relayd) { be_refused(attach(NULL), 1); }

// A hundred records; the next relayd is there from the second one on.
static void follow(relay_chan *chan) {
  EQUAL(relay_write(chan, "before\n", 7), 0);
  rest();
  for (int i = 0; i < 99; i++) {
    EQUAL(relay_write(chan, "x\n", 2), 0);
    poll(NULL, 0, 3);
  }
  relay_detach(chan);
}

// RELAY_SOCKET is relative to the directory that this is started in.
TEST(a_relative_path_is_found_from_anywhere) {
  relay_chan *chan = attach(NULL);
  EQUAL(chdir("/"), 0);
  follow(chan);
}

TEST(a_relative_path_as_an_argument_is_found_from_anywhere) {
  const char *socket = getenv("RELAY_SOCKET");
  relay_chan *chan = attach(socket);
  CHECK(unsetenv("RELAY_SOCKET") == 0 && chdir("/") == 0);
  follow(chan);
}

// The directory has another name meanwhile: records go into the memory, and are counted when it has
// its name again. Rests: there is a next relayd, elsewhere; there.
TEST(a_renamed_directory_is_found_when_it_is_back) {
  relay_chan *chan = attach(NULL);
  EQUAL(relay_write(chan, "before\n", 7), 0);
  rest();
  for (int i = 0; i < 100; i++) EQUAL(relay_write(chan, "elsewhere\n", 10), 0);
  rest();
  int refused = 0;
  write_until_taken(chan, &refused);
  EQUAL(refused, 0);
  relay_detach(chan);
}

// Ten records a second, each with the milliseconds since the first one that it was written after.
TEST(a_slow_writer_finds_the_next_relayd) {
  relay_chan *chan = attach(NULL);
  char line[20];
  for (int i = 0; i < 5; i++) {
    EQUAL(relay_write(chan, "before\n", 7), 0);
    poll(NULL, 0, 100);
  }
  rest();
  int start = milliseconds();
  for (int i = 0; i < 20; i++) {
    int count = snprintf(line, sizeof line, "%d\n", milliseconds() - start);
    EQUAL(relay_write(chan, line, (size_t)count), 0);
    poll(NULL, 0, 100);
  }
  relay_detach(chan);
}
