// SPDX-License-Identifier: Apache-2.0
// Channels that come and go while relayd runs: created, closed under their readers, gone with their
// last writer.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct RuntimeChannelTests {
    @Test func createTakesEveryOption() throws {
      let daemon = try Daemon("relay:global")
      try daemon.require(
        "create", "audit", "--subbuf-size", "5000", "--n-subbufs", "3", "--mode", "overwrite",
        "--global", "--timestamps", "--read", "block", "--write", "--wakeup", "subbuffer",
        "--stall-timeout", "never",
        "--owner", "4001", "--group", "5001", "--permissions", "0440", "--writers", "5002",
        "--max-producers", "1", "--keep")
      let all = try daemon.relayctl("list", "--json").output
      let audit = String(try #require(all.components(separatedBy: "}").dropFirst().first))
      for line in [
        "\"name\" : \"audit\"", "\"subbuf_size\" : 5000", "\"n_subbufs\" : 3",
        "\"mode\" : \"overwrite\"", "\"global\" : true", "\"timestamps\" : true",
        "\"read\" : \"block\"",
        "\"wakeup\" : \"subbuffer\"", "\"temporary\" : false",
      ] {
        #expect(audit.contains(line), "\(line) in \(all)")
      }
      let device = daemon.device("audit0")
      #expect(try run("stat", "-c", "%u:%g %a", device).output == "4001:5001 440\n")
      // writers and max_producers: who is refused says so.
      let pipe = try Pipe()
      let writer = try daemon.startWriter("audit", pipe)
      let second = try daemon.relayctl("write", "audit")
      #expect(second.status == 1)
      #expect(second.error.contains("its max_producers is 1"), "\(second.error)")
      writer.signal(SIGTERM)
      _ = writer.wait()
      chmod(daemon.scratch.path, 0o755)
      let outsider = try daemon.relayctl(
        ["write", "audit"], prefix: ["setpriv", "--reuid=4003", "--regid=4003", "--clear-groups"])
      #expect(outsider.error.contains("group 5002 (its writers)"), "\(outsider.error)")
    }

    @Test(.onceIsEnough) func whatIsNotGivenIsAsForEveryChannel() throws {
      let daemon = try Daemon("relay")
      try daemon.require("create", "plain", "--keep")
      let lines = try daemon.relayctl("list").output.split(separator: "\n").dropFirst()
      #expect(lines.count == 2)
      let rows = lines.map { $0.split(separator: " ").map(String.init) }
      // All but the name and the devices.
      #expect(rows[0].dropFirst().prefix(7) == rows[1].dropFirst().prefix(7))
      let cpus = try Processors.online().cpus
      for cpu in cpus { #expect(access(daemon.device("plain\(cpu)"), R_OK) == 0) }
    }

    @Test func itIsGoneWithItsLastWriterAndWhatNobodyReadIsSaid() throws {
      let daemon = try Daemon("relay:global")
      try daemon.require("create", "job", "--global")
      #expect(try daemon.relayctl("list").output.contains("temporary"))
      let first = try Pipe()
      let second = try Pipe()
      let writers = [try daemon.startWriter("job", first), try daemon.startWriter("job", second)]
      writers[0].signal(SIGTERM)
      _ = writers[0].wait()
      try daemon.write("one\n", to: "job")
      #expect(try run("cat", daemon.device("job0")).output == "one\n", "one is still attached")
      try daemon.write("two\n", to: "job")
      writers[1].signal(SIGTERM)
      _ = writers[1].wait()
      try eventually("it is gone") { try daemon.channels() == ["relay"] }
      #expect(access(daemon.device("job0"), F_OK) == -1)
      #expect(daemon.logText.contains("nobody read 1 record of \(daemon.device("job0")), now lost"))
      // And with its name free.
      try daemon.require("create", "job")
    }

    @Test func whoFollowsATemporaryChannelGetsAllOfItAndTheEnd() throws {
      let daemon = try Daemon("relay:global")
      try daemon.require("create", "job", "--global", "--read", "block")
      let out = try outputFile("out")
      let reader = try ChildProcess(
        ["cat", daemon.device("job0")], output: out.raw)
      try eventually("it has the device open") {
        try run("ls", "-l", "/proc/\(reader.pid)/fd").output.contains(daemon.device("job0"))
      }
      try daemon.shell("seq 1000 | $BIN/relayctl write job")
      #expect(reader.wait() == 0)
      #expect(text(of: out.raw) == (1...1000).map { "\($0)\n" }.joined())
      try eventually("it is gone") { try daemon.channels() == ["relay"] }
      #expect(!daemon.logText.contains("nobody read"))
    }

    @Test(.onceIsEnough) func withKeepItStaysUntilItIsClosed() throws {
      let daemon = try Daemon("relay:global")
      try daemon.require("create", "job", "--global", "--keep")
      try daemon.write("one\n", to: "job")
      #expect(try daemon.channels() == ["relay", "job"])
      #expect(try run("cat", daemon.device("job0")).output == "one\n")
      try daemon.require("close", "job")
      #expect(try daemon.channels() == ["relay"])
      #expect(access(daemon.device("job0"), F_OK) == -1)
    }

    @Test func closedUnderAReaderItDrainsAndEnds() throws {
      let daemon = try Daemon("relay:global")
      try daemon.require("create", "job", "--global", "--keep")
      try daemon.write("one\ntwo\n", to: "job")
      let device = open(daemon.device("job0"), O_RDONLY)
      try daemon.require("close", "job")
      #expect(open(daemon.device("job0"), O_RDONLY) == -1 && errno == ENOENT)
      #expect(try daemon.relayctl("list").output.contains("closed"))
      #expect(try daemon.relayctl("write", "job").error.contains("no channel job"))
      #expect(try daemon.statistic("records_unread", of: "job") == 2)
      #expect(try daemon.relayctl("stat").output.contains(daemon.device("job0")))
      // A node stays for who has it open; a file in a directory loses its name at once.
      #expect((access(daemon.device("job0"), F_OK) == 0) == (Backend.underTest == .cuse))
      let again = try daemon.relayctl("create", "job", "--global", "--keep")
      #expect(again.status == (Backend.underTest == .cuse ? 1 : 0))
      if Backend.underTest == .cuse {
        #expect(again.error.contains("its devices are still open; try again"), "\(again.error)")
      }
      var bytes = [UInt8](repeating: 0, count: 100)
      #expect(read(device, &bytes, 100) == 8)
      #expect(read(device, &bytes, 100) == 0)
      close(device)
      try eventually("the name is free") {
        try Backend.underTest == .fuse || daemon.relayctl("create", "job", "--global").status == 0
      }
      #expect(!daemon.logText.contains("nobody read"), "all was")
      try eventually("only the new one is left") { try daemon.channels() == ["relay", "job"] }
      #expect(try run("cat", daemon.device("job0")).output == "", "nothing of the old one")
      #expect(try daemon.statistic("records_written", of: "job") == 0)
    }

    @Test(arguments: [(6, "1 record"), (10, "the rest of a record")])
    func closedUnderAReaderThatLeavesSomeThatIsSaid(_ count: Int, _ rest: String) throws {
      let daemon = try Daemon("relay:global", "other:global")
      for line in ["one\n", "two\n", "three\n"] { try daemon.write(line) }
      let device = open(daemon.device("relay0"), O_RDONLY)
      try daemon.require("close", "relay")
      var bytes = [UInt8](repeating: 0, count: 100)
      #expect(read(device, &bytes, count) == count)
      #expect(!daemon.logText.contains("nobody read"), "it still may be")
      close(device)
      let said = "<4>nobody read \(rest) of \(daemon.device("relay0")), now lost\n"
      try eventually("it is said: \(daemon.logText)") { daemon.logText.contains(said) }
      #expect(try daemon.channels() == ["other"])
    }

    @Test func theyComeAndGoWithoutATrace() throws {
      let daemon = try Daemon("relay:global")
      func cycle() throws {
        try daemon.require("create", "job", "--global")
        let device = try FileDescriptor.open(daemon.device("job0"), O_RDONLY)
        try daemon.write("one\n", to: "job")
        var byte: UInt8 = 0
        #expect(read(device.raw, &byte, 1) == 1)
        close(device.take())
        try eventually("it is gone") { try daemon.channels() == ["relay"] }
      }
      let before = try daemon.descriptorCount()
      try cycle()
      let memory = try daemon.proc("status", "VmRSS")
      for _ in 0..<(Backend.underTest == .fuse ? 100 : 5) { try cycle() }
      try eventually("its last client is gone") { try daemon.descriptorCount() == before }
      #expect(try daemon.proc("status", "VmRSS") <= memory + 500, "KiB")
    }

    @Test func closingRefusesWhoWrites() throws {
      let daemon = try Daemon("relay:global", "full:global,subbuf_size=4096,n_subbufs=2")
      let zero = try FileDescriptor.open("/dev/zero", O_RDONLY)
      let error = try outputFile("error")
      let writer = try ChildProcess(
        [program("relayctl"), "write", "full", "--block", "64"], input: zero.raw, error: error.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      try eventually("it waits for space") {
        try daemon.statistic("records_unread", of: "full") == 128
      }
      try daemon.require("close", "full")
      #expect(writer.wait() == 1)
      #expect(text(of: error.raw).contains("channel full is closed; 128 records were written"))
      #expect(daemon.logText.contains("nobody read 128 records of"))
    }

    @Test func aNameWithSlashesIsAPath() throws {
      let daemon = try Daemon("relay:global", "relaytest/deep/rx_:global")
      let directory = daemon.device("relaytest")
      try daemon.require("create", "relaytest/tx", "--global", "--keep")
      try daemon.write("one\n", to: "relaytest/tx")
      try daemon.write("two\n", to: "relaytest/deep/rx_")
      #expect(try run("cat", "\(directory)/tx0", "\(directory)/deep/rx_0").output == "one\ntwo\n")
      #expect(
        try run("ls", "-R", directory).output
          == "\(directory):\ndeep\ntx0\n\n\(directory)/deep:\nrx_0\n")
      try daemon.require("close", "relaytest/deep/rx_")
      #expect(try run("ls", "-R", directory).output == "\(directory):\ntx0\n")
      try daemon.require("close", "relaytest/tx")
      #expect(access(directory, F_OK) == -1, "gone with its last file")
      try daemon.require("create", "relaytest/tx", "--global")
      #expect(access("\(directory)/tx0", R_OK) == 0)
    }

    @Test(.onceIsEnough) func whatCannotBeIsRefused() throws {
      let daemon = try Daemon("relay:global", "deep12/rx:global")
      let rows = [
        (["relay"], "channel relay: exists already; close it first, or choose another name"),
        (["relay1"], "may not end in a digit"),
        (["../relay"], "use letters"),
        ([String(repeating: "a", count: 65)], "over 64 bytes"),
        (["relay0/rx"], "relay0 would be a device of channel relay and a directory of the other"),
        (["deep"], "deep12 would be a device of channel deep"),
        (["job", "--subbuf-size", "lots"], "subbuf_size=lots is not a size"),
        (["job", "--subbuf-size", "64MiB"], "over the limit"),
        (["job", "--n-subbufs", "1"], "use 2 or more"),
        (["job", "--owner", "no-such-user"], "names no user of this system"),
        (["job", "--group", "no-such-group"], "names no group of this system"),
        (["job", "--writers", "no-such-group"], "names no group of this system"),
        (["job", "--permissions", "rw"], "is not a file mode"),
        (["job", "--max-producers", "0"], "allows nothing"),
        (["job", "--subbuf-size", "32MiB", "--n-subbufs", "65536"], "this machine has"),
      ]
      for (arguments, reason) in rows {
        let finished = try daemon.relayctl(["create"] + arguments)
        // Wrong in itself, or only now.
        let isTaken = reason.contains("exists already") || reason.contains("would be a device")
        #expect(finished.status == (isTaken ? 1 : 64), "\(arguments)")
        #expect(finished.error.contains(reason), "\(finished.error)")
      }
      #expect(try daemon.channels() == ["relay", "deep12/rx"])
    }

    @Test(
      .onceIsEnough,
      arguments: [
        ["create"], ["create", "job", "--mode", "ring"], ["create", "job", "--read", "wait"],
        ["create", "job", "--wakeup", "x"], ["create", "job", "--owner", "a,global"],
        ["create", "job", "--n-subbufs", "x"], ["close"], ["reload", "now"],
      ])
    func wrongUsageIsSaid(_ arguments: [String]) throws {
      #expect(try run([program("relayctl")] + arguments).status == 64)
    }

    @Test func aNodeThatIsSomebodyElsesIsNotTaken() throws {
      guard Backend.underTest == .cuse else { return }
      let daemon = try Daemon("relay:global")
      let finished = try daemon.relayctl("create", "tty", "--global")
      #expect(finished.status == 1)
      #expect(finished.error.contains("/dev/tty0 exists already"), "\(finished.error)")
      #expect(try run("stat", "-c", "%t:%T", "/dev/tty0").output == "4:0\n")
      #expect(try daemon.channels() == ["relay"])
    }

    @Test(.onceIsEnough) func whatIsNotThereCannotBeClosed() throws {
      let daemon = try Daemon("relay:global")
      for command in ["close", "reset", "flush", "write", "stat"] {
        let finished = try daemon.relayctl(command, "nosuch")
        #expect(finished.status == 1)
        #expect(finished.error == "relayctl: no channel nosuch; there are: relay\n")
      }
      try daemon.require("close", "relay")
      #expect(
        try daemon.relayctl("close", "relay").error
          == "relayctl: no channel relay; there is none\n")
      for i in 1...21 { try daemon.require("create", "c\(i)_", "--global", "--keep") }
      #expect(try daemon.relayctl("close", "relay").error.hasSuffix(", c19_, c20_ …\n"))
    }
  }
}
