// SPDX-License-Identifier: Apache-2.0
// The daemon is killed while programs write, and another one takes its place with nothing of it:
// they go on by themselves, and every record is read or counted.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct SuccessorTests {
    /// A producer of the channel "relay" that ends with its input.
    private final class Producer {
      let process: ChildProcess
      private let input: Pipe
      private let output: FileDescriptor

      init(_ arguments: [String], _ daemon: Daemon, _ library: Library) throws {
        input = try Pipe()
        output = try outputFile("output")
        process = try ChildProcess(
          arguments, input: input.read.raw, output: output.raw,
          environment: ["RELAY_SOCKET": daemon.socket, "LD_LIBRARY_PATH": library.libraries])
        try eventually("it writes") { text(of: output.raw).contains("ready") }
      }

      func descriptorCount() throws -> Int {
        try Files.names(in: "/proc/\(process.pid)/fd").count
      }

      /// What it and its children wrote, and were refused.
      func end() -> (written: Int, refused: Int) {
        _ = Glibc.write(input.write.raw, "x", 1)
        #expect(process.wait() == 0)
        let counts = text(of: output.raw).split(separator: "\n").dropFirst().map { line in
          line.split(separator: " ").map { Int($0)! }
        }
        return counts.reduce((0, 0)) { ($0.0 + $1[0], $0.1 + $1[1]) }
      }
    }

    private let channel = "relay:global,subbuf_size=64KiB,n_subbufs=8"

    /// The one that comes next, on the same socket.
    private func kill(_ daemon: Daemon, _ signal: CInt = SIGKILL) throws -> Daemon {
      daemon.end(signal)
      return try Daemon(channel, in: daemon.scratch)
    }

    private func read(_ daemon: Daemon) throws -> Int {
      let cat = try run("cat", daemon.device("relay0"))
      #expect(cat.status == 0)
      return cat.output.utf8.count / 8
    }

    @Test(.onceIsEnough) func producersGoOnAndEveryRecordIsReadOrCounted() throws {
      var daemon = try Daemon(channel)
      // The end of one here would take the next one's mount away.
      var dead: [Daemon] = []
      let library = try Library.get()
      let count = try library.program("count", Library.c, "count.c")
      let commands =
        ["steady", "slow", "handler", "forked"].map { [count, "relay", $0] }
        + [[program("relay-load"), "count", "relay"]]
      let producers = try commands.map { try Producer($0, daemon, library) }
      let descriptors = try producers.map { try $0.descriptorCount() }
      var total = 0
      for _ in 0..<20 {
        total += try read(daemon)
        dead.append(daemon)
        daemon = try kill(daemon)
        try eventually("what is lost is counted") { try daemon.statistic("lost_restart") > 0 }
        total += try daemon.statistic("lost_restart")
        #expect(try daemon.relayctl("stat", "relay").output.contains("RESTART"))
        try eventually("they write here") { try daemon.statistic("records_written") > 10 }
      }
      #expect(try producers.map { try $0.descriptorCount() } == descriptors)
      let counts = producers.map { $0.end() }
      total += try read(daemon)
      #expect(counts.reduce(0) { $0 + $1.written } == total)
      #expect(counts.map(\.refused) == [0, 0, 0, 0, 0])
    }

    /// It closes its channels: that is said, and is over with the next one.
    @Test(.onceIsEnough) func aProperEndIsSaidUntilTheNextDaemonIsThere() throws {
      let first = try Daemon(channel)
      let library = try Library.get()
      let count = try library.program("count", Library.c, "count.c")
      let producer = try Producer([count, "relay", "steady"], first, library)
      try eventually("it writes") { try first.statistic("records_written") > 10 }
      let daemon = try kill(first, SIGTERM)
      try eventually("it writes again") { try daemon.statistic("records_written") > 10 }
      let lost = try daemon.statistic("lost_restart")
      let counts = producer.end()
      // What was refused meanwhile is counted, too.
      #expect(counts.refused > 0)
      let left = try read(daemon)
      #expect(counts.written + counts.refused == left + lost, "\(counts) \(left) \(lost)")
    }

    @Test(.onceIsEnough) func relayctlWriteGoesOn() throws {
      let first = try Daemon(channel)
      let input = try Pipe()
      let writer = try first.startWriter("relay", input)
      func write(_ count: Int) {
        for _ in 0..<count { _ = Glibc.write(input.write.raw, "line 67\n", 8) }
      }
      write(10)
      try eventually("it writes") { try first.statistic("records_written") == 10 }
      let daemon = try kill(first)
      write(1000)
      try eventually("it writes again") { try daemon.statistic("lost_restart") > 10 }
      let lost = try daemon.statistic("lost_restart")
      try eventually("all is there") { try daemon.statistic("records_written") + lost == 1010 }
      writer.signal(SIGTERM)
      _ = writer.wait()
    }
  }
}
