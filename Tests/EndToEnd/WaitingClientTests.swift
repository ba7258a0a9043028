// SPDX-License-Identifier: Apache-2.0
// The rows of relay(4)'s table of clients about programs that wait: those that poll before they
// read, those that an interruption without a handler ends, and tail -f.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct WaitingClientTests {
    /// A program that reads /dev/relay0, with its output.
    final class Client {
      let process: ChildProcess
      private let out: FileDescriptor
      private var isReaped = false

      /// - Parameter command: for bash, which becomes the program; $NODE is the device.
      init(_ command: String, _ daemon: Daemon) throws {
        out = try outputFile("out")
        process = try ChildProcess(
          ["bash", "-c", "exec \(command)"], output: out.raw, error: out.raw,
          environment: ["NODE": daemon.device("relay0")])
      }

      var said: String { text(of: out.raw) }

      /// S sleeps, T is stopped, Z is over.
      var state: Substring {
        let stat = (try? run("cat", "/proc/\(process.pid)/stat").output) ?? ""
        return stat.components(separatedBy: ") ").last!.prefix(1)
      }

      /// Whether it has the device open and sleeps: in its read, or in its poll.
      var waitsForData: Bool {
        let files = try? run("bash", "-c", "readlink /proc/\(process.pid)/fd/*").output
        return files?.contains("relay0") == true && state == "S"
      }

      /// Its exit status, bounded in time.
      func end() throws -> Int {
        try eventually("it is over: \(said)", within: 20) { state == "Z" }
        isReaped = true
        return process.wait()
      }

      // Once it is reaped its number may be another process's.
      deinit {
        guard !isReaped else { return }
        process.signal(SIGKILL)
        _ = process.wait()
      }
    }

    /// Where cat ends, they wait for what comes later; the end is when the channel closes.
    @Test(arguments: [
      "pv -q $NODE",
      "socat -u OPEN:$NODE,rdonly STDOUT",
      "busybox ash -c 'while read -r line; do echo $line; done' <$NODE",
    ])
    func readerThatPollsFirstEndsWithTheChannel(_ command: String) throws {
      try requireInManual("pv, socat, nc")
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let client = try Client(command, daemon)
      try eventually("it has read what there is: \(client.said)") { client.said == "one\n" }
      #expect(try daemon.statistic("records_unread") == 0)
      try daemon.write("two\n")
      try eventually("it has waited for more: \(client.said)") { client.said == "one\ntwo\n" }
      try daemon.require("close", "relay")
      #expect(try client.end() == 0)
    }

    @Test(.onceIsEnough) func readerThatPollsFirstEndsBehindCat() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      #expect(try daemon.shell("cat \(daemon.device("relay0")) | pv -q").output == "one\n")
    }

    /// Into a pipe or a socket: nc.
    @Test func netcatEndsWithTheChannel() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let socket = "\(daemon.scratch.path)/nc"
      let listener = try Client("nc -l -U \(socket)", daemon)
      try eventually("it listens") { access(socket, F_OK) == 0 }
      let client = try Client("nc -N -U \(socket) <$NODE", daemon)
      try eventually("it has sent what there is") { listener.said == "one\n" }
      try daemon.write("two\n")
      try eventually("it has waited for more") { listener.said == "one\ntwo\n" }
      try daemon.require("close", "relay")
      #expect(try client.end() == 0)
      #expect(try listener.end() == 0)
    }

    /// Two in the slow guest: the kernel's answer is the same.
    private static func few(_ commands: [String]) -> [String] {
      Backend.underTest == .cuse ? Array(commands.prefix(2)) : commands
    }

    private static let endedByEINTR = [
      "mawk 1 $NODE", "sed p $NODE", "sort $NODE", "od -c $NODE", "gzip -c <$NODE",
      "busybox grep . $NODE",
    ]
    private static let retrying = [
      "cat $NODE", "grep . $NODE", "perl -ne print $NODE", "dd if=$NODE status=none",
      "busybox cat $NODE",
    ]

    /// Stops one that waits, and lets it go on.
    private func interrupt(_ client: Client) throws {
      try eventually("it waits") { client.waitsForData || client.state == "Z" }
      client.process.signal(SIGSTOP)
      try eventually("it is stopped") { client.state == "T" || client.state == "Z" }
      client.process.signal(SIGCONT)
    }

    @Test(arguments: few(endedByEINTR)) func readerWithoutRetryEndsWhenContinued(
      _ command: String
    ) throws {
      try requireInManual("mawk, sed, sort, od, gzip, busybox grep")
      let daemon = try Daemon("relay:global,read=block")
      let client = try Client(command, daemon)
      // It may sleep just before its read: then another one finds it there.
      try eventually("an interruption ends it: \(client.said)") {
        try interrupt(client)
        return client.state == "Z"
      }
      #expect(try client.end() != 0)
      // It costs no record.
      try daemon.write("one\n")
      #expect(try daemon.statistic("records_unread") == 1)
    }

    @Test(arguments: few(retrying)) func readerThatRetriesGoesOnWhenContinued(_ command: String)
      throws
    {
      let daemon = try Daemon("relay:global,read=block")
      // On relayfs busybox cat splices, into a pipe; here it writes to a file.
      let client = try Client(command, daemon)
      try interrupt(client)
      try daemon.write("one\n")
      try daemon.require("close", "relay")
      #expect(try client.end() == 0)
      #expect(client.said == "one\n")
    }

    /// A pipe in between waits for them: an interrupted read of a pipe is started again.
    @Test(.onceIsEnough) func readerWithoutRetryGoesOnBehindCat() throws {
      let daemon = try Daemon("relay:global,read=block")
      let client = try Client("bash -c 'cat $NODE | { echo $BASHPID; exec sed -u p; }'", daemon)
      try eventually("sed runs: \(client.said)") { client.said.hasSuffix("\n") }
      let sed = client.said.dropLast()
      func state() throws -> Substring {
        try run("cat", "/proc/\(sed)/stat").output.components(separatedBy: "(sed) ").last!.prefix(1)
      }
      try eventually("it waits") { try state() == "S" }
      try run("kill", "-STOP", "\(sed)")
      try eventually("it is stopped") { try state() == "T" }
      try run("kill", "-CONT", "\(sed)")
      try daemon.write("one\n")
      try daemon.require("close", "relay")
      #expect(try client.end() == 0)
      #expect(client.said == "\(sed)\none\none\n")
    }

    /// CUSE: it looks again each second. relayfs: it takes a file of size 0 for a truncated one.
    @Test func tailFollowsANodeOnly() throws {
      try requireInManual("tail")
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let tail = try Client("tail -f $NODE", daemon)
      try eventually("it has read what there is: \(tail.said)") { tail.said.hasPrefix("one\n") }
      guard Backend.underTest == .cuse else {
        #expect(try tail.end() != 0)
        #expect(tail.said.contains("file truncated"), "\(tail.said)")
        return
      }
      try daemon.write("two\n")
      try eventually("it has read what came later") { tail.said == "one\ntwo\n" }
    }
  }
}
