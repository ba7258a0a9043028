// SPDX-License-Identifier: Apache-2.0
// Descriptors that a forked child must not keep, and those that are for one. Held open there, the
// parent's connection would make its attachment outlive it.
#include "crelay_fork.h"

#include <clinux.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct entry {
  struct entry *next, **link;
  struct clinux_guarded *connection, *wake;
  // NULL: none.
  struct clinux_guarded *token;
  uint64_t *mark;
  // The token is for the next child; else it was for this process.
  bool is_offered;
};

static struct entry *entries;
// Held across fork, so that the child finds the list whole.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void insert(struct entry *entry) {
  entry->next = entries;
  entry->link = &entries;
  if (entries) entries->link = &entry->next;
  entries = entry;
}

static void before(void) { pthread_mutex_lock(&lock); }

static void close_token(struct entry *entry) {
  if (entry->token) clinux_guarded_close(entry->token);
  entry->token = NULL;
}

static void in_parent(void) {
  for (struct entry *entry = entries; entry; entry = entry->next) {
    if (entry->is_offered) close_token(entry);
    entry->is_offered = false;
  }
  pthread_mutex_unlock(&lock);
}

static void in_child(void) {
  struct entry *entry = entries;
  // Those that are left out stay allocated: free is not for here.
  entries = NULL;
  while (entry) {
    struct entry *next = entry->next;
    clinux_guarded_close(entry->connection);
    clinux_guarded_close(entry->wake);
    if (entry->is_offered && entry->token) {
      entry->is_offered = false;
      // A child that did not come this way finds 0, and shares the token with its parent.
      *entry->mark = 1;
      // Its own children must not have it.
      insert(entry);
    } else {
      close_token(entry);
    }
    entry = next;
  }
  pthread_mutex_unlock(&lock);
}

static void watch(void) { pthread_atfork(before, in_parent, in_child); }

void *crelay_fork_close(struct clinux_guarded *connection, struct clinux_guarded *wake) {
  pthread_once(&once, watch);
  struct entry *entry = calloc(1, sizeof *entry);
  if (!entry) return NULL;
  entry->connection = connection;
  entry->wake = wake;
  pthread_mutex_lock(&lock);
  insert(entry);
  pthread_mutex_unlock(&lock);
  return entry;
}

void crelay_fork_offer(void *offering, struct clinux_guarded *token, uint64_t *mark) {
  struct entry *entry = offering;
  pthread_mutex_lock(&lock);
  entry->token = token;
  entry->mark = mark;
  entry->is_offered = true;
  pthread_mutex_unlock(&lock);
}

void crelay_fork_forget(void *forgotten) {
  struct entry *entry = forgotten;
  pthread_mutex_lock(&lock);
  *entry->link = entry->next;
  if (entry->next) entry->next->link = entry->link;
  pthread_mutex_unlock(&lock);
  free(entry);
}
