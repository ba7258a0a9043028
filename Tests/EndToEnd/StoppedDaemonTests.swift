// SPDX-License-Identifier: Apache-2.0
// Readers while relayd does not run: an open(2) that waits, and what its caller gets, whatever
// happens. Nothing hangs.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct StoppedDaemonTests {
    /// A relayd that is stopped, and a reader that waits for its answer.
    private func stoppedDaemon(
      handles: Bool = false
    ) throws -> (daemon: Daemon, waiter: WaitingStateTests.Waiter) {
      let daemon = try Daemon("wait:global,read=block")
      try stop(daemon)
      return (daemon, try WaitingStateTests.Waiter(.opening, daemon, handles: handles))
    }

    private func stop(_ daemon: Daemon) throws {
      daemon.process.signal(SIGSTOP)
      try eventually("relayd is stopped") {
        try run("cat", "/proc/\(daemon.process.pid)/stat").output.contains(") T ")
      }
    }

    @Test func data() throws {
      let daemon = try Daemon("wait:global,read=block")
      let pipe = try Pipe()
      let writer = try daemon.startWriter("wait", pipe)
      try stop(daemon)
      let waiter = try WaitingStateTests.Waiter(.opening, daemon)
      #expect(write(pipe.write.raw, "one\n", 4) == 4)
      #expect(waiter.said == ["ready"])
      daemon.process.signal(SIGCONT)
      #expect(try waiter.result() == ["read 4"])
      writer.signal(SIGTERM)
      _ = writer.wait()
    }

    /// Another thread of relayd closes the channel than answers the open.
    @Test func close() throws {
      let (daemon, waiter) = try stoppedDaemon()
      let closer = try ChildProcess(
        [program("relayctl"), "close", "wait"], environment: ["RELAY_SOCKET": daemon.socket])
      daemon.process.signal(SIGCONT)
      #expect(closer.wait() == 0)
      let result = try waiter.result()
      #expect(result == ["read 0"] || result == ["open ENOENT"], "\(result)")
    }

    @Test func reset() throws {
      let (daemon, waiter) = try stoppedDaemon()
      let resetter = try ChildProcess(
        [program("relayctl"), "reset", "wait"], environment: ["RELAY_SOCKET": daemon.socket])
      daemon.process.signal(SIGCONT)
      #expect(resetter.wait() == 0)
      try daemon.write("after\n", to: "wait")
      #expect(try waiter.result() == ["read 6"])
    }

    @Test(arguments: [SIGKILL, SIGTERM])
    func theReaderIsKilled(_ signal: CInt) throws {
      let (daemon, waiter) = try stoppedDaemon()
      waiter.process.signal(signal)
      #expect(try waiter.awaitEnd() == 128 + Int(signal), "without relayd's help")
      daemon.process.signal(SIGCONT)
      try daemon.write("next\n", to: "wait")
      #expect(
        try run("timeout", "20", "head", "-c", "5", daemon.device("wait0")).output == "next\n")
    }

    @Test func aBlockedReaderThatIsKilledTakesNoRecord() throws {
      let daemon = try Daemon("wait:global,read=block")
      let pipe = try Pipe()
      let writer = try daemon.startWriter("wait", pipe)
      let waiter = try WaitingStateTests.Waiter(.read, daemon)
      try stop(daemon)
      #expect(write(pipe.write.raw, "one\n", 4) == 4)
      waiter.process.signal(SIGKILL)
      try eventually("it waits for nothing but its answer") { waiter.statCode == "D" }
      daemon.process.signal(SIGCONT)
      #expect(try waiter.awaitEnd() == 128 + Int(SIGKILL))
      #expect(
        try run("timeout", "20", "head", "-c", "4", daemon.device("wait0")).output == "one\n")
      writer.signal(SIGTERM)
      _ = writer.wait()
    }

    /// open(2) waits on, and its caller runs the handler when it is answered.
    @Test func aHandledSignalWaitsToo() throws {
      let (daemon, waiter) = try stoppedDaemon(handles: true)
      #expect(waiter.statCode == "S")
      waiter.process.signal(SIGTERM)
      try eventually("the signal has reached it") { waiter.statCode == "D" }
      #expect(waiter.said == ["ready"])
      daemon.process.signal(SIGCONT)
      try daemon.write("one\n", to: "wait")
      #expect(try waiter.result().last == "read 4")
    }

    /// It stops when it is answered.
    @Test func theReaderIsStopped() throws {
      let (daemon, waiter) = try stoppedDaemon()
      waiter.process.signal(SIGSTOP)
      try eventually("the signal has reached it") { waiter.statCode == "D" }
      daemon.process.signal(SIGCONT)
      try eventually("it is stopped") { waiter.statCode == "T" }
      waiter.process.signal(SIGCONT)
      try eventually("it waits for data") { waiter.statCode == "S" }
      try daemon.write("one\n", to: "wait")
      #expect(try waiter.result() == ["read 4"])
    }

    /// Another thread of relayd ends it than answers the open.
    @Test func theDaemonIsTerminated() throws {
      let (daemon, waiter) = try stoppedDaemon()
      daemon.process.signal(SIGTERM)
      daemon.process.signal(SIGCONT)
      #expect(daemon.end() == 0)
      let result = try waiter.result()
      let ends = ["ENOENT", "ENOTCONN", "ECONNABORTED"]
      let possible = ["read 0"] + ends.flatMap { ["open \($0)", "read \($0)"] }
      #expect(result.count == 1 && possible.contains(result[0]), "\(result)")
    }

    @Test func theDaemonIsKilled() throws {
      let (daemon, waiter) = try stoppedDaemon()
      daemon.end(SIGKILL)
      #expect(try waiter.result() == ["open ECONNABORTED"])
    }

    @Test func theConnectionIsAborted() throws {
      let (daemon, waiter) = try stoppedDaemon()
      try daemon.abort("wait0")
      #expect(try waiter.result() == ["open ECONNABORTED"])
      daemon.process.signal(SIGCONT)
      try eventually("it is said") { daemon.logText.contains("somebody") }
    }
  }
}
