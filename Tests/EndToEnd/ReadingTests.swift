// SPDX-License-Identifier: Apache-2.0
// Reading a device with ordinary tools.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ReadingTests {
    @Test func catPrintsWhatWasWrittenAndEnds() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\ntwo\n")
      #expect(try run("cat", daemon.device("relay0")).output == "one\ntwo\n")
      #expect(try run("cat", daemon.device("relay0")).output == "")
      try daemon.write("three\n")
      #expect(try run("cat", daemon.device("relay0")).output == "three\n")
    }

    @Test(arguments: ["1", "7", "512", "4k", "64k", "128k", "1M"])
    func ddGetsTheSameBytesAtAnyBlockSize(_ size: String) throws {
      let daemon = try Daemon("relay:global,subbuf_size=64KiB")
      let text = size == "1" || size == "7" ? "head -c 3000" : "cat"
      let finished = try daemon.shell(
        """
        \(text) /var/lib/dpkg/status | head -c 300000 > \(daemon.scratch.path)/in
        $BIN/relayctl write relay < \(daemon.scratch.path)/in &&
        dd if=\(daemon.device("relay0")) bs=\(size) of=\(daemon.scratch.path)/out &&
        cmp \(daemon.scratch.path)/in \(daemon.scratch.path)/out
        """)
      #expect(finished.status == 0, "\(finished.output) \(finished.error)")
      #expect(try daemon.statistic("records_unread") == 0)
    }

    @Test func aReadMayEndInsideARecordAndTheRestComesNext() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("0123456789\n")
      let first = try run("dd", "if=\(daemon.device("relay0"))", "bs=4", "count=1", "status=none")
      #expect(first.output == "0123")
      #expect(try run("cat", daemon.device("relay0")).output == "456789\n")
    }

    @Test func eachCPUHasItsOwnDevice() throws {
      let daemon = try Daemon("relay")
      for cpu in try Processors.online().cpus {
        let line = "on \(cpu)"
        try daemon.shell("echo '\(line)' | taskset -c \(cpu) $BIN/relayctl write relay")
        #expect(try run("cat", daemon.device("relay\(cpu)")).output == "\(line)\n")
      }
    }

    @Test func severalChannelsAreKeptApart() throws {
      let daemon = try Daemon("audit:global", "trace:global,mode=overwrite")
      try daemon.write("a\n", to: "audit")
      try daemon.write("t\n", to: "trace")
      #expect(try run("cat", daemon.device("trace0")).output == "t\n")
      #expect(try run("cat", daemon.device("audit0")).output == "a\n")
      if Backend.underTest == .cuse {
        // One major for all nodes.
        let majors = try run("stat", "-c", "%t", "/dev/audit0", "/dev/trace0").output
        let lines = majors.split(separator: "\n")
        #expect(lines.count == 2 && lines[0] == lines[1], "\(majors)")
      }
    }

    @Test func openingForWritingIsRefused() throws {
      let daemon = try Daemon("relay:global")
      let fd = open(daemon.device("relay0"), O_WRONLY)
      #expect(fd == -1 && errno == EACCES)
    }

    @Test func devicesAreReadableByTheirOwnerOnly() throws {
      let daemon = try Daemon("relay:global")
      let mode = try run("stat", "-c", "%a", daemon.device("relay0")).output
      #expect(mode == "400\n")
    }

    @Test func relayctlReadsLikeCat() throws {
      let daemon = try Daemon("relay")
      try daemon.write("one\ntwo\n")
      #expect(try daemon.relayctl("read", "relay").output == "one\ntwo\n")
      #expect(try daemon.relayctl("read", "relay", "--cpu", "0").output == "")
      #expect(try daemon.relayctl("read", "relay", "--cpu", "77").status == 1)
    }

    @Test func flushAndResetWorkOnARunningChannel() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      #expect(try daemon.relayctl("flush", "relay").status == 0)
      #expect(try daemon.statistic("subbufs_produced") == 1)
      #expect(try daemon.relayctl("reset", "relay").status == 0)
      #expect(try run("cat", daemon.device("relay0")).output == "")
      #expect(try daemon.statistic("records_written") == 0)
      try daemon.write("two\n")
      #expect(try run("cat", daemon.device("relay0")).output == "two\n")
    }
  }
}
