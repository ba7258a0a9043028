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

    @Test(.enabled(if: Backend.underTest == .cuse))
    func anAbortedNodeIsGoneUntilItsChannelIsOpenedAgain() throws {
      let daemon = try Daemon(
        configuration: "[channel.relay]\nglobal = true\n[channel.other]\nglobal = true\n")
      try daemon.write("lost\n")
      try daemon.abort("relay0")
      let said = "somebody aborted /dev/relay0: it is gone until its channel is opened again"
      try eventually("it is said") { daemon.logText.contains(said) }
      #expect(access("/dev/relay0", F_OK) == -1)
      #expect(try served(daemon, "other"), "the others go on")
      try daemon.write("kept\n")
      #expect(try daemon.statistic("records_unread") == 2, "it takes records all the same")
      try daemon.require("close", "relay")
      #expect(daemon.logText.contains("nobody read 2 records of /dev/relay0, now lost"))
      try daemon.require("reload")
      #expect(try served(daemon, "relay"))
    }

    @Test(.enabled(if: Backend.underTest == .fuse), arguments: ["umount", "abort"])
    func aMountThatIsTakenAwayIsSaid(_ way: String) throws {
      let daemon = try Daemon("relay:global")
      if way == "umount" { try run("umount", daemon.mount) } else { try daemon.abort("relay0") }
      let said =
        "somebody unmounted or aborted \(daemon.mount): its files are gone until relayd starts "
        + "again"
      try eventually("it is said") { daemon.logText.contains(said) }
      #expect(try daemon.relayctl("list").status == 0, "it lives on")
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
