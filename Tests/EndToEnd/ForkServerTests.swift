// SPDX-License-Identifier: Apache-2.0
// Servers that attach on behalf of their workers, who write after chroot and setuid, through
// librelay, in C. The tests themselves are Tests/Clients/fork_server.c.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ForkServerTests {
    /// Each of eight workers flushes what it wrote into a sub-buffer of its own.
    static let channels = ["relay", "second"].map { "\($0):global,subbuf_size=4KiB,n_subbufs=16" }

    private func program() throws -> String {
      try Library.get().program("fork_server", Library.c, "test.c", "fork_server.c")
    }

    /// A program that runs beside the test, and whose input the test may end.
    private final class Server {
      let process: ChildProcess
      private let input: Pipe
      private let output: FileDescriptor
      private let error: FileDescriptor

      init(_ arguments: [String], _ daemon: Daemon) throws {
        input = try Pipe()
        output = try outputFile("output")
        error = try outputFile("error")
        process = try ChildProcess(
          ["timeout", "60"] + arguments, input: input.read.raw, output: output.raw,
          error: error.raw,
          environment: [
            "RELAY_SOCKET": daemon.socket, "LD_LIBRARY_PATH": try Library.get().libraries,
          ])
      }

      /// The `index`-th line that it prints.
      func line(_ index: Int) throws -> String {
        var lines: [Substring] = []
        try eventually("it prints \(index + 1) lines: \(text(of: error.raw))") {
          // The last part is no line yet.
          lines = text(of: output.raw).split(separator: "\n", omittingEmptySubsequences: false)
          return lines.count > index + 1
        }
        return String(lines[index])
      }

      func say() { _ = Glibc.write(input.write.raw, "x", 1) }

      func end() { #expect(process.wait() == 0, "\(text(of: error.raw))") }
    }

    @Test(
      .onceIsEnough,
      arguments: [
        ("each_worker_needs_a_token", "worker\nworker\nworker\nmaster\n"),
        ("workers_of_several_threads_and_channels", String(repeating: "worker\n", count: 32)),
        ("a_worker_that_dies_inside_a_record", "behind\n"),
        ("a_child_of_a_worker_has_no_token", "worker\n"),
        ("children_that_no_handler_saw_have_no_token", "worker\n"),
        ("a_token_outlasts_a_stopped_daemon", "worker\n"),
        ("a_token_goes_with_its_descriptor", ""),
        ("tokens_that_nobody_uses_leave_nothing_behind", ""),
        ("what_has_no_token", ""),
        ("many_workers_at_once", String(repeating: "worker\n", count: 20)),
      ])
    func forkServer(_ test: String, _ output: String) throws {
      // Workers count to their server's user, who is root.
      let daemon = try Daemon(
        ForkServerTests.channels[0], ForkServerTests.channels[1],
        configuration: "max_producers_per_user = 3\n")
      let before = try daemon.descriptorCount()
      let finished = try Library.get().start([program(), test], daemon)
      #expect(finished.status == 0, "\(test): \(finished.error)")
      #expect(try run("cat", daemon.device("relay0")).output == output)
      let isOfSeveral = test.contains("several")
      #expect(
        try run("cat", daemon.device("second0")).output
          == (isOfSeveral ? String(repeating: "worker\n", count: 32) : ""))
      let dies = test.contains("dies")
      try eventually("its dead are swept") { try daemon.statistic("aborted") == (dies ? 1 : 0) }
      let death = "died while it wrote to channel relay: 1 unfinished record discarded\n"
      #expect(daemon.logText.contains(death) == dies)
      try eventually("the daemon has let go of its clients") {
        try daemon.descriptorCount() == before
      }
    }

    /// With its own number and user, of which the channel's `writers` knows nothing. In a guest of
    /// an older kernel it is looked up by number.
    @Test func workerIsAProducerOfItsOwn() throws {
      let daemon = try Daemon(ForkServerTests.channels[0])
      let server = try Server([program(), "a_worker_that_stays"], daemon)
      let line = try server.line(0)
      #expect(line.hasSuffix(" 65534"))
      let pid = try #require(line.split(separator: " ").first.map(String.init))
      let json = try daemon.relayctl("producers", "--json").output
      for expected in ["\"pid\" : \(pid),", "\"uid\" : 65534,", "\"command\" : \"fork_server\""] {
        #expect(json.contains(expected), "\(json)")
      }
      server.say()
      #expect(try server.line(1) == "0 0")
      server.end()
      try eventually("nobody writes any more") {
        try !daemon.relayctl("producers", "--json").output.contains("\(pid)")
      }
    }

    @Test(.onceIsEnough) func tokenOfAnotherDaemonIsWorthNothing() throws {
      let first = try Daemon(ForkServerTests.channels[0])
      let server = try Server([program(), "a_token_of_a_daemon_that_is_gone"], first)
      #expect(try server.line(0) == "ready")
      first.end(SIGKILL)
      let daemon = try Daemon(ForkServerTests.channels[0], in: first.scratch)
      server.say()
      server.end()
      #expect(try run("cat", daemon.device("relay0")).output == "worker\nmaster\nworker\n")
    }

    /// A worker that can ask the next daemon is refused there; one that cannot reach it has its
    /// records refused after 10 s.
    @Test(.onceIsEnough, arguments: ["a_worker_that_is_in_no_chroot", "a_worker_that_stays"])
    func workerWhoseDaemonDiedIsRefusedAndCounts(_ test: String) throws {
      let first = try Daemon(ForkServerTests.channels[0])
      chmod(first.scratch.path, 0o755)
      let server = try Server([program(), test], first)
      _ = try server.line(0)
      first.end(SIGKILL)
      let daemon = try Daemon(ForkServerTests.channels[0], in: first.scratch)
      let refusal = try server.line(1)
      #expect(refusal == "\(-ENOTCONN) 1")
      server.end()
      #expect(try daemon.statistic("records_written") == 0)
    }

    /// What is adopted needs no path.
    @Test(.onceIsEnough) func workerInAChrootGoesOnWhereItsMemoryIsAdopted() throws {
      let daemon = try Daemon(ForkServerTests.channels[0], options: ["--hold"])
      let server = try Server([program(), "a_worker_that_stays"], daemon)
      let line = try server.line(0)
      let pid = try #require(line.split(separator: " ").first.map(String.init))
      let holder = daemon.process.pid
      let first = try run("pgrep", "-P", "\(holder)").output
      kill(try #require(Int32(first.dropLast())), SIGKILL)
      try eventually("the next one is ready: \(daemon.logText)") {
        daemon.logText.components(separatedBy: "ready:").count > 2
      }
      let before = try daemon.statistic("records_written")
      try eventually("it writes here") { try daemon.statistic("records_written") > before + 10 }
      let json = try daemon.relayctl("producers", "--json").output
      #expect(json.contains("\"pid\" : \(pid),") && json.contains("\"uid\" : 65534,"), "\(json)")
      server.say()
      #expect(try server.line(1) == "0 0")
      server.end()
      #expect(try daemon.statistic("lost_restart") == 0)
    }

    @Test(.onceIsEnough) func everyTestIsRun() throws {
      #expect(try Library.tests("fork_server.c").count == 13)
    }
  }
}
