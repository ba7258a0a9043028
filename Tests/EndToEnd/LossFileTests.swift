// SPDX-License-Identifier: Apache-2.0
// What is unread when a relayd ends, in memory that nobody hands to the next one, is in a file, and
// counted by the next relayd: once, whether the producers live on or not.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct LossFileTests {
    /// The lines of the file, but for comments.
    private func lost(_ daemon: Daemon) -> String {
      (try? run("sed", "/^#/d; /^running$/d", "\(daemon.socket).lost").output) ?? ""
    }

    @Test(arguments: [SIGTERM, SIGINT])
    func withoutAProducerTheNextRelaydCountsWhatTheFileSays(_ signal: CInt) throws {
      let first = try Daemon("relay:global", "other:global")
      try first.write("one\ntwo\nthree\n")
      try first.write("one\n", to: "other")
      #expect(try run("head", "-c", "4", first.device("relay0")).output == "one\n")
      first.end(signal)
      #expect(first.logText.contains("channel relay, CPU 0: 2 unread records in memory "))
      let lines = lost(first).split(separator: "\n")
      #expect(lines.count == 2 && lines[0].hasPrefix("relay 0 ") && lines[0].hasSuffix(" 2"))
      let second = try Daemon("relay:global", in: first.scratch)
      #expect(try second.statistic("lost_restart") == 2)
      #expect(
        second.logText.contains(
          "channel relay: 2 records that nobody had read when the last relayd ended are lost"))
      #expect(second.logText.contains("channel other: 1 record that nobody had read"))
      #expect(lost(second).contains("other 0 ") && !lost(second).contains("relay 0 "))
      // Not known by this one, and not forgotten by it.
      second.end()
      let third = try Daemon("relay:global", in: first.scratch)
      #expect(try third.statistic("lost_restart") == 2, "never told to a reader of the stream")
      try third.require("create", "other", "--global", "--keep")
      #expect(try third.statistic("lost_restart", of: "other") == 1)
      #expect(lost(third) == "")
    }

    @Test func withALivingProducerEachRecordIsCountedOnce() throws {
      let channel = "relay:global,subbuf_size=64KiB,n_subbufs=8"
      let first = try Daemon(channel)
      let input = try Pipe()
      let writer = try first.startWriter("relay", input)
      var total = 0
      func write(_ count: Int) {
        for _ in 0..<count { _ = Glibc.write(input.write.raw, "line 67\n", 8) }
        total += count
      }
      write(100)
      try eventually("it writes") { try first.statistic("records_written") == 100 }
      #expect(try run("grep", "-c", "^running$", "\(first.socket).lost").output == "1\n")
      first.end(SIGKILL)
      // Its store is not marked: nobody could.
      write(50)
      let second = try Daemon(channel, in: first.scratch)
      #expect(second.logText.contains("the last relayd was killed, and its memory was not handed"))
      try eventually("it moved over") {
        write(10)
        return try second.statistic("records_written") > 0
      }
      func all(_ daemon: Daemon) throws -> Int {
        try daemon.statistic("lost_restart") + daemon.statistic("records_written")
      }
      try eventually("all is there") { try all(second) == total }
      let before = try second.statistic("records_unread") + second.statistic("lost_restart")
      second.end(SIGTERM)
      #expect(lost(second).hasSuffix(" \(before)\n"), "\(lost(second))")
      let third = try Daemon(channel, in: first.scratch)
      #expect(try third.statistic("lost_restart") == total, "\(third.logText)")
      // The refused ones are relayctl's to say; none of the old ones is counted twice.
      let old = total
      write(2000)
      try eventually("it moved over") { try third.statistic("records_written") > 0 }
      writer.signal(SIGTERM)
      _ = writer.wait()
      #expect(try third.statistic("lost_restart") == old)
      third.end()
      #expect(!third.logText.contains("was killed"))
    }

    /// The message that counts them is enough.
    @Test func lossesOfTheFileAreLoggedOnce() throws {
      let first = try Daemon("relay:global")
      try first.write("one\ntwo\n")
      first.end(SIGTERM)
      let second = try Daemon("relay:global", in: first.scratch)
      // Its end has relayd look at the counters.
      try second.write("three\n")
      #expect(try second.statistic("lost_restart") == 2)
      second.end(SIGTERM)
      #expect(second.logText.contains("2 records that nobody had read when the last relayd ended"))
      #expect(!second.logText.contains("records are being lost"), "\(second.logText)")
      #expect(!second.logText.contains("has ended"), "\(second.logText)")
    }

    /// It counts nothing of the other's, and says nothing of it.
    @Test func relaydThatCannotServeTheSocketLeavesTheFileAlone() throws {
      let scratch = try Scratch()
      let path = "\(scratch.path)/control.lost"
      try run("bash", "-c", "echo 'other 0 1f 5' > \(path)")
      let first = try Daemon("relay:global", in: scratch)
      let before = try run("cat", path).output
      #expect(before.contains("running\n") && before.contains("other 0 1f 5\n"))
      let mount = "\(scratch.path)/second"
      mkdir(mount, 0o755)
      let second = try run(
        [program("relayd"), "--channel", "other:global"] + Daemon.arguments(first.socket, mount))
      #expect(second.status == 1 && second.error.contains("already serves this socket"))
      #expect(!second.error.contains("lost"), "\(second.error)")
      #expect(!second.error.contains("was killed"), "\(second.error)")
      #expect(try run("cat", path).output == before)
    }

    @Test func aMemoryThatIsHandedOverIsNotLost() throws {
      let held = try HeldDaemon("relay:global")
      let daemon = held.daemon
      try daemon.write("one\ntwo\n")
      #expect(try run("head", "-c", "4", daemon.device("relay0")).output == "one\n")
      try held.restart(SIGTERM) { #expect(lost(daemon).hasSuffix(" 1\n")) }
      #expect(lost(daemon) == "")
      #expect(try daemon.statistic("lost_restart") == 0)
      #expect(try daemon.statistic("records_read") == 1)
      #expect(try run("cat", daemon.device("relay0")).output == "two\n")
      try held.restart(SIGTERM)
      #expect(lost(daemon) == "")
      #expect(try daemon.statistic("records_written") == 2)
      #expect(!daemon.logText.contains("lost"), "\(daemon.logText)")
      // The holder's end empties its store.
      try daemon.write("three\n")
      daemon.end(SIGTERM)
      #expect(try Daemon("relay:global", in: daemon.scratch).statistic("lost_restart") == 1)
    }

    /// Two unread records are lost with the memory of a relayd that ended.
    private func loseTwo() throws -> Scratch {
      let first = try Daemon("relay:global")
      try first.write("one\ntwo\n")
      first.end(SIGTERM)
      return first.scratch
    }

    /// As where it is killed after it counted them, and before the file says so.
    @Test func lossesOfAFileThatStaysAreCountedOnce() throws {
      let scratch = try loseTwo()
      // What stands where the new file is made.
      let obstacle = "\(scratch.path)/control.lost.part"
      mkdir(obstacle, 0o755)
      let held = try HeldDaemon("relay:global", in: scratch)
      #expect(try held.daemon.statistic("lost_restart") == 2)
      #expect(lost(held.daemon).hasSuffix(" 2\n"), "the file could not be changed")
      try held.restart(SIGKILL) { rmdir(obstacle) }
      #expect(try held.daemon.statistic("lost_restart") == 2)
      #expect(lost(held.daemon) == "")
      try held.restart(SIGKILL)
      #expect(try held.daemon.statistic("lost_restart") == 2)
    }

    /// To a reader that is there, with no record behind it, and by a relayd that is then killed.
    @Test func aFollowerIsToldOfALossOnce() throws {
      let held = try HeldDaemon("relay:global", in: try loseTwo())
      let follower = try Follower(held.daemon, ["--lost"])
      let told = "2 records lost here: by relayd's restart"
      try eventually("it is told") { follower.error.contains(told) }
      for line in ["three\n", "four\n"] {
        try held.restart(SIGKILL)
        try held.daemon.write(line)
        try eventually("it goes on: \(follower.error)") { follower.output.hasSuffix(line) }
      }
      #expect(follower.error.components(separatedBy: told).count == 2, "\(follower.error)")
      try held.daemon.require("close", "relay")
      #expect(follower.wait() == 0)
      #expect(follower.error.contains("channel relay: 2 records read, 2 lost"))
    }

    @Test func aFileOfAnotherUsersIsNotBelieved() throws {
      let scratch = try Scratch()
      let path = "\(scratch.path)/control.lost"
      try run("bash", "-c", "echo 'relay 0 1f 5' > \(path); chown 65534 \(path)")
      let daemon = try Daemon("relay:global", in: scratch)
      #expect(try daemon.statistic("lost_restart") == 0)
      #expect(daemon.logText.contains("which is not a file of relayd's user"))
    }

    private final class Started {
      let process: ChildProcess
      private let log: FileDescriptor
      var logText: String { text(of: log.raw) }

      init(_ process: ChildProcess, _ log: consuming FileDescriptor) {
        self.process = process
        self.log = log
      }
    }

    /// As systemd starts it: the relayd itself waits, and ends at once when it is asked to.
    @Test func aRelaydOfSystemdsThatKeepsDyingWaitsBeforeItBegins() throws {
      let scratch = try Scratch()
      func start() throws -> Started {
        let log = try outputFile("log")
        mkdir("\(scratch.path)/mount", 0o755)
        let command = "SYSTEMD_EXEC_PID=$$ RUNTIME_DIRECTORY=\(scratch.path) exec \"$@\""
        let process = try ChildProcess(
          ["bash", "-c", command, "bash", program("relayd"), "--channel", "relay:global"]
            + Daemon.arguments("\(scratch.path)/control", "\(scratch.path)/mount"), error: log.raw)
        return Started(process, log)
      }
      let file = "\(scratch.path)/short-lives"
      for lives in 1...5 {
        let process = try start()
        try eventually("it begins: \(process.logText)") {
          try run("cat", file).output == "\(lives)\n"
        }
        process.process.signal(SIGKILL)
        _ = process.process.wait()
        #expect(!process.logText.contains("waits"))
      }
      let process = try start()
      try eventually("it waits") {
        process.logText.contains("relayd waits 1 s before it goes on: the last 5 ended")
      }
      try eventually("it is ready") { process.logText.contains("ready") }
      try eventually("it has lived long enough") { access(file, F_OK) != 0 }
      process.process.signal(SIGTERM)
      #expect(process.process.wait() == 0)
      try run("bash", "-c", "echo 20 > \(file)")
      let other = try start()
      try eventually("it waits") { other.logText.contains("relayd waits 30 s") }
      other.process.signal(SIGTERM)
      #expect(other.process.wait() == 0)
      #expect(!other.logText.contains("ready"))
      // A later SIGHUP has one go on.
      try run("bash", "-c", "echo 20 > \(file)")
      let third = try start()
      try eventually("it waits") { third.logText.contains("relayd waits 30 s") }
      third.process.signal(SIGHUP)
      try eventually("it is ready", within: 20) { third.logText.contains("ready") }
      third.process.signal(SIGTERM)
      #expect(third.process.wait() == 0)
    }
  }
}
