// SPDX-License-Identifier: Apache-2.0
// A relayd that ends, in whatever way, and the next one that goes on where it stopped.

import Glibc
import LinuxIO
import Testing

/// A relayd under a holder.
struct HeldDaemon {
  let daemon: Daemon

  init(_ channels: String..., configuration: String? = nil, in scratch: Scratch? = nil) throws {
    daemon =
      try configuration.map { try Daemon(configuration: $0, options: ["--hold"]) }
      ?? Daemon(options: ["--hold"] + channels.flatMap { ["--channel", $0] }, in: scratch)
  }

  /// The relayd that the holder started last.
  func child() throws -> Int32 {
    let line = daemon.logText.components(separatedBy: "relayd is process ").last
    return try #require(Int32(line?.prefix { $0.isNumber } ?? ""))
  }

  private var readies: Int { daemon.logText.components(separatedBy: "ready:").count }

  /// Ends the relayd, does something while there is none, and waits for the next one.
  func restart(_ signal: CInt = SIGKILL, meanwhile: () throws -> Void = {}) throws {
    let before = readies
    // The holder does not hear of it before it goes on.
    daemon.process.signal(SIGSTOP)
    let child = try child()
    kill(child, signal)
    try eventually("it has ended") {
      let text = try run("cat", "/proc/\(child)/stat").output
      return text.contains(") Z ")
    }
    try meanwhile()
    let waits = waits
    daemon.process.signal(SIGCONT)
    var isHurried = false
    try eventually("the next one is ready: \(daemon.logText)") {
      // So many in so short a time make it wait, until it is told not to.
      if self.waits > waits, !isHurried {
        daemon.process.signal(SIGHUP)
        isHurried = true
      }
      return readies > before
    }
  }

  private var waits: Int { daemon.logText.components(separatedBy: "started again in").count }
}

extension OneAtATime {
  @Suite struct RestartTests {
    private func cat(_ daemon: Daemon, _ device: String = "relay0") throws -> String {
      try run("cat", daemon.device(device)).output
    }

    @Test(.onceIsEnough) func theBacklogsMarkIsKeptUntilAReset() throws {
      let held = try HeldDaemon("relay:global,subbuf_size=4,n_subbufs=8")
      for line in ["one", "two", "six", "ten"] { try held.daemon.write(line + "\n") }
      #expect(try cat(held.daemon) == "one\ntwo\nsix\nten\n")
      try held.restart()
      #expect(try held.daemon.statistic("backlog_max") == 3)
      try held.daemon.require("reset", "relay")
      try held.restart()
      #expect(try held.daemon.statistic("backlog_max") == 0)
    }

    @Test(arguments: [SIGTERM, SIGKILL, SIGSEGV, SIGILL])
    func readingGoesOnWhereItStopped(_ signal: CInt) throws {
      let held = try HeldDaemon("relay:global")
      let daemon = held.daemon
      try daemon.write("one\ntwo\n")
      #expect(try run("head", "-c", "5", daemon.device("relay0")).output == "one\nt")
      try held.restart(signal)
      try daemon.write("three\n")
      #expect(try cat(daemon) == "wo\nthree\n")
      #expect(try daemon.statistic("records_written") == 3)
      #expect(try daemon.statistic("records_read") == 3)
      #expect(!daemon.logText.contains("not gone on with"))
    }

    @Test func aChannelCreatedAtRunTimeIsThereAgain() throws {
      let held = try HeldDaemon("relay:global")
      let daemon = held.daemon
      try daemon.require(
        "create", "net/rx", "--keep", "--global", "--subbuf-size", "8KiB", "--mode", "overwrite",
        "--permissions", "0444")
      try daemon.write("one\n", to: "net/rx")
      let before = try daemon.relayctl("list").output
      try held.restart()
      #expect(try daemon.relayctl("list").output == before)
      #expect(try cat(daemon, "net/rx0") == "one\n")
      var status = stat()
      #expect(stat(daemon.device("net/rx0"), &status) == 0 && status.st_mode & 0o777 == 0o444)
      try daemon.require("close", "net/rx")
      try held.restart()
      #expect(try daemon.channels() == ["relay"])
    }

    @Test func aTemporaryChannelStaysAsLongAsItsWriter() throws {
      let held = try HeldDaemon("relay:global")
      let daemon = held.daemon
      try daemon.require("create", "short", "--global")
      let input = try Pipe()
      let writer = try daemon.startWriter("short", input)
      #expect(write(input.write.raw, "one\n", 4) == 4)
      try eventually("it is written") { try daemon.statistic("records_written", of: "short") == 1 }
      try held.restart()
      #expect(try daemon.channels() == ["relay", "short"])
      #expect(try cat(daemon, "short0") == "one\n")
      writer.signal(SIGKILL)
      _ = writer.wait()
      try eventually("it is closed") { try daemon.channels() == ["relay"] }
    }

    /// A process that has reserved a record, and sleeps.
    private func startHolding(_ daemon: Daemon) throws -> ChildProcess {
      let output = try Pipe()
      let producer = try ChildProcess(
        [
          "python3", "-c",
          """
          import ctypes, os, time
          relay = ctypes.CDLL("\(try Library.get().file)")
          relay.relay_attach.restype = relay.relay_reserve.restype = ctypes.c_void_p
          relay.relay_reserve.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
          chan = relay.relay_attach(None, b"relay")
          assert relay.relay_reserve(chan, 5, ctypes.create_string_buffer(64))
          os.write(1, b"x")
          time.sleep(1000)
          """,
        ], output: output.write.raw, environment: ["RELAY_SOCKET": daemon.socket])
      var byte: UInt8 = 0
      #expect(read(output.read.raw, &byte, 1) == 1, "it has reserved a record")
      return producer
    }

    /// What it had begun is discarded, and holds nobody up.
    @Test func aProducerThatDiedMeanwhileIsSweptOut() throws {
      let held = try HeldDaemon("relay:global,stall_timeout=never")
      let daemon = held.daemon
      let producer = try startHolding(daemon)
      try daemon.write("behind\n")
      #expect(try cat(daemon) == "")
      try held.restart {
        producer.signal(SIGKILL)
        _ = producer.wait()
      }
      #expect(try cat(daemon) == "behind\n")
      #expect(try daemon.statistic("aborted") == 1)
    }

    @Test func aProducerThatLivesIsNotSwept() throws {
      let held = try HeldDaemon("relay:global,stall_timeout=never")
      let daemon = held.daemon
      let producer = try startHolding(daemon)
      try daemon.write("behind\n")
      try held.restart()
      #expect(try cat(daemon) == "")
      producer.signal(SIGKILL)
      _ = producer.wait()
      try eventually("it is swept") { try cat(daemon) == "behind\n" }
    }

    @Test func whatCannotBeGoneOnWithIsSaidAndCounted() throws {
      let held = try HeldDaemon(configuration: "[channel.relay]\nglobal = true\n")
      let daemon = held.daemon
      try daemon.write("one\ntwo\nthree\n")
      #expect(try run("head", "-c", "4", daemon.device("relay0")).output == "one\n")
      try daemon.configure("[channel.relay]\nglobal = true\nsubbuf_size = \"8KiB\"\n")
      try held.restart()
      #expect(
        daemon.logText.contains(
          "channel relay: what it held is not gone on with: its subbuf_size was 262144, and now is "
            + "8192"))
      #expect(daemon.logText.contains("channel relay: 2 unread records are lost by this restart"))
      #expect(try daemon.statistic("lost_restart") == 2)
      try daemon.write("four\n")
      #expect(try cat(daemon) == "four\n")
      try held.restart()
      #expect(try daemon.statistic("lost_restart") == 2, "it goes on with the new one")
      try daemon.configure("[channel.other]\nglobal = true\n")
      try held.restart()
      #expect(try daemon.channels() == ["other"])
      #expect(daemon.logText.contains("not gone on with: it is not configured any more"))
    }

    /// What the holder keeps, written over in a way that nobody else could.
    private func damage(_ daemon: Daemon, _ file: String, _ command: String) throws {
      let damaged = try daemon.shell(
        """
        for fd in /proc/\(daemon.process.pid)/fd/*; do
          case $(readlink $fd) in
          "/memfd:\(file) (deleted)") \(command) conv=notrunc of=$fd status=none; echo done
          esac
        done
        """)
      #expect(damaged.output == "done\n", "\(file)")
    }

    @Test(arguments: [
      (
        "relay-geometry:relay", "dd if=/dev/urandom bs=4096 count=1",
        "channel relay: what it held is not gone on with: not the geometry of a relay channel"
      ),
      // Its version is one that does not exist yet.
      (
        "relay-geometry:relay", "printf '\\177' | dd bs=1 seek=8",
        "channel relay: what it held is not gone on with: shared-memory layout version 127; "
          + "this program knows 2"
      ),
      (
        "relay-geometry:relay", "dd if=/dev/urandom bs=8192 seek=1 count=1",
        "channel relay: what it held is not gone on with: its reader's position is damaged"
      ),
      (
        "relay-owners", "dd if=/dev/urandom bs=4096 count=1",
        "the table of who writes is missing or damaged"
      ),
    ])
    func damagedStateIsRefused(_ file: String, _ command: String, _ refusal: String) throws {
      let held = try HeldDaemon("relay:global")
      let daemon = held.daemon
      try daemon.write("one\n")
      #expect(try run("head", "-c", "2", daemon.device("relay0")).output == "on")
      try held.restart { try damage(daemon, file, command) }
      #expect(daemon.logText.contains(refusal), "\(daemon.logText)")
      try daemon.write("two\n")
      #expect(try cat(daemon) == "two\n")
      #expect(!daemon.logText.contains("killed by signal 4"), "\(daemon.logText)")
    }

    /// Zeroes: as if nobody had ever read, and owner ids that are all taken.
    @Test func zeroesAndNonsenseInTheStateAreRefused() throws {
      let held = try HeldDaemon("relay:global")
      let daemon = held.daemon
      try daemon.write("one\n")
      #expect(try cat(daemon) == "one\n")
      try held.restart {
        try damage(daemon, "relay-geometry:relay", "dd if=/dev/zero bs=8192 seek=1 count=1")
      }
      #expect(try cat(daemon) == "", "\(daemon.logText)")
      #expect(daemon.logText.contains("its reader's position is damaged"))
      try held.restart {
        try damage(
          daemon, "relay-owners", "head -c 393192 /dev/zero | tr '\\0' x | dd bs=8 seek=1")
      }
      #expect(daemon.logText.contains("the table of who writes is missing or damaged"))
      try daemon.write("two\n")
      #expect(try cat(daemon) == "two\n")
      // What was refused once stays so: it is not there any more.
      try held.restart()
      try daemon.write("three\n")
      #expect(try cat(daemon) == "three\n")
    }

    /// Only while the files were used just now is the dead mount not seen at once.
    @Test(.onceIsEnough) func mountsDoNotPileUp() throws {
      let held = try HeldDaemon("relay:global")
      for _ in 0..<5 {
        try held.daemon.write("one\n")
        #expect(try cat(held.daemon) == "one\n")
        try held.restart()
      }
      let mounts = try run("grep", "-c", " \(held.daemon.mount) ", "/proc/self/mounts").output
      #expect(mounts == "1\n")
    }

    @Test func writersAndAFollowerSeeEveryRecordThroughTwentyRestarts() throws {
      // Room for two minutes of what they write, should this process be slow to start the next one.
      let held = try HeldDaemon("relay:global,subbuf_size=1MiB,n_subbufs=64")
      let survivors = try Survivors(environment: ["RELAY_SOCKET": held.daemon.socket])
      for i in 0..<20 {
        try survivors.awaitProgress()
        try held.restart(i % 2 == 0 ? SIGTERM : SIGKILL)
      }
      try survivors.awaitProgress()
      try survivors.check()
      #expect(!held.daemon.logText.contains("lost"), "\(held.daemon.logText)")
    }
  }
}
