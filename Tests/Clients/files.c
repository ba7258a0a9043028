// SPDX-License-Identifier: Apache-2.0
// Own channels whose buffers get files: create_buf_file and remove_buf_file.
#include <limits.h>
#include <sys/resource.h>

#include "test.h"

static struct {
  char made[1000], removed[1000];
  relay_buf *first;
  int fails_at, fails_with, makes_global, count;
} files;

static int create(const char *name, relay_buf *buf, int *is_global) {
  if (files.fails_at && ++files.count == files.fails_at)
    return files.fails_with ? files.fails_with : -EROFS;
  strcat(strcat(files.made, name), " ");
  if (!files.first) files.first = buf;
  if (files.makes_global) *is_global = 1;
  return 0;
}

static void delete(const char *name, relay_buf *buf) {
  CHECK(buf);
  strcat(strcat(files.removed, name), " ");
}

static const relay_callbacks file_callbacks = {
    .size = sizeof file_callbacks, .create_buf_file = create, .remove_buf_file = delete};

static relay_chan *open_files(const char *name) {
  return relay_open(name, 64, 2, 0, &file_callbacks, NULL);
}

static void expect_one_file_each(relay_chan *chan) {
  char names[1000] = "", name[20];
  for (unsigned cpu = 0; cpu < relay_buffers(chan); cpu++) {
    if (!relay_buffer(chan, cpu)) continue;
    snprintf(name, sizeof name, "base%u ", cpu);
    strcat(names, name);
  }
  CHECK(!strcmp(files.made, names));
  EQUAL(relay_close(chan), 0);
  CHECK(!strcmp(files.removed, names));
  relay_detach(chan);
  CHECK(!strcmp(files.removed, names));
}

TEST(each_buffer_gets_a_file_and_loses_it) {
  relay_chan *chan = open_files("base");
  CHECK(chan && files.first == relay_buffer(chan, 0));
  expect_one_file_each(chan);
}

TEST(files_may_come_late) {
  relay_chan *chan = open_files(NULL);
  CHECK(chan && !*files.made);
  EQUAL(relay_write(chan, "early", 5), 0);
  EQUAL(relay_late_setup_files(chan, "base"), 0);
  EQUAL(relay_late_setup_files(chan, "base"), -EEXIST);
  expect_one_file_each(chan);
}

TEST(a_file_that_cannot_be_made_undoes_everything) {
  files.fails_at = 1;
  CHECK(!open_files("base"));
  EQUAL(errno, EROFS);
  CHECK(!*files.made && !*files.removed);
  relay_chan *chan = open_files(NULL);
  CHECK(chan);
  files.count = 0;
  EQUAL(relay_late_setup_files(chan, "base"), -EROFS);
  files.fails_at = 0;
  EQUAL(relay_late_setup_files(chan, "base"), 0);
  if (relay_buffers(chan) > 1) {
    files.fails_at = 2;
    files.count = 0;
    *files.made = 0;
    CHECK(!open_files("base"));
    CHECK(*files.made && !strcmp(files.made, files.removed));
  }
  relay_detach(chan);
}

TEST(a_failure_that_is_no_errno_is_one) {
  static const int nonsense[] = {1, INT_MAX, INT_MIN, -99999};
  for (size_t i = 0; i < sizeof nonsense / sizeof *nonsense; i++) {
    files.fails_at = 1;
    files.count = 0;
    files.fails_with = nonsense[i];
    CHECK(!open_files("base"));
    EQUAL(errno, EINVAL);
  }
}

TEST(a_file_that_comes_late_cannot_make_the_channel_global) {
  relay_chan *chan = open_files(NULL);
  files.makes_global = 1;
  EQUAL(relay_late_setup_files(chan, "base"), -EINVAL);
  CHECK(!strcmp(files.made, "base0 ") && !strcmp(files.removed, "base0 "));
  files.makes_global = 0;
  *files.made = *files.removed = 0;
  EQUAL(relay_late_setup_files(chan, "base"), 0);
  expect_one_file_each(chan);
}

TEST(a_file_can_make_the_channel_global) {
  files.makes_global = 1;
  relay_chan *chan = open_files("base");
  CHECK(chan);
  CHECK(!strcmp(files.made, "base0 "));
  EQUAL(relay_buffers(chan), 1);
  CHECK(relay_buffer(chan, 0) == files.first);
  EQUAL(relay_write(chan, "ab", 2), 0);
  CHECK(!strcmp(drain(files.first), "ab"));
  relay_detach(chan);
  CHECK(!strcmp(files.removed, "base0 "));
}

static int create_and_take_all_memory(const char *name, relay_buf *buf, int *is_global) {
  struct rlimit none = {.rlim_cur = 1, .rlim_max = RLIM_INFINITY};
  EQUAL(setrlimit(RLIMIT_AS, &none), 0);
  return create(name, buf, is_global);
}

TEST(a_global_buffer_that_cannot_be_had_undoes_everything) {
  static relay_callbacks callbacks;
  callbacks = file_callbacks;
  callbacks.create_buf_file = create_and_take_all_memory;
  files.makes_global = 1;
  CHECK(!relay_open("base", 1 << 20, 8, 0, &callbacks, NULL));
  EQUAL(errno, ENOMEM);
  CHECK(*files.made && !strcmp(files.made, files.removed));
}
