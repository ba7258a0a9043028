// SPDX-License-Identifier: Apache-2.0
// After somebody took a relayd's device or mount away: what it says, and how it is brought back.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct AbortTests {
    private func served(_ daemon: Daemon, _ channel: String) throws -> Bool {
      try daemon.write("\(channel)\n", to: channel)
      return try run("timeout", "20", "cat", daemon.device("\(channel)0")).output
        == "\(channel)\n"
    }

    /// Ways in which somebody takes a device's file away.
    static let ways = Backend.underTest == .cuse ? ["abort"] : ["abort", "umount", "umount -l"]

    private func takeAway(_ daemon: Daemon, _ way: String) throws {
      if way == "abort" { return try daemon.abort("relay0") }
      let finished = try daemon.shell("\(way) \(daemon.mount)")
      #expect(finished.status == 0, "\(finished.error)")
    }

    private func awaitFiles(_ daemon: Daemon, _ count: Int = 1) throws {
      let said = "the files that somebody took away are there again; open them anew"
      try eventually("they are there again: \(daemon.logText)") {
        daemon.logText.components(separatedBy: said).count > count
      }
    }

    @Test(arguments: ways) func aFileThatIsTakenAwayComesBackWithItsData(_ way: String) throws {
      let daemon = try Daemon("relay:global", "other:global")
      try daemon.write("kept\n")
      try takeAway(daemon, way)
      try awaitFiles(daemon)
      let gone = Backend.underTest == .cuse ? "/dev/relay0" : daemon.mount
      let how = Backend.underTest == .cuse ? "aborted" : "unmounted or aborted"
      #expect(daemon.logText.contains("somebody \(how) \(gone): it is"))
      #expect(try run("timeout", "20", "cat", daemon.device("relay0")).output == "kept\n")
      #expect(try served(daemon, "other"))
      #expect(try served(daemon, "relay"))
      // And again.
      try takeAway(daemon, way)
      try awaitFiles(daemon, 2)
      #expect(try served(daemon, "relay"))
      try daemon.require("create", "late", "--global", "--keep")
      #expect(try served(daemon, "late"))
      #expect(daemon.end() == 0)
      if Backend.underTest == .fuse {
        #expect(!(try run("cat", "/proc/self/mounts").output.contains(daemon.mount)))
      }
    }

    /// Reads and polls that wait.
    @Test(arguments: ways.filter { !$0.hasPrefix("umount") })
    func readersThatWaitGetAnErrorAndOpenAnew(_ way: String) throws {
      let daemon = try Daemon("relay:global,read=block")
      let readers = try [
        "read -N 1 < $0; echo $?",
        "exec python3 -c 'import select, sys, os; "
          + "p = select.poll(); f = os.open(sys.argv[1], 0); p.register(f, 1); "
          + "print(p.poll()[0][1])' $0",
      ].map { script in
        let output = try outputFile("output")
        let child = try ChildProcess(
          ["bash", "-c", script, daemon.device("relay0")], output: output.raw)
        try eventually("it waits") {
          try run("ls", "-l", "/proc/\(child.pid)/fd").output.contains(daemon.device("relay0"))
        }
        return (child, output.take())
      }
      defer { for (_, output) in readers { close(output) } }
      try takeAway(daemon, way)
      #expect(readers[0].0.wait() == 0)
      #expect(text(of: readers[0].1) == "1\n")
      #expect(readers[1].0.wait() == 0)
      #expect(Int(text(of: readers[1].1).dropLast()).map { $0 & Int(POLLERR) } == Int(POLLERR))
      try awaitFiles(daemon)
      #expect(try daemon.statistic("records_written") == 0)
      try daemon.write("next\n")
      #expect(try run("timeout", "20", "head", "-c5", daemon.device("relay0")).output == "next\n")
    }

    /// After umount -l the old files still work for who has them open; both read from one cursor.
    @Test(.onceIsEnough) func aDetachedMountServesWhoHasItOpen() throws {
      let daemon = try Daemon("relay:global")
      let old = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY)
      #expect(try run("umount", "-l", daemon.mount).status == 0)
      try awaitFiles(daemon)
      try daemon.write("first\n")
      var bytes = [UInt8](repeating: 0, count: 100)
      #expect(read(old.raw, &bytes, 100) == 6)
      #expect(try served(daemon, "relay"))
      #expect(try daemon.relayctl("list", "--json").status == 0)
      close(old.take())
      #expect(try served(daemon, "relay"), "the old one's end is not the new one's")
      #expect(daemon.end() == 0)
    }

    /// Writers go on, and the next relayd has what they wrote.
    @Test(.onceIsEnough) func relaydEndsWithAFailureWhereItsFilesCannotBeMadeAgain() throws {
      let scratch = try Scratch()
      let daemon = try Daemon("relay:global", options: ["--hold"], in: scratch)
      try daemon.write("kept\n")
      let away = "\(scratch.path).away"
      let took = try daemon.shell("mv \(scratch.path) \(away) && umount \(away)/mount")
      #expect(took.status == 0, "\(took.error)")
      let said = "are still gone after 6 tries: mount point \(daemon.mount): No such file"
      try eventually("it gives up: \(daemon.logText)") { daemon.logText.contains(said) }
      try eventually("it ends") { daemon.logText.contains(") ended with 1; ") }
      #expect(rename(away, scratch.path) == 0)
      try eventually("the next one has the file") { access(daemon.device("relay0"), F_OK) == 0 }
      #expect(try run("timeout", "20", "cat", daemon.device("relay0")).output == "kept\n")
    }

    @Test(arguments: [SIGTERM, SIGKILL]) func whatIsStartedAgainServesAgain(_ end: CInt) throws {
      let scratch = try Scratch()
      let daemon = try Daemon("relay:global", in: scratch)
      if Backend.underTest == .cuse { try daemon.abort("relay0") }
      daemon.end(end)
      // A killed one leaves its mount behind, dead.
      let isLeft = Backend.underTest == .fuse && end == SIGKILL
      var status = stat()
      #expect((stat(daemon.mount, &status) == -1 && errno == ENOTCONN) == isLeft)
      let next = try Daemon("relay:global", in: scratch)
      #expect(try served(next, "relay"))
      let removed = "removed the mount that a killed relayd left on \(daemon.mount)"
      #expect(next.logText.contains(removed) == isLeft)
    }
  }
}
