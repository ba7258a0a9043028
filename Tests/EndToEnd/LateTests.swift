// SPDX-License-Identifier: Apache-2.0
// Programs that attach before relayd or their channel is there, and while relayd is restarted. The
// tests themselves are Tests/Clients/late.c.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct LateTests {
    private func start(_ test: String, _ socket: String, output: CInt? = nil) throws -> (
      process: ChildProcess, error: () -> String
    ) {
      let library = try Library.get()
      let program = try library.program("late", Library.c, "test.c", "late.c")
      let error = try outputFile("error")
      let raw = error.raw
      let process = try ChildProcess(
        [program, test], output: output, error: raw,
        environment: ["LD_LIBRARY_PATH": library.libraries, "RELAY_SOCKET": socket])
      return (process, { [error = Box(error)] in text(of: error.raw) })
    }

    /// Keeps a descriptor open for a closure.
    private final class Box {
      private let file: FileDescriptor
      var raw: CInt { file.raw }
      init(_ file: consuming FileDescriptor) { self.file = file }
    }

    private func check(
      _ test: String, _ socket: String, rest: @escaping () throws -> Void = {}
    ) throws {
      let (process, error) = try start(test, socket)
      let status = try process.wait(doing: [rest])
      #expect(status == 0, "\(error())")
    }

    @Test func programThatStartsBeforeRelaydWaitsForIt() throws {
      let scratch = try Scratch()
      var daemon: Daemon?
      try check("a_program_that_starts_before_relayd_waits_for_it", "\(scratch.path)/control") {
        daemon = try Daemon("relay:global", in: scratch)
      }
      #expect(try run("cat", #require(daemon).device("relay0")).output == "late\n")
    }

    @Test func programThatStartsBeforeTheChannelWaitsForIt() throws {
      let daemon = try Daemon("relay:global")
      try check("a_program_that_starts_before_the_channel_waits_for_it", daemon.socket) {
        try daemon.require("create", "made", "--global", "--keep")
      }
      #expect(try run("cat", daemon.device("made0")).output == "late\n")
    }

    @Test func stoppedRelaydIsWaitedFor() throws {
      let daemon = try Daemon("relay:global")
      daemon.process.signal(SIGSTOP)
      try check("a_stopped_relayd_is_waited_for", daemon.socket) {
        daemon.process.signal(SIGCONT)
      }
      #expect(try run("cat", daemon.device("relay0")).output == "late\n")
    }

    @Test func whatNoTimeChangesIsSaidAtOnce() throws {
      let daemon = try Daemon("relay:global")
      chmod(daemon.scratch.path, 0o755)
      try check("what_no_time_changes_is_said_at_once", daemon.socket)
    }

    /// Of relayds that end in each way, and one that is there again at once.
    @Test func attachingGoesOnThroughRestarts() throws {
      let held = try HeldDaemon("relay:global")
      let output = try outputFile("output")
      let (process, error) = try start(
        "attaching_goes_on_through_restarts", held.daemon.socket, output: output.raw)
      defer {
        process.signal(SIGKILL)
        _ = process.wait()
      }
      for round in 0..<10 {
        let before = text(of: output.raw).utf8.count
        try eventually("it attaches: \(error())") {
          try #require(kill(process.pid, 0) == 0)
          return text(of: output.raw).utf8.count > before + 20
        }
        try held.restart(round % 2 == 0 ? SIGKILL : SIGTERM)
      }
      held.daemon.end()
      #expect(process.wait() == 0, "\(error())")
    }

    @Test func everyTestIsRun() throws {
      #expect(try Library.tests("late.c").count == 5)
    }
  }
}
