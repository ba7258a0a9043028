// SPDX-License-Identifier: Apache-2.0
// Losses in the log: one line when they begin, one when they end, with the exact number.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct LossLogTests {
    /// Lines of the log with this in them.
    private func lines(_ daemon: Daemon, _ text: String) -> [String] {
      daemon.logText.split(separator: "\n").map(String.init).filter { $0.contains(text) }
    }

    /// The number behind `text` in the log's first line that has it.
    private func number(_ daemon: Daemon, _ text: String) throws -> Int {
      let rest = try #require(daemon.logText.components(separatedBy: text).dropFirst().first)
      return try #require(Int(rest.prefix { $0.isNumber }))
    }

    private func writeUntilFull(_ input: CInt) {
      // Lines of 64 bytes; 8192 bytes hold 128 of them.
      let line = String(repeating: "x", count: 63) + "\n"
      let bytes = Array(String(repeating: line, count: 200).utf8)
      #expect(write(input, bytes, bytes.count) == bytes.count)
    }

    @Test func aFullChannelIsSaidWhenItBeginsAndWhenItEnds() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=2")
      let pipe = try Pipe()
      let writer = try ChildProcess(
        [program("relayctl"), "write", "relay", "--drop"], input: pipe.read.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      writeUntilFull(pipe.write.raw)
      let place = daemon.device("relay0")
      let begin = "<4>channel relay: records are being lost in \(place), "
      try eventually("its beginning: \(daemon.logText)") { !lines(daemon, begin).isEmpty }
      #expect(
        lines(daemon, begin)[0].hasSuffix(
          " so far: the buffer is full; read it faster, or make its n_subbufs or subbuf_size larger"
        ))
      _ = try run("cat", place)
      let end = "<4>channel relay: the loss in \(place) has ended: "
      try eventually("its end: \(daemon.logText)") { !lines(daemon, end).isEmpty }
      #expect(try number(daemon, end) == daemon.statistic("lost_full"))
      #expect(try daemon.statistic("lost_full") == 72)
      writer.signal(SIGKILL)
      _ = writer.wait()
      try daemon.requireSleep()
      #expect(lines(daemon, begin).count == 1)
      #expect(daemon.end() == 0)
      #expect(lines(daemon, end).count == 1)
    }

    /// Before the end of a calm: of the writer, the channel, the counts, relayd.
    @Test(arguments: ["close", "reset", "end"]) func whatEndsTheCountsEndsTheLoss(
      _ way: String
    ) throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=2")
      let filled = try daemon.shell(
        "head -c 12800 /dev/zero | $BIN/relayctl write relay --block 64 --drop")
      #expect(filled.status == 0)
      try eventually("its beginning") { !lines(daemon, "are being lost in").isEmpty }
      if way == "end" { daemon.end() } else { try daemon.require(way, "relay") }
      let why = [
        "close": "the channel was closed", "reset": "the channel was reset", "end": "relayd ends",
      ][way]!
      let said = lines(daemon, "has ended: 72 records in ")
      #expect(said.count == 1 && said[0].hasSuffix("the buffer is full; \(why)"), "\(said)")
    }

    @Test func aRecordThatIsTooLongIsSaid() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096")
      let script = """
        import ctypes
        relay = ctypes.CDLL("librelay.so.0")
        relay.relay_attach.restype = ctypes.c_void_p
        channel = ctypes.c_void_p(relay.relay_attach(None, b"relay"))
        relay.relay_write(channel, b"x" * 5000, ctypes.c_size_t(5000))
        """
      let written = try Library.get().start(["python3", "-c", script], daemon)
      #expect(written.status == 0, "\(written.error)")
      let begin = "are being lost in \(daemon.device("relay0")), "
      try eventually("it is said: \(daemon.logText)") { !lines(daemon, begin).isEmpty }
      #expect(
        lines(daemon, begin)[0].contains(
          "so far: longer than a sub-buffer, which is 4096 bytes; make its subbuf_size larger"))
    }

    @Test func aWriterThatDiesInsideARecordIsSaid() throws {
      let daemon = try Daemon(AttachedTests.channels[0], AttachedTests.channels[1])
      _ = try AttachedTests().check(
        "a_child_that_dies_inside_a_record_costs_that_record", daemon)
      try eventually("it is said: \(daemon.logText)") {
        !lines(daemon, "1 so far: their writers died in the middle of them").isEmpty
      }
    }

    /// Overwriting is what a flight recorder is for; a reader that is too late has lost something.
    @Test func overwritingIsALossForWhoReads() throws {
      let daemon = try Daemon("relay:global,mode=overwrite,subbuf_size=4096,n_subbufs=2")
      func fill() throws {
        let filled = try daemon.shell(
          "head -c 64000 /dev/zero | $BIN/relayctl write relay --block 64")
        #expect(filled.status == 0)
      }
      try fill()
      _ = try run("cat", daemon.device("relay0"))
      #expect(try daemon.statistic("lost_overwritten") > 0)
      let before = try daemon.statistic("lost_overwritten")
      try daemon.require("flush", "relay")
      let reader = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY)
      var bytes = [UInt8](repeating: 0, count: 1 << 16)
      try daemon.write("seen\n")
      #expect(read(reader.raw, &bytes, bytes.count) == 5)
      #expect(lines(daemon, "lost").isEmpty, "nobody read")
      try fill()
      while read(reader.raw, &bytes, bytes.count) > 0 {}
      try eventually("it is said: \(daemon.logText)") { !lines(daemon, "are being lost").isEmpty }
      let lost = try daemon.statistic("lost_overwritten") - before
      #expect(
        lines(daemon, "are being lost")[0].contains(
          ", \(lost) so far: overwritten before their reader came to them; read it faster"),
        "\(lost): \(daemon.logText)")
    }

    @Test func aStoppedWritersRecordThatIsPassedIsSaid() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4KiB,stall_timeout=10ms")
      let library = try Library.get()
      let output = try outputFile("output")
      let pipe = try Pipe()
      let writer = try ChildProcess(
        [try library.program("straggler", Library.c, "straggler.c")], input: pipe.read.raw,
        output: output.raw,
        environment: ["LD_LIBRARY_PATH": library.libraries, "RELAY_SOCKET": daemon.socket])
      defer {
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      try eventually("it has reserved") { text(of: output.raw) == "reserved\n" }
      try daemon.write("late\n")
      try eventually("its record is passed") {
        _ = try run("cat", daemon.device("relay0"))
        return try daemon.statistic("lost_stalled") == 1
      }
      try eventually("it is said: \(daemon.logText)") {
        !lines(daemon, "1 so far: passed, because their writers stopped").isEmpty
      }
    }
  }
}
