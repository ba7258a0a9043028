// SPDX-License-Identifier: Apache-2.0
// An application that uses librelay beside its own work, and the same one without: compiled with
// WITHOUT_RELAY, each call is nothing. What it does itself must be the same in both.
#ifndef APPLICATION_H
#define APPLICATION_H

#include <relay.h>

#ifdef WITHOUT_RELAY
#define relay_attach(socket, channel) ((relay_chan *)NULL)
#define relay_open(name, size, count, flags, callbacks, data) ((relay_chan *)NULL)
#define relay_map(socket, channel, cpu, flags) ((relay_mapping *)NULL)
#define relay_buffer(chan, cpu) ((relay_buf *)NULL)
#define relay_write(chan, data, length) (void)((void)(chan), (void)(data), length)
#define relay_read(buf, data, size) (void)((void)(buf), (void)(data))
#define relay_poll(buf) (void)(buf)
#define relay_poll_fd(buf) (void)(buf)
#define relay_map_fd(map) (void)(map)
#define relay_map_next(map, subbuf, size) (void)((void)(map), subbuf)
#define relay_unmap(map) (void)(map)
#define relay_statistics(buf, stat, size) (void)stat
#define relay_detach(chan) (void)(chan)
#endif

struct scenario {
  const char *name;
  void (*run)(int argc, char **argv);
  struct scenario *next;
};
extern struct scenario *scenarios;

#define SCENARIO(name)                                                     \
  static void scenario_##name(int argc, char **argv);                      \
  __attribute__((constructor)) static void register_##name(void) {         \
    static struct scenario scenario = {#name, scenario_##name, NULL};      \
    scenario.next = scenarios;                                             \
    scenarios = &scenario;                                                 \
  }                                                                        \
  static void scenario_##name(int argc, char **argv)

// A line that comes into the file "said" at the end: no descriptor is needed until then.
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
// A result with errno, if that says why.
void say_result(const char *what, long long result);
// Writes the file, which a forked child gives another name.
void write_said(const char *name);
// Ends the scenario where the application itself cannot do what it has to.
#define MUST(condition) \
  if (!(condition)) fail(#condition)
void fail(const char *what);
// Has whoever runs this do something with relayd: it goes on at SIGCONT.
void rest(void);
// The channel relay, if it can be had.
extern relay_chan *chan;
void attach(void);
// A line for the channel, and one for the application's own file "log", which it opens.
void record(const char *text);
// As many records as come into more than one sub-buffer.
void record_many(void);
// Opens one more file of the application's, and says its number.
int open_file(const char *name);

#endif
