// SPDX-License-Identifier: Apache-2.0
// A reset of a channel that a producer damaged: whatever was written where, the channel works
// again, for writers that are attached, readers that have it open, and mapped consumers that map
// it again.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct ResetTests {
    /// Bytes at an offset of the ring file of a global channel with 4 sub-buffers of 4096 bytes:
    /// the header, descriptors of 64 bytes from 256 on, and 4 × 514 index words from 4096 on.
    struct Damage: CustomStringConvertible {
      let description: String
      let at: [Int]
      let bytes: [UInt8]

      static func words(_ what: String, _ at: [Int], _ word: UInt64) -> Damage {
        Damage(description: what, at: at, bytes: withUnsafeBytes(of: word) { Array($0) })
      }
    }

    static let states = (0..<4).map { 256 + $0 * 64 }
    static let kinds: [Damage] = [
      .words("a current sub-buffer that there is not", [0], 0x10ffff),
      .words("a current sub-buffer long ago", [0], 0),
      .words("a current sub-buffer not reached yet", [0], 0x7777_0000_0000_0001),
      .words("closed", [0], 0x180000),
      .words("given up", [176], 1),
      .words("states of the future", states, 0x7fff_0000_0000_0002),
      .words("claimed by nobody", states, 0x100 << 20 | 0x2345 << 6 | 1),
      .words("free with a claim that waits", [states[2], states[3]], 0x2345 << 6 | 1),
      .words("pinned by nobody", states, 0x10_0000 | 3 << 2 | 2),
      .words("sub-buffers that are all free", states, 0),
      .words("an index of records that never end", (0..<2056).map { 4096 + $0 * 8 }, 1 << 61),
      .words("an index of later laps", (600..<2056).map { 4096 + $0 * 8 }, 2 << 61 | 9 << 26 | 8),
      .words("an index of tags that there are not", (600..<2056).map { 4096 + $0 * 8 }, 7 << 61),
      Damage(
        description: "all of it", at: [0], bytes: [UInt8](repeating: 0xff, count: 36864)),
      Damage(description: "nothing left", at: [0], bytes: [UInt8](repeating: 0, count: 36864)),
    ]

    private func apply(_ damage: Damage, _ daemon: Daemon, _ channel: String = "relay") throws {
      let directory = "/proc/\(daemon.process.pid)/fd"
      let name = try Files.names(in: directory).first {
        try run("readlink", "\(directory)/\($0)").output.hasPrefix("/memfd:relay:\(channel) ")
      }
      let file = try FileDescriptor.open("\(directory)/\(try #require(name))", O_RDWR)
      for offset in damage.at {
        #expect(pwrite(file.raw, damage.bytes, damage.bytes.count, off_t(offset)) > 0)
      }
    }

    @Test(arguments: kinds, ["discard", "overwrite"])
    func aDamagedChannelIsRevived(_ damage: Damage, _ mode: String) throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=4,mode=\(mode)")
      let pipe = try Pipe()
      let writer = try daemon.startWriter("relay", pipe)
      defer {
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      #expect(write(pipe.write.raw, "one\n", 4) == 4)
      let reader = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY | O_NONBLOCK)
      var bytes = [UInt8](repeating: 0, count: 4096)
      try eventually("the reader has it") { read(reader.raw, &bytes, 4096) == 4 }
      try apply(damage, daemon)
      try daemon.require("reset", "relay")
      for round in 0..<3 {
        // More than a sub-buffer each time: none of them is missing.
        let text = Array(String(repeating: "\(round) of a round\n", count: 400).utf8)
        #expect(write(pipe.write.raw, text, text.count) == text.count)
        var got: [UInt8] = []
        try eventually("the reader goes on: \(got.count), \(daemon.logText)") {
          let count = read(reader.raw, &bytes, 4096)
          got += bytes[..<max(0, count)]
          return got.count == text.count
        }
        #expect(got == text)
      }
      #expect(try daemon.statistic("corrupt") == 0)
      #expect(try daemon.statistic("records_read") == 1200)
      #expect(daemon.end() == 0)
    }

    /// A damaged buffer of a CPU takes the others with it: one channel, one memory.
    @Test func allBuffersOfAChannelAreRevived() throws {
      let daemon = try Daemon("relay:subbuf_size=4096,n_subbufs=4")
      let cpus = try Files.names(in: daemon.mount).count
      try apply(.words("", [0], 0x10ffff), daemon)
      try daemon.require("reset", "relay")
      for _ in 0..<3 { try daemon.write("again\n") }
      #expect(try Files.names(in: daemon.mount).count == cpus)
      let all = try daemon.shell("cat \(daemon.mount)/relay*").output
      #expect(all == "again\nagain\nagain\n")
    }

    @Test func aChannelInOrderKeepsItsMemory() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=4")
      let pipe = try Pipe()
      let writer = try daemon.startWriter("relay", pipe)
      defer {
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      for round in 1...5 {
        let text = Array(String(repeating: "1234567\n", count: 800).utf8)
        #expect(write(pipe.write.raw, text, text.count) == text.count)
        try eventually("it is written") { try daemon.statistic("records_written") == 800 }
        try daemon.require("reset", "relay")
        #expect(try daemon.statistic("records_written") == 0, "\(round)")
      }
      #expect(!daemon.logText.contains("fresh memory"), "\(daemon.logText)")
    }

    /// Writers that are at work are no damage.
    @Test(arguments: ["discard", "overwrite"]) func resetsAmongWritersKeepTheMemory(
      _ mode: String
    ) throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=4,mode=\(mode)")
      let writers = try (0..<2).map { _ in
        let zero = try FileDescriptor.open("/dev/zero", O_RDONLY)
        return try ChildProcess(
          [program("relayctl"), "write", "relay", "--block", "24", "--drop"], input: zero.raw,
          environment: ["RELAY_SOCKET": daemon.socket])
      }
      defer {
        for writer in writers {
          writer.signal(SIGKILL)
          _ = writer.wait()
        }
      }
      try eventually("they write") {
        try daemon.statistic("records_written") + daemon.statistic("lost_full") > 1000
      }
      for _ in 0..<100 { try daemon.require("reset", "relay") }
      #expect(!daemon.logText.contains("fresh memory"), "\(daemon.logText)")
      let before = try daemon.statistic("records_written") + daemon.statistic("lost_full")
      try eventually("they still write") {
        try daemon.statistic("records_written") + daemon.statistic("lost_full") > before + 1000
      }
    }

    /// Into the old memory: the writer learns of the new one only at the end of the reset. With
    /// more resets than the log takes lines about, too.
    @Test(arguments: [true, false]) func recordsWrittenDuringAResetAreCounted(
      _ isLogged: Bool
    ) throws {
      let daemon = try Daemon("relay:global,subbuf_size=1MiB,n_subbufs=64,mode=overwrite")
      func reset() throws {
        try apply(.words("given up", [176], 1), daemon)
        try daemon.require("reset", "relay")
      }
      func lines() throws -> Int {
        let line = try Regex(
          "; \\d+ records? written into the old memory since the reset began, counted in lost")
        return daemon.logText.matches(of: line).count
      }
      for _ in 0..<(isLogged ? 0 : 100) { try reset() }
      let zero = try FileDescriptor.open("/dev/zero", O_RDONLY)
      let writer = try ChildProcess(
        [program("relayctl"), "write", "relay", "--block", "24", "--drop"], input: zero.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      defer {
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      try eventually("a reset takes as long as a record") {
        try eventually("it writes") { try daemon.statistic("records_written") > 1000 }
        let before = try lines()
        try reset()
        let isCounted = try daemon.statistic("lost_restart") > 0
        return try isCounted && (lines() > before) == isLogged
      }
    }

    /// A process that holds a record open would keep its sub-buffer for ever.
    @Test func recordsThatAreNeverFinishedDoNotOutliveAReset() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4KiB,n_subbufs=2,stall_timeout=never")
      let library = try Library.get()
      let output = try outputFile("output")
      let pipe = try Pipe()
      let writer = try ChildProcess(
        [try library.program("straggler", Library.c, "straggler.c")], input: pipe.read.raw,
        output: output.raw,
        environment: ["LD_LIBRARY_PATH": library.libraries, "RELAY_SOCKET": daemon.socket])
      try eventually("it has reserved") { text(of: output.raw) == "reserved\n" }
      for _ in 0..<2 {
        _ = try daemon.shell(
          "head -c 12000 /dev/zero | $BIN/relayctl write relay --block 60 --drop")
        try daemon.require("reset", "relay")
        try daemon.write("again\n")
        #expect(try run("cat", daemon.device("relay0")).output == "again\n")
      }
      // Its commit goes where nobody reads.
      #expect(write(pipe.write.raw, "\n", 1) == 1)
      #expect(writer.wait() == 0)
      #expect(try run("cat", daemon.device("relay0")).output == "")
    }

    @Test func theLogOfADamageNamesWhoWrites() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=4")
      let pipe = try Pipe()
      let writer = try daemon.startWriter("relay", pipe)
      #expect(write(pipe.write.raw, "one\n", 4) == 4)
      try eventually("it is written") { try daemon.statistic("records_written") == 1 }
      try apply(ResetTests.kinds[0], daemon)
      // It finds the damage before any reader does.
      #expect(write(pipe.write.raw, "two\n", 4) == 4)
      #expect(writer.wait() == 1)
      let said =
        "relay0: a process that writes to channel relay damaged its shared memory; this "
        + "buffer delivers nothing more; attached "
      try eventually("it is said: \(daemon.logText)") { daemon.logText.contains(said) }
      let other = try Daemon("other:global,subbuf_size=4096,n_subbufs=4", options: [])
      let second = try other.startWriter("other", pipe)
      defer {
        second.signal(SIGKILL)
        _ = second.wait()
      }
      #expect(write(pipe.write.raw, "one\n", 4) == 4)
      try eventually("it is written") { try other.statistic("records_written", of: "other") == 1 }
      try apply(ResetTests.kinds[0], other, "other")
      _ = try run("cat", other.device("other0"))
      let named =
        "attached is process \(second.pid) (relayctl) of user \(geteuid()); `relayctl reset "
        + "other` gives the channel fresh memory"
      try eventually("it is named: \(other.logText)") { other.logText.contains(named) }
    }

    @Test func aMappedConsumerMapsAgainAfterAReset() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4KiB")
      try daemon.write("one\n")
      let consumer = try Holding("hold", daemon)
      try apply(ResetTests.kinds[0], daemon)
      try daemon.require("reset", "relay")
      #expect(try consumer.end() == "\(ENOENT) \(ENOENT)\n")
      try daemon.write("two\n")
      #expect(try Holding("hold", daemon).end() == "0 \(EAGAIN)\n")
      #expect(try daemon.statistic("records_read") == 1)
    }

    /// The next relayd goes on with the memory that replaced the damaged one.
    @Test(arguments: [kinds[0], .words("given up", [176], 1)])
    func whatWasRevivedOutlivesRelayd(_ kind: Damage) throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=4", options: ["--hold"])
      let pipe = try Pipe()
      let writer = try daemon.startWriter("relay", pipe)
      defer {
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      #expect(write(pipe.write.raw, "one\n", 4) == 4)
      try eventually("it is written") { try daemon.statistic("records_written") == 1 }
      let line = try #require(daemon.logText.components(separatedBy: "relayd is process ").last)
      let pid = try #require(Int32(line.prefix { $0.isNumber }))
      try damage(pid, kind)
      try daemon.require("reset", "relay")
      #expect(write(pipe.write.raw, "two\n", 4) == 4)
      try eventually("it is written") { try daemon.statistic("records_written") == 1 }
      kill(pid, SIGKILL)
      try eventually("the next one is ready: \(daemon.logText)") {
        daemon.logText.components(separatedBy: "ready:").count == 3
      }
      #expect(write(pipe.write.raw, "three\n", 6) == 6)
      try eventually("both are there") { try daemon.statistic("records_written") == 2 }
      #expect(try run("cat", daemon.device("relay0")).output == "two\nthree\n")
      #expect(try daemon.statistic("lost_restart") == 0)
    }

    private func damage(_ pid: Int32, _ kind: Damage) throws {
      let directory = "/proc/\(pid)/fd"
      let name = try Files.names(in: directory).first {
        try run("readlink", "\(directory)/\($0)").output.hasPrefix("/memfd:relay:relay ")
      }
      let file = try FileDescriptor.open("\(directory)/\(try #require(name))", O_RDWR)
      #expect(pwrite(file.raw, kind.bytes, kind.bytes.count, off_t(kind.at[0])) == 8)
    }
  }
}
