// SPDX-License-Identifier: Apache-2.0
// Descriptors that a forked child must not keep. Held open there, the parent's connection would
// make its attachment outlive it.
#include "crelay_fork.h"

#include <clinux.h>
#include <pthread.h>
#include <stdlib.h>

struct entry {
  struct entry *next, **link;
  struct clinux_guarded *connection, *wake;
};

static struct entry *entries;
// Held across fork, so that the child finds the list whole.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before(void) { pthread_mutex_lock(&lock); }

static void in_parent(void) { pthread_mutex_unlock(&lock); }

static void in_child(void) {
  for (struct entry *entry = entries; entry; entry = entry->next) {
    clinux_guarded_close(entry->connection);
    clinux_guarded_close(entry->wake);
  }
  // The entries stay allocated: free is not for here.
  entries = NULL;
  pthread_mutex_unlock(&lock);
}

static void watch(void) { pthread_atfork(before, in_parent, in_child); }

void *crelay_fork_close(struct clinux_guarded *connection, struct clinux_guarded *wake) {
  pthread_once(&once, watch);
  struct entry *entry = malloc(sizeof *entry);
  if (!entry) return NULL;
  entry->connection = connection;
  entry->wake = wake;
  pthread_mutex_lock(&lock);
  entry->next = entries;
  entry->link = &entries;
  if (entries) entries->link = &entry->next;
  entries = entry;
  pthread_mutex_unlock(&lock);
  return entry;
}

void crelay_fork_forget(void *forgotten) {
  struct entry *entry = forgotten;
  pthread_mutex_lock(&lock);
  *entry->link = entry->next;
  if (entry->next) entry->next->link = entry->link;
  pthread_mutex_unlock(&lock);
  free(entry);
}
