// SPDX-License-Identifier: Apache-2.0
// A thread that lives as long as its process, and a word in shared memory in which the kernel marks
// its death, however that comes: the kernel's robust futexes, without the C library's.
#include "clinux.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

// The list is in the shared page, too: private memory may be taken before the threads end, where
// the kernel runs out of it.
struct life_page {
  struct clinux_life life;
  char pad[64 - sizeof(struct clinux_life)];
  struct robust_list_head head;
  struct robust_list node;
};

_Static_assert(sizeof(struct clinux_life) == 16, "life");

struct start {
  struct life_page *page;
  int result;
  sem_t done;
};

static void *live(void *context) {
  struct start *start = context;
  struct life_page *page = start->page;
  page->node.next = &page->head.list;
  page->head.list.next = &page->node;
  page->head.futex_offset = (char *)&page->life.word - (char *)&page->node;
  page->head.list_op_pending = NULL;
  int result = syscall(SYS_set_robust_list, &page->head, sizeof page->head) == 0 ? 0 : -errno;
  // Release: pairs with the loads of who sees it alive, and then reads the generation.
  if (result == 0) __atomic_store_n(&page->life.word, gettid(), __ATOMIC_RELEASE);
  start->result = result;
  sem_post(&start->done);
  while (result == 0) pause();
  return NULL;
}

int clinux_life_begin(void *page) {
  struct start start = {.page = page};
  sem_init(&start.done, 0, 0);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 64 << 10);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  int result = -pthread_create(&thread, &attributes, live, &start);
  pthread_attr_destroy(&attributes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (result == 0) {
    while (sem_wait(&start.done) != 0) {
    }
    result = start.result;
  }
  sem_destroy(&start.done);
  return result;
}

int clinux_life_lasts(const void *page) {
  const struct clinux_life *life = page;
  // Acquire: pairs with the store at its beginning.
  uint32_t word = __atomic_load_n(&life->word, __ATOMIC_ACQUIRE);
  return word != 0 && (word & FUTEX_OWNER_DIED) == 0;
}
