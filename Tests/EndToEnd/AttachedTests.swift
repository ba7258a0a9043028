// SPDX-License-Identifier: Apache-2.0
// Daemon channels through librelay, in C: every call, fork, death, limits. The tests themselves are
// Tests/Clients/attached.c.

import Glibc
import Testing

extension OneAtATime {
  @Suite struct AttachedTests {
    static let channels = [
      "relay:global,subbuf_size=4KiB", "small:global,subbuf_size=8,n_subbufs=2",
    ]

    /// Runs one of the tests, and returns what can be read from `buffer` then.
    func check(
      _ test: String, _ daemon: Daemon, reading buffer: String = "relay0", as user: [String] = []
    ) throws -> String {
      let library = try Library.get()
      let program = try library.program("attached", Library.c, "test.c", "attached.c")
      let finished = try library.start([program, test], daemon, prefix: user)
      #expect(finished.status == 0, "\(test): \(finished.error)")
      return try run("cat", daemon.device(buffer)).output
    }

    @Test(arguments: [
      ("every_way_of_writing", "relay0", "one t2 three four five six\n"),
      ("what_cannot_be_attached", "relay0", ""),
      ("reading_is_for_own_channels", "relay0", ""),
      ("the_whole_channel_and_its_buffer", "small0", "f\n"),
      ("a_created_channel_lives_until_it_is_closed", "relay0", ""),
      (
        "a_forked_child_attaches_in_its_own_name", "relay0",
        "parent\nchild\nagain\nchild\nagain\nend\n"
      ),
      ("a_child_that_no_handler_saw_attaches_too", "relay0", "child\nagain\nparent\n"),
      ("a_child_may_detach_what_it_never_used", "relay0", "parent\n"),
      ("a_request_after_closefrom_has_a_new_connection", "relay0", ""),
      ("a_child_that_dies_inside_a_record_costs_that_record", "relay0", "before\nafter\n"),
      ("attaching_a_thousand_times_leaves_nothing_behind", "relay0", "x"),
      ("writing_allocates_nothing", "relay0", ""),
      ("too_few_descriptors_are_said", "relay0", ""),
    ])
    func daemonChannel(_ test: String, _ buffer: String, _ output: String) throws {
      let daemon = try Daemon(AttachedTests.channels[0], AttachedTests.channels[1])
      let before = try daemon.descriptorCount()
      #expect(try check(test, daemon, reading: buffer) == output)
      #expect(try daemon.statistic("aborted") == (test.contains("dies") ? 1 : 0))
      let death = "died while it wrote to channel relay: 1 unfinished record discarded\n"
      #expect(daemon.logText.contains(death) == test.contains("dies"))
      try eventually("the daemon has let go of its clients") {
        try daemon.descriptorCount() == before
      }
    }

    @Test func oneProducerTooMany() throws {
      let daemon = try Daemon("relay:global,max_producers=1")
      #expect(try check("one_producer_too_many", daemon) == "parent\n")
    }

    @Test func recordsRefusedInChildrenAreCountedOnce() throws {
      let daemon = try Daemon("relay:global,max_producers=1")
      #expect(try check("records_refused_in_children_are_counted_once", daemon) == "parent\n")
    }

    /// Its number is not known there, its handle is; before Linux 6.9 that has no identity.
    @Test(.onceIsEnough) func aProcessOutsideTheDaemonsPIDNamespaceIsOneProducer() throws {
      let daemon = try Daemon(
        "relay:global,max_producers=1", prefix: ["unshare", "--pid", "--fork", "--kill-child"])
      defer { daemon.end(SIGKILL) }
      #expect(try check("attaching_a_thousand_times_leaves_nothing_behind", daemon) == "x")
    }

    /// An exec ends what other threads were writing; that is known when the process ends.
    @Test func anExecCostsWhatWasBeingWritten() throws {
      let daemon = try Daemon("relay:global,stall_timeout=never")
      let library = try Library.get()
      let program = try library.program("attached", Library.c, "test.c", "attached.c")
      let finished = try library.start(
        [program, "a_program_that_is_replaced_attaches_anew"], daemon)
      #expect(finished.status == 0, "\(finished.error)")
      try eventually("its end is seen") { try daemon.statistic("aborted") == 1 }
      #expect(try run("cat", daemon.device("relay0")).output == "before\nafter\n")
    }

    /// It goes on, or dies, when its record was passed.
    @Test(arguments: [SIGCONT, SIGKILL])
    func whatIsBehindAStoppedWriterIsDelivered(_ signal: CInt) throws {
      let daemon = try Daemon("relay:global,read=block,stall_timeout=100ms")
      let before = try daemon.descriptorCount()
      let library = try Library.get()
      let program = try library.program("attached", Library.c, "test.c", "attached.c")
      let finished = try library.start([program, "a_stopped_writer_is_left_behind"], daemon)
      #expect(finished.status == 0, "\(finished.error)")
      let stopped = try #require(Int32(finished.output.dropLast()))
      let read = ["timeout", "20", "head", "-c"]
      #expect(try run(read + ["7", daemon.device("relay0")]).output == "behind\n")
      #expect(try daemon.statistic("lost_stalled") == 1)
      kill(stopped, signal)
      try eventually("its end is seen") { try daemon.descriptorCount() == before }
      let died = signal == SIGKILL ? 1 : 0
      #expect(try daemon.statistic("aborted") == died)
      #expect(try daemon.statistic("lost_stalled") == 1 - died)
      #expect(try daemon.statistic("records_written") == 2 - died)
      try daemon.write("next\n")
      #expect(try run(read + ["5", daemon.device("relay0")]).output == "next\n")
    }

    /// Each keeps a connection, and is one of the producers that a user may have.
    @Test(.onceIsEnough) func aUserHasAsManyAsIsSaid() throws {
      let daemon = try Daemon("relay:global,writers=4003")
      chmod(daemon.scratch.path, 0o755)
      let user = ["setpriv", "--reuid=4003", "--regid=4003", "--clear-groups"]
      #expect(try check("two_hundred_at_once", daemon, as: user) == "x")
    }

    @Test(.onceIsEnough) func whoMayNot() throws {
      let daemon = try Daemon("relay:global")
      chmod(daemon.scratch.path, 0o755)
      let nobody = ["setpriv", "--reuid=4003", "--regid=4003", "--clear-groups"]
      #expect(try check("what_is_not_permitted", daemon, as: nobody) == "")
    }

    @Test func aDaemonThatDies() throws {
      let daemon = try Daemon(AttachedTests.channels[0], AttachedTests.channels[1])
      _ = try check("nobody_waits_for_a_daemon_that_is_gone", daemon)
    }

    @Test func everyTestIsRun() throws {
      #expect(try Library.tests("attached.c").count == 21)
    }
  }
}
