// SPDX-License-Identifier: Apache-2.0
// The row of relay(4)'s table of clients about programs whose wait for data is interrupted without
// a signal handler: those that end, and those that go on. The kernel ends the read with EINTR
// whatever interrupts it; no server of CUSE or FUSE can have it started again.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct InterruptedClientTests {
    private static let endedByEINTR = [
      "mawk 1 $NODE", "sed p $NODE", "sort $NODE", "od -c $NODE", "gzip -c <$NODE",
      "busybox grep . $NODE",
    ]
    /// On relayfs busybox cat splices, into a pipe; here it writes to a file.
    private static let retrying = [
      "cat $NODE", "grep . $NODE", "perl -ne print $NODE", "dd if=$NODE status=none",
      "python3 -c \"import sys; print(open(sys.argv[1]).read(), end=str())\" $NODE",
      "busybox cat $NODE",
    ]

    /// In the slow guest two programs are stopped, and one is interrupted in the other ways: the
    /// kernel's answer is the same.
    private static func pairs(_ commands: [String]) -> [(String, Interruption)] {
      guard Backend.underTest == .fuse else {
        return commands.prefix(2).map { ($0, .stop) }
          + [(commands[0], .attach), (commands[0], .seize)]
      }
      return commands.flatMap { [($0, .stop), ($0, .attach), ($0, .seize)] }
    }

    private static func frozen(_ commands: [String]) -> [String] {
      Backend.underTest == .cuse ? [commands[0]] : commands
    }

    private func requireEnd(of command: String, by interruption: Interruption) throws {
      try requireInManual("mawk, sed, sort, od, gzip, busybox grep")
      let daemon = try Daemon("relay:global,read=block")
      let client = try WaitingClient(command, daemon)
      // It may sleep just before its read: then another one finds it there.
      try eventually("an interruption ends it: \(client.said)") {
        try client.interrupt(by: interruption)
        return client.state == "Z"
      }
      #expect(try client.end() != 0)
      let saysWhy = client.said.contains("Interrupted system call")
      #expect(saysWhy != command.hasPrefix("busybox"), "\(client.said)")
      // It costs no record.
      try daemon.write("one\n")
      #expect(try daemon.statistic("records_unread") == 1)
    }

    private func requireGoingOn(_ command: String, after interruption: Interruption) throws {
      let daemon = try Daemon("relay:global,read=block")
      let client = try WaitingClient(command, daemon)
      try client.interrupt(by: interruption)
      try daemon.write("one\n")
      try daemon.require("close", "relay")
      #expect(try client.end() == 0)
      #expect(client.said == "one\n")
    }

    @Test(arguments: pairs(endedByEINTR)) func readerWithoutRetryEndsWhenInterrupted(
      _ command: String, _ interruption: Interruption
    ) throws {
      try requireEnd(of: command, by: interruption)
    }

    @Test(arguments: pairs(retrying)) func readerThatRetriesGoesOnWhenInterrupted(
      _ command: String, _ interruption: Interruption
    ) throws {
      try requireGoingOn(command, after: interruption)
    }

    @Test(
      .enabled(if: ControlGroup.freezerIsToBeHad, "needs a control group that can be frozen"),
      arguments: frozen(endedByEINTR))
    func readerWithoutRetryEndsWhenFrozen(_ command: String) throws {
      try requireEnd(of: command, by: .freezer)
    }

    @Test(
      .enabled(if: ControlGroup.freezerIsToBeHad, "needs a control group that can be frozen"),
      arguments: frozen(retrying))
    func readerThatRetriesGoesOnWhenFrozen(_ command: String) throws {
      try requireGoingOn(command, after: .freezer)
    }

    @Test(.onceIsEnough) func interruptedReaderLosesWhatItHadNotWritten() throws {
      let daemon = try Daemon("relay:global,read=block")
      try daemon.write("one\n")
      let sort = try WaitingClient("sort $NODE", daemon)
      try eventually("it has read what there is") { try daemon.statistic("records_unread") == 0 }
      try eventually("an interruption ends it: \(sort.said)") {
        try sort.interrupt(by: .stop)
        return sort.state == "Z"
      }
      #expect(!sort.said.contains("one"))
      #expect(try daemon.statistic("records_read") == 1)
    }

    /// A pipe in between waits for them: an interrupted read of a pipe is started again.
    @Test(.onceIsEnough) func readerWithoutRetryGoesOnBehindCat() throws {
      let daemon = try Daemon("relay:global,read=block")
      let client = try WaitingClient(
        "bash -c 'cat $NODE | { echo $BASHPID; exec sed -u p; }'", daemon)
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
  }
}
