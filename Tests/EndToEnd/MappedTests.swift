// SPDX-License-Identifier: Apache-2.0
// Mapped consumers, in C (Tests/Clients/mapped*.c): what they get, and what one that dies, stalls
// or gets in the way of others does to them.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct MappedTests {
    static func program() throws -> String {
      try Library.get().program(
        "mapped", Library.c, "test.c", "mapped.c", "mapped_late.c")
    }

    func check(_ test: String, _ daemon: Daemon, as user: [String] = []) throws {
      let finished = try Library.get().start([MappedTests.program(), test], daemon, prefix: user)
      #expect(finished.status == 0, "\(test): \(finished.error)")
    }

    @Test(arguments: [
      "sub_buffers_come_as_writers_leave_them", "a_new_buffer_is_zeroed",
      "unfinished_ones_come_too_where_that_is_asked_for", "who_only_polls_is_told",
      "the_end_is_told",
      "more_than_was_handed_out_cannot_be_consumed", "what_is_handed_out_cannot_be_written",
      "what_cannot_be_mapped", "a_reset_gives_back_what_is_in_hand",
      "mappings_leave_no_descriptors_behind",
      "a_mapping_whose_descriptors_are_closed_has_no_daemon",
    ])
    func consumer(_ test: String) throws {
      let daemon = try Daemon("relay:global,subbuf_size=4KiB")
      let before = try daemon.descriptorCount()
      try check(test, daemon)
      try eventually("the daemon has let go of its clients") {
        try daemon.descriptorCount() <= before + 1
      }
      #expect(try run("head", "-c", "1", daemon.device("relay0")).status == 0, "it is free")
    }

    @Test func allOf100MBFromTwoProducersComes() throws {
      let daemon = try Daemon("relay:global,subbuf_size=256KiB")
      try check("all_of_100_mb_comes", daemon)
      #expect(try daemon.statistic("records_read") == 100_000)
      #expect(try daemon.statistic("lost_full") == 0)
    }

    @Test func nothingThatIsOverwrittenMeanwhileIsTorn() throws {
      let daemon = try Daemon("relay:global,mode=overwrite,subbuf_size=64KiB,n_subbufs=4")
      try check("nothing_that_is_overwritten_meanwhile_is_torn", daemon)
      let read = try daemon.statistic("records_read")
      let lost = try ["lost_overwritten", "lost_full"].map { try daemon.statistic($0) }
      let stat = try daemon.relayctl("stat").output
      #expect(lost[0] + lost[1] + read == 100_000, "\(stat)")
      #expect(lost[0] > 0)
    }

    @Test(.onceIsEnough) func whoMayReadTheFileMayMapIt() throws {
      let daemon = try Daemon("relay:global,owner=4003,group=4004,permissions=0440")
      chmod(daemon.scratch.path, 0o755)
      func user(_ uid: Int, _ gid: Int) -> [String] {
        ["setpriv", "--reuid=\(uid)", "--regid=\(gid)", "--clear-groups"]
      }
      try check("who_may_read_may_map", daemon, as: user(4003, 4003))
      try check("who_may_read_may_map", daemon, as: user(4005, 4004))
      try check("who_may_not_read_may_not_map", daemon, as: user(4005, 4005))
    }

    @Test func aFileAndAConsumerExcludeEachOther() throws {
      let daemon = try Daemon("relay:global")
      let consumer = try Holding("idle", daemon)
      #expect(open(daemon.device("relay0"), O_RDONLY) == -1 && errno == EBUSY)
      #expect(try consumer.end() == "\(EAGAIN)\n")
      try eventually("the buffer is free") {
        let file = open(daemon.device("relay0"), O_RDONLY)
        guard file >= 0 else { return false }
        // While it is open, nobody maps it.
        let finished = try Library.get().start([MappedTests.program(), "idle"], daemon)
        close(file)
        return finished.status != 0 && finished.error.contains("Device or resource busy")
      }
    }

    /// With something in its hands, or with something offered.
    @Test(arguments: [SIGKILL, SIGSTOP], ["hold", "idle"])
    func aConsumerThatDiesOrStopsHoldsNobodyUp(_ signal: CInt, _ test: String) throws {
      let daemon = try Daemon(
        "relay:global,subbuf_size=4KiB,n_subbufs=2,consumer_timeout=300ms")
      if test == "hold" { try daemon.write("one\n") }
      let consumer = try Holding(test, daemon)
      consumer.process.signal(signal)
      if test == "idle" { try daemon.write("one\n") }
      // Writers go on: the other sub-buffer is free.
      try daemon.write("two\n")
      try daemon.require("flush", "relay")
      try eventually("others may read", within: 5) {
        let file = open(daemon.device("relay0"), O_RDONLY)
        if file >= 0 { close(file) }
        return file >= 0
      }
      #expect(try run("cat", daemon.device("relay0")).output == "one\ntwo\n")
      guard signal == SIGSTOP else { return }
      consumer.process.signal(SIGCONT)
      // ESTALE where it had something; then it has the buffer again, in which nothing is.
      #expect(try consumer.end() == (test == "hold" ? "\(ESTALE) \(EAGAIN)\n" : "\(EAGAIN)\n"))
    }

    @Test func aConsumerThatIsTooLateFindsTheBufferTaken() throws {
      let daemon = try Daemon("relay:global,consumer_timeout=100ms")
      try daemon.write("one\n")
      let consumer = try Holding("hold", daemon)
      var file: CInt = -1
      try eventually("others may read") {
        file = open(daemon.device("relay0"), O_RDONLY)
        return file >= 0
      }
      #expect(try consumer.end() == "\(ESTALE) \(EBUSY)\n")
      close(file)
      #expect(daemon.logText.contains("relay0: a mapped consumer took too long"))
    }

    /// Nothing is there for it: only whole sub-buffers are.
    @Test func anIdleConsumerThatStoppedLosesTheBufferToWhoAsks() throws {
      let daemon = try Daemon("relay:global,consumer_timeout=300ms")
      let consumer = try Holding("idle", daemon)
      try daemon.write("one\n")
      consumer.process.signal(SIGSTOP)
      #expect(open(daemon.device("relay0"), O_RDONLY) == -1 && errno == EBUSY)
      try eventually("others may read", within: 5) {
        let file = open(daemon.device("relay0"), O_RDONLY)
        if file >= 0 { close(file) }
        return file >= 0
      }
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
      consumer.process.signal(SIGCONT)
      #expect(try consumer.end() == "\(EAGAIN)\n")
    }

    @Test func anIdleConsumerThatAnswersKeepsTheBuffer() throws {
      let daemon = try Daemon("relay:global,consumer_timeout=300ms")
      let consumer = try Holding("attentive", daemon)
      try daemon.write("one\n")
      for _ in 0..<10 {
        #expect(open(daemon.device("relay0"), O_RDONLY) == -1 && errno == EBUSY)
        poll(nil, 0, 100)
      }
      let count = try #require(Int(try consumer.end().dropLast()))
      #expect((1...10).contains(count))
    }

    @Test func whoWasTooSlowIsToldToGoOn() throws {
      let daemon = try Daemon("relay:global,consumer_timeout=100ms")
      try check("who_was_too_slow_is_told_to_go_on", daemon)
    }

    @Test func whoLostTheBufferToAFileIsToldOfItsClose() throws {
      let daemon = try Daemon("relay:global,consumer_timeout=100ms")
      try daemon.write("one\n")
      let consumer = try Holding("comes_back", daemon)
      consumer.process.signal(SIGSTOP)
      var file: CInt = -1
      try eventually("others may read") {
        file = open(daemon.device("relay0"), O_RDONLY)
        return file >= 0
      }
      consumer.process.signal(SIGCONT)
      try eventually("it knows") { consumer.said == "\(ESTALE) \(EBUSY) " }
      close(file)
      #expect(try consumer.end() == "\(ESTALE) \(EBUSY) one\n")
    }

    /// One that goes on running, and one that had the buffer when it was stopped.
    @Test(arguments: [false, true])
    func ofAClosedChannelNothingIsLeftWhoeverStaysConnected(_ isStopped: Bool) throws {
      let daemon = try Daemon("relay:global")
      try daemon.require(
        "create", "mine", "--global", "--keep", "--consumer-timeout", "100ms")
      let consumer = try Holding("keep_the_connection", daemon)
      if isStopped { consumer.process.signal(SIGSTOP) }
      try daemon.require("close", "mine")
      try eventually("its memory is gone") {
        try !run("ls", "-l", "/proc/\(daemon.process.pid)/fd").output.contains("relay:mine")
      }
      consumer.process.signal(SIGCONT)
      #expect(["\(ENOENT)\n", "\(EPIPE)\n"].contains(try consumer.end()))
    }

    /// What another user's consumers lost counts, too, until they end.
    @Test(.onceIsEnough) func whoMapsTakesNoDescriptorsThatAreKeptForRoot() throws {
      let daemon = try Daemon(
        "relay:global,permissions=0444,consumer_timeout=10ms", prefix: ["prlimit", "--nofile=90"])
      chmod(daemon.scratch.path, 0o755)
      let script = """
        import socket, struct, sys, time
        clients = []
        while True:
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect("\(daemon.socket)")
            clients.append(s)
            while True:
                try: s.send(struct.pack("<BBHIH5sIB", 4, 9, 0, 12, 5, b"relay", 0, 0))
                except OSError: pass
                # A reset is reported once, before a reply that arrived ahead of it.
                try: reply = s.recv(4096)
                except ConnectionResetError: reply = s.recv(4096)
                if not reply or reply[1] == 133: break
                if b"descriptor" in reply:
                    print(reply[14:].decode(), flush=True)
                    sys.stdin.readline()
                    sys.exit()
                time.sleep(0.005)
        """
      let pipe = try Pipe()
      let output = try outputFile("output")
      let user = ["setpriv", "--reuid=4005", "--regid=4005", "--clear-groups"]
      let consumers = try ChildProcess(
        user + ["/usr/bin/python3", "-c", script], input: pipe.read.raw, output: output.raw)
      try eventually("no more is given", within: 20) {
        text(of: output.raw).contains("relayd has no descriptor left for users other than root")
      }
      #expect(try daemon.relayctl("list").status == 0)
      try daemon.write("one\n")
      consumers.signal(SIGKILL)
      _ = consumers.wait()
      try eventually("they are forgotten") {
        try run("cat", daemon.device("relay0")).output == "one\n"
      }
    }

    /// What is behind a record whose writer has stopped comes after stall_timeout, however long the
    /// consumer has waited.
    @Test func anIdleConsumerIsToldOfWhatIsBehindAStoppedWriter() throws {
      let daemon = try Daemon("relay:global,stall_timeout=100ms")
      try check("what_is_behind_a_stopped_writer_comes", daemon)
    }

    @Test func reportingNothingBuysNoTime() throws {
      let daemon = try Daemon("relay:global,consumer_timeout=300ms")
      try check("reporting_nothing_buys_no_time", daemon)
    }

    @Test func aWriterWaitsNoLongerThanAConsumerMayTake() throws {
      let daemon = try Daemon(
        "relay:global,mode=overwrite,subbuf_size=4KiB,n_subbufs=3,"
          + "stall_timeout=10ms,consumer_timeout=300ms")
      try check("a_writer_waits_no_longer_than_a_consumer_may_take", daemon)
    }

    @Test func writersThatOverwriteNeedASubbufferBesideWhatIsInHand() throws {
      let daemon = try Daemon("relay:global,mode=overwrite,n_subbufs=2")
      try check("two_sub_buffers_that_are_overwritten_cannot_be_mapped", daemon)
    }

    @Test func atTheEndConsumersTakeWhatIsLeft() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4KiB,n_subbufs=4")
      let consumer = try Holding("drain_all", daemon)
      let text = String(repeating: "x", count: 1000)
      consumer.process.signal(SIGSTOP)
      for _ in 0..<10 { try daemon.write(text) }
      daemon.process.signal(SIGINT)
      consumer.process.signal(SIGCONT)
      #expect(daemon.end(SIGINT) == 0)
      #expect(try consumer.end() == "10000\n")
      #expect(!daemon.logText.contains("unread"))
    }

    @Test func neverMeansNever() throws {
      let daemon = try Daemon("relay:global,consumer_timeout=never")
      try daemon.write("one\n")
      let consumer = try Holding("hold", daemon)
      poll(nil, 0, 700)
      #expect(open(daemon.device("relay0"), O_RDONLY) == -1 && errno == EBUSY)
      #expect(try consumer.end() == "0 \(EAGAIN)\n")
    }

    @Test func everyTestIsRun() throws {
      #expect(try Library.tests("mapped.c", "mapped_late.c").count == 26)
    }

    @Test func whatIsListedAndCountedAndFlushedGoesOnMeanwhile() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let consumer = try Holding("hold", daemon)
      try daemon.require("list")
      for command in ["stat", "flush"] { try daemon.require(command, "relay") }
      #expect(try daemon.statistic("records_unread") == 1)
      #expect(try consumer.end() == "0 \(EAGAIN)\n")
      #expect(try daemon.statistic("records_read") == 1)
    }
  }
}

/// A consumer that waits for a line before it goes on.
final class Holding {
  let process: ChildProcess
  private let input: FileDescriptor
  private let output: FileDescriptor

  /// Waits until it says that it has what it wanted.
  init(_ test: String, _ daemon: Daemon) throws {
    let pipe = try Pipe()
    output = try outputFile("output")
    process = try ChildProcess(
      [try OneAtATime.MappedTests.program(), test],
      input: pipe.read.raw, output: output.raw,
      environment: ["LD_LIBRARY_PATH": try Library.get().libraries, "RELAY_SOCKET": daemon.socket])
    input = try pipe.write.duplicate()
    let said = output.raw
    try eventually("it has the buffer") { !text(of: said).isEmpty }
  }

  /// What it said so far, but for its first line.
  var said: String { String(text(of: output.raw).drop { $0 != "\n" }.dropFirst()) }

  /// What it says when it may go on.
  func end() throws -> String {
    Glibc.write(input.raw, "\n", 1)
    _ = process.wait()
    return said
  }
}
