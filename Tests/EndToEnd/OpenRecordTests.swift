// SPDX-License-Identifier: Apache-2.0
// Records that a living process leaves open: who is named, and who shows what it holds. The process
// is Tests/Clients/open.c.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct OpenRecordTests {
    /// A process that left records open, and lives until it is ended.
    private final class Leaver {
      let process: ChildProcess
      let input: Pipe
      private let output: FileDescriptor

      init(_ daemon: Daemon, _ how: String..., prefix: [String] = []) throws {
        let library = try Library.get()
        let program = try library.program("open", Library.c, "open.c")
        input = try Pipe()
        output = try outputFile("output")
        process = try ChildProcess(
          prefix + [program] + how, input: input.read.raw, output: output.raw,
          environment: ["LD_LIBRARY_PATH": library.libraries, "RELAY_SOCKET": daemon.socket])
        try eventually("it says what it did") { text.hasSuffix("\n") }
      }

      var text: String { EndToEnd.text(of: output.raw) }

      deinit {
        process.signal(SIGKILL)
        _ = process.wait()
      }
    }

    private static let channel = "relay:global,subbuf_size=4KiB,n_subbufs=8,stall_timeout=100ms"

    private func lines(_ daemon: Daemon, _ leaver: Leaver) -> [Substring] {
      daemon.logText.split(separator: "\n").filter {
        $0.contains("process \(leaver.process.pid) (open) of user 0 has ")
      }
    }

    /// Of `relayctl producers`, the line of that process, split at spaces.
    private func line(_ daemon: Daemon, _ pid: Int32, as user: [String] = []) throws -> [Substring]
    {
      let finished = try daemon.relayctl(["producers"], prefix: user)
      #expect(finished.status == 0, "\(finished.error)")
      let line = finished.output.split(separator: "\n").first {
        $0.split(separator: " ").first == "\(pid)"
      }
      return line?.split(separator: " ") ?? []
    }

    @Test func handlerThatJumpsOutOfAWriteIsNamedOnce() throws {
      // Overwritten, so that there is always room to be interrupted in.
      let daemon = try Daemon(
        "relay:global,mode=overwrite,subbuf_size=4KiB,n_subbufs=64,"
          + "stall_timeout=100ms")
      let leaver = try Leaver(daemon, "jump", "relay")
      let fields = try line(daemon, leaver.process.pid)
      // Of 21 jumps, one at least is out of the copy.
      try #require(fields.count == 6)
      let records = try #require(Int(fields[4]))
      #expect((1...21).contains(records))
      #expect(fields[1...3] == ["root", "open", "relay"])
      #expect(Int(fields[5])! >= 1 && Int(fields[5])! <= records)
      try eventually("the log names it: \(daemon.logText)") { lines(daemon, leaver).count == 1 }
      #expect(
        lines(daemon, leaver)[0].contains(
          "has \(records) record\(records == 1 ? "" : "s") of channel relay open, one for over "
            + "100ms"))
      #expect(leaver.text == "0\n")
      let process = leaver.process.pid
      #expect(try line(daemon, process).count == 6)
    }

    @Test func reservationsThatAreNeverEndedAreShownAndNamed() throws {
      let daemon = try Daemon(Self.channel, "other:global,stall_timeout=never")
      let leaver = try Leaver(daemon, "leave", "relay", "3")
      let pid = leaver.process.pid
      #expect(leaver.text == "3 0\n")
      #expect(try line(daemon, pid) == ["\(pid)", "root", "open", "relay", "3", "3"])
      let statistics = try daemon.relayctl("stat", "relay").output
      #expect(statistics.contains(" \(pid):3 "), "\(statistics)")
      #expect(try daemon.statistic("subbufs", of: "relay") == 3)
      #expect(try daemon.statistic("pid", of: "relay") == Int(pid))
      let json = try daemon.relayctl("producers", "--json").output
      for text in [
        "\"pid\" : \(pid)", "\"user\" : \"root\"", "\"uid\" : 0", "\"command\" : \"open\"",
        "\"name\" : \"relay\"", "\"open_records\" : 3", "\"subbufs_held\" : 3", "\"cpu\" : 0",
      ] { #expect(json.contains(text), "\(text): \(json)") }
      try eventually("the log names it: \(daemon.logText)") { lines(daemon, leaver).count == 1 }
      #expect(
        lines(daemon, leaver)[0].contains(
          "has 3 records of channel relay open, one for over 100ms: 3 sub-buffers of 8 in a buffer "
            + "cannot be used again"))
      // The daemon looks again each 100 ms while a record is open.
      let second = try Leaver(daemon, "leave", "relay", "1")
      try eventually("the other one is named") { lines(daemon, second).count == 1 }
      let third = try Leaver(daemon, "leave", "relay", "1")
      try eventually("so is the third") { lines(daemon, third).count == 1 }
      #expect(lines(daemon, leaver).count == 1, "named once: \(daemon.logText)")
      // Never, where a record may stay open for ever.
      let patient = try Leaver(daemon, "leave", "other", "1")
      let fourth = try Leaver(daemon, "leave", "relay", "1")
      try eventually("the fourth is named") { lines(daemon, fourth).count == 1 }
      #expect(lines(daemon, patient).isEmpty)
      #expect(try line(daemon, patient.process.pid).suffix(3) == ["other", "1", "1"])
      leaver.process.signal(SIGKILL)
      try eventually("its records are gone with it") { try line(daemon, pid).isEmpty }
    }

    /// More than the log takes at once: the last one's turn comes when there is room again.
    @Test(.onceIsEnough) func everyProcessIsNamedHoweverManyThereAre() throws {
      let daemon = try Daemon(
        "relay:global,subbuf_size=4KiB,n_subbufs=64,stall_timeout=100ms")
      let leavers = try (0..<11).map { _ in try Leaver(daemon, "leave", "relay", "1") }
      try eventually("each is named: \(daemon.logText)", within: 60) {
        leavers.allSatisfy { lines(daemon, $0).count == 1 }
      }
      #expect(
        daemon.logText.contains(
          "1 more message left out in the last second, about records left open"))
    }

    /// Of 8 sub-buffers 6 are held; the others go round.
    @Test(arguments: ["discard", "overwrite"])
    func processThatLeavesRecordsOpenIsRefusedAndOthersGoOn(_ mode: String) throws {
      let daemon = try Daemon(Self.channel + ",mode=\(mode)")
      let leaver = try Leaver(daemon, "leave", "relay", "20")
      #expect(leaver.text == "6 \(EBUSY)\n")
      try eventually("what it lost is said: \(daemon.logText)") {
        daemon.logText.contains(
          "1 so far: the buffer is full, or a process that holds all its sub-buffers but two by "
            + "records it has not ended is refused; `relayctl producers` shows who holds how many")
      }
      let pid = leaver.process.pid
      #expect(try line(daemon, pid).suffix(2) == ["6", "6"])
      let library = try Library.get()
      let input = try Pipe()
      let output = try outputFile("output")
      let writer = try ChildProcess(
        [library.program("open", Library.c, "open.c"), "write", "relay"], input: input.read.raw,
        output: output.raw,
        environment: ["LD_LIBRARY_PATH": library.libraries, "RELAY_SOCKET": daemon.socket])
      defer {
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      // What the leaver did commit comes out once its open records were passed.
      try eventually("they are passed") {
        _ = try run("cat", daemon.device("relay0"))
        return try daemon.statistic("lost_stalled") == 6
      }
      for round in 1...20 {
        #expect(Glibc.write(input.write.raw, "\n", 1) == 1)
        let written = "ready\n" + String(repeating: "0 ready\n", count: round)
        try eventually("it says what became of record \(round): \(text(of: output.raw))") {
          text(of: output.raw) == written
        }
        #expect(try run("cat", daemon.device("relay0")).output.utf8.count == 4096)
      }
      #expect(try daemon.statistic("lost_full") == 1, "the leaver's")
    }

    @Test func writersThatEndTheirRecordsAreListedAndNotNamed() throws {
      let daemon = try Daemon(Self.channel, "spare:global")
      #expect(
        try daemon.relayctl("producers").output
          == "PID  USER  COMMAND  CHANNELS  OPEN RECORDS  SUB-BUFFERS HELD\n")
      #expect(try daemon.relayctl("producers", "--json").output == "[\n\n]\n")
      let pipe = try Pipe()
      let writer = try daemon.startWriter("relay", pipe)
      defer {
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      let expected = ["\(writer.pid)", "root", "relayctl", "relay", "0", "0"]
      #expect(try line(daemon, writer.pid).map(String.init) == expected)
      let statistics = try daemon.relayctl("stat", "relay").output
      #expect(!statistics.contains(":"), "\(statistics)")
    }

    /// What /proc shows him: everything, unless it is mounted to hide the processes of others.
    @Test(.onceIsEnough, arguments: ["", "hidepid=2"])
    func otherUsersSeeWhatProcShowsThem(_ option: String) throws {
      let mount =
        option.isEmpty
        ? []
        : [
          "unshare", "--mount", "sh", "-c", "mount -t proc -o \(option) proc /proc && exec \"$@\"",
          "sh",
        ]
      let daemon = try Daemon(Self.channel, prefix: mount)
      let leaver = try Leaver(daemon, "leave", "relay", "2")
      let user = ["setpriv", "--reuid=4001", "--regid=4001", "--clear-groups"]
      chmod(daemon.scratch.path, 0o755)
      let fields = try line(daemon, leaver.process.pid, as: user)
      #expect(fields.isEmpty == !option.isEmpty, "\(fields)")
      #expect(try line(daemon, leaver.process.pid).count == 6, "root sees all")
    }
  }
}
