// SPDX-License-Identifier: Apache-2.0
// usage: asynchronous aio|uring|uring-poll FILE
// One read by that interface, or by read(2) after a poll by it; prints the read's result,
// or "none" where this kernel has no io_uring, or forbids it, as containers' filters do.
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static char bytes[4096];

static long read_by_aio(int fd) {
  aio_context_t context = 0;
  struct iocb block = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd};
  block.aio_buf = (uint64_t)(uintptr_t)bytes;
  block.aio_nbytes = sizeof bytes;
  struct iocb *blocks[] = {&block};
  struct io_event event;
  if (syscall(SYS_io_setup, 1, &context) < 0) return -1000;
  if (syscall(SYS_io_submit, context, 1, blocks) != 1) return -1001;
  if (syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1) return -1002;
  return event.res;
}

// What lies at an offset that the kernel says.
#define AT(ring, offset) ((uint32_t *)(ring + (offset)))

static char *map(int ring, size_t size, off_t which) {
  return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, which);
}

// The result of one operation, of which the caller says all but where it goes.
static long by_uring(struct io_uring_sqe operation) {
  struct io_uring_params params = {0};
  int ring = (int)syscall(SYS_io_uring_setup, 1, &params);
  if (ring < 0 && (errno == EPERM || errno == ENOSYS)) {
    puts("none");
    exit(0);
  }
  if (ring < 0) return -1000;
  size_t size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
  size_t completed = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
  char *submissions = map(ring, size, IORING_OFF_SQ_RING);
  char *completions = map(ring, completed, IORING_OFF_CQ_RING);
  struct io_uring_sqe *entry =
      (void *)map(ring, params.sq_entries * sizeof *entry, IORING_OFF_SQES);
  if (submissions == MAP_FAILED || completions == MAP_FAILED || (void *)entry == MAP_FAILED)
    return -1001;
  *entry = operation;
  *AT(submissions, params.sq_off.array) = 0;
  __atomic_store_n(AT(submissions, params.sq_off.tail), 1, __ATOMIC_RELEASE);
  if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1) return -1002;
  struct io_uring_cqe *result = (void *)(completions + params.cq_off.cqes);
  return result->res;
}

static long read_by_uring(int fd) {
  struct io_uring_sqe read = {.opcode = IORING_OP_READ, .fd = fd, .len = sizeof bytes};
  read.addr = (uint64_t)(uintptr_t)bytes;
  read.off = (uint64_t)-1; // as read(2) has it
  return by_uring(read);
}

static long read_after_poll(int fd) {
  struct io_uring_sqe poll = {.opcode = IORING_OP_POLL_ADD, .fd = fd, .poll32_events = POLLIN};
  long events = by_uring(poll);
  return events < 0 ? events : (long)read(fd, bytes, sizeof bytes);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int fd = open(argv[2], O_RDONLY);
  if (fd < 0) {
    perror(argv[2]);
    return 1;
  }
  long result = !strcmp(argv[1], "aio")     ? read_by_aio(fd)
                : !strcmp(argv[1], "uring") ? read_by_uring(fd)
                                            : read_after_poll(fd);
  printf("%ld\n", result);
  return 0;
}
