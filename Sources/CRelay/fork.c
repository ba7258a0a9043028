// SPDX-License-Identifier: Apache-2.0
// Descriptors that a forked child must not keep. Held open there, the parent's connection would
// make its attachment outlive it.
#include "crelay_fork.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

struct entry {
  struct entry *next, **link;
  int descriptors[CRELAY_FORK_DESCRIPTORS];
};

static struct entry *entries;
// Held across fork, so that the child finds the list whole.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before(void) { pthread_mutex_lock(&lock); }

static void in_parent(void) { pthread_mutex_unlock(&lock); }

static void in_child(void) {
  for (struct entry *entry = entries; entry; entry = entry->next)
    for (int i = 0; i < CRELAY_FORK_DESCRIPTORS; i++) close(entry->descriptors[i]);
  // The entries stay allocated: free is not for here.
  entries = NULL;
  pthread_mutex_unlock(&lock);
}

static void watch(void) { pthread_atfork(before, in_parent, in_child); }

void *crelay_fork_close(const int descriptors[CRELAY_FORK_DESCRIPTORS]) {
  pthread_once(&once, watch);
  struct entry *entry = malloc(sizeof *entry);
  if (!entry) return NULL;
  for (int i = 0; i < CRELAY_FORK_DESCRIPTORS; i++) entry->descriptors[i] = descriptors[i];
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
