// SPDX-License-Identifier: Apache-2.0
// Bad input: refused with what is wrong and what would be right, and nobody else notices.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct RefusalTests {
    /// Starts a relayd that must not come up.
    func refused(_ arguments: String...) throws -> Finished {
      let scratch = try Scratch()
      mkdir("\(scratch.path)/mount", 0o755)
      return try run(
        ["timeout", "20", program("relayd")]
          + Daemon.arguments("\(scratch.path)/control", "\(scratch.path)/mount") + arguments)
    }

    @Test(arguments: [
      ("relay:subbuf_size=0", "0 bytes"),
      ("relay:n_subbufs=0", "0 sub-buffers"),
      ("relay:n_subbufs=1", "one sub-buffer is not enough"),
      ("relay:subbuf_size=1GiB", "over the limit"),
      ("relay:subbuf_size=32MiB,n_subbufs=65536", "this machine has"),
      ("relay:subbuf_size=99999999999GiB", "64 bits"),
      ("relay:subbuf_size=lots", "is not a size"),
      ("relay:n_subbufs=x", "whole number"),
      ("relay:mode=ring", "neither discard nor overwrite"),
      ("relay:color=red", "unknown option color"),
      ("relay:global=yes", "takes no value here: write global alone, or leave it out"),
      ("relay:prefault=true", "takes no value here: write prefault alone, or leave it out"),
      ("relay1", "may not end in a digit"),
      ("", "needs a name"),
      ("re//lay", "use letters"),
      ("..", "use letters"),
    ])
    func impossibleChannels(_ channel: String, _ reason: String) throws {
      let finished = try refused("--channel", channel)
      #expect(finished.status == 64, "\(channel): \(finished.error)")
      #expect(finished.error.contains(reason), "\(channel): \(finished.error)")
    }

    @Test func twoChannelsOfOneName() throws {
      let finished = try refused("--channel", "audit", "--channel", "audit")
      #expect(finished.status == 64)
      #expect(finished.error.contains("audit"))
    }

    @Test func aNodeThatExistsAlready() throws {
      guard Backend.underTest == .cuse else { return }
      // /dev/tty0 is there before us; a name that clashes succeeds silently in the kernel.
      let finished = try refused("--channel", "tty:global")
      #expect(finished.status == 1)
      #expect(
        finished.error.contains(
          "device tty0: /dev/tty0 exists already; choose another channel name"),
        "\(finished.error)")
      #expect(try run("stat", "-c", "%t:%T", "/dev/tty0").output == "4:0\n")
    }

    @Test func aSecondDaemonOnTheSameNodes() throws {
      guard Backend.underTest == .cuse else { return }
      let daemon = try Daemon("relay:global")
      let finished = try refused("--channel", "relay:global")
      #expect(finished.status == 1)
      #expect(
        finished.error.contains(
          "device relay0: another CUSE device of this name exists; does another relayd run?"),
        "\(finished.error)")
      try daemon.write("still here\n")
      #expect(try run("cat", daemon.device("relay0")).output == "still here\n")
    }

    @Test func aSecondDaemonOnTheSameSocket() throws {
      let daemon = try Daemon("relay:global")
      let other = try Scratch()
      let finished = try run(
        ["timeout", "20", program("relayd")] + Daemon.arguments(daemon.socket, other.path)
          + ["--channel", "other:global"])
      #expect(finished.status == 1)
      #expect(
        finished.error.contains(
          "serve \(daemon.socket): a relayd already serves this socket: Address already in use; "
            + "name another socket with --socket"),
        "\(finished.error)")
      try daemon.write("still here\n")
      #expect(try run("cat", daemon.device("relay0")).output == "still here\n")
    }

    @Test func missingCUSEOrMountPointSaysWhatToDo() throws {
      guard Backend.underTest == .fuse else { return }
      let scratch = try Scratch()
      if access("/dev/cuse", F_OK) != 0 {
        let finished = try run(
          program("relayd"), "--backend", "cuse", "--socket", "\(scratch.path)/control")
        #expect(finished.status == 1)
        #expect(finished.error.contains("modprobe cuse"), "\(finished.error)")
      }
      let finished = try run(
        program("relayd"), "--backend", "fuse", "--mount", "\(scratch.path)/none", "--socket",
        "\(scratch.path)/control")
      #expect(finished.status == 1)
      #expect(finished.error.contains("\(scratch.path)/none"), "\(finished.error)")
    }

    @Test func channelsThatTogetherNeedMoreThanTheMachineHas() throws {
      let memory = Int(sysconf(Int32(_SC_PHYS_PAGES))) * 4096
      // Each, with its index, takes a bit over half.
      let count = memory / 2 / (2 << 20) / Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))) + 1
      let options = ":subbuf_size=1MiB,n_subbufs=\(count)"
      let finished = try refused("--channel", "a" + options, "--channel", "b" + options)
      #expect(finished.status == 64)
      #expect(finished.error.contains("together"), "\(finished.error)")
    }

    @Test func aSecondDaemonOnTheSameMount() throws {
      guard Backend.underTest == .fuse else { return }
      let daemon = try Daemon("relay:global")
      let finished = try run(
        ["timeout", "20", program("relayd"), "--backend", "fuse", "--mount", daemon.mount]
          + ["--socket", "\(daemon.scratch.path)/other"])
      #expect(finished.status == 1)
      #expect(
        finished.error.contains(
          "mount point \(daemon.mount): a FUSE file system is mounted there already; does another "
            + "relayd run? Name another directory with --mount"),
        "\(finished.error)")
      try daemon.write("still here\n")
      #expect(try run("cat", daemon.device("relay0")).output == "still here\n")
    }

    @Test func noPermissionForCUSESaysWhatToDo() throws {
      guard Backend.underTest == .cuse else { return }
      let finished = try run(
        "setpriv", "--reuid=65534", "--clear-groups", program("relayd"), "--backend", "cuse",
        "--socket", "/tmp/relay-test-nobody.\(getpid())")
      #expect(finished.status == 1)
      #expect(finished.error.contains("no permission to open /dev/cuse"), "\(finished.error)")
    }

    @Test func autoTakesWhatThereIsAndSaysWhich() throws {
      let scratch = try Scratch()
      mkdir("\(scratch.path)/mount", 0o755)
      let log = try outputFile("log")
      let daemon = try ChildProcess(
        [
          program("relayd"), "--socket", "\(scratch.path)/control", "--mount",
          "\(scratch.path)/mount", "--channel", "auto:global",
        ], error: log.raw)
      try eventually("ready") { text(of: log.raw).contains("ready") }
      let device = Backend.underTest == .cuse ? "/dev/auto0" : "\(scratch.path)/mount/auto0"
      #expect(access(device, F_OK) == 0)
      #expect(text(of: log.raw).contains(Backend.underTest == .cuse ? "CUSE" : "relayfs"))
      daemon.signal(SIGTERM)
      #expect(daemon.wait() == 0)
    }

    @Test func aRecordLongerThanASubbufferIsRefusedAndCounted() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=4")
      let finished = try daemon.shell(
        "(echo short; head -c 5000 /dev/zero | tr '\\0' x; echo; echo last) | "
          + "$BIN/relayctl write relay")
      #expect(finished.status == 1)
      #expect(finished.error.contains("4096"), "\(finished.error)")
      #expect(try run("cat", daemon.device("relay0")).output == "short\nlast\n")
      #expect(try daemon.statistic("lost_too_big") == 1)
    }

    @Test func recordsThatWereTooBigAreReportedAtTheClose() throws {
      let daemon = try Daemon("relay:global,subbuf_size=16,n_subbufs=4")
      let long = "echo a line too long for this channel; echo short"
      for _ in 0..<2 { try daemon.shell("(\(long)) | $BIN/relayctl write relay") }
      try daemon.require("close", "relay")
      let said =
        "<4>2 records were longer than a sub-buffer of \(daemon.device("relay0")), which is 16 "
        + "bytes, and refused\n"
      try eventually("it is said: \(daemon.logText)") { daemon.logText.contains(said) }
    }

    @Test func exitStatusesSayWhatIsWrong() throws {
      let daemon = try Daemon("relay:global")
      #expect(try daemon.relayctl("list").status == 0)
      #expect(try daemon.relayctl("stat", "nosuch").status == 1)
      #expect(try daemon.relayctl("stat", "nosuch").error.contains("nosuch"))
      #expect(try daemon.relayctl("write").status == 64)
    }

    @Test func garbageOnTheControlSocketDisturbsNobody() throws {
      let daemon = try Daemon("relay:global")
      var silent: [CInt] = []
      for i in 0..<300 {
        let socket = try UnixSocket.connect(path: daemon.socket)
        if i % 3 == 0 {
          silent.append(socket.take())
        } else {
          let garbage = (0..<(i * 13 % 4000 + 1)).map { UInt8(truncatingIfNeeded: $0 &* i) }
          _ = garbage.withUnsafeBytes { send(socket.raw, $0.baseAddress, $0.count, 0x4000) }
        }
      }
      try daemon.write("fine\n")
      #expect(try run("cat", daemon.device("relay0")).output == "fine\n")
      for socket in silent { close(socket) }
    }

    @Test func aProducerKilledInTheMiddleCostsNobodyElseAnything() throws {
      let daemon = try Daemon("relay:global,subbuf_size=16KiB,n_subbufs=4")
      for _ in 0..<20 {
        // Writes for as long as it lives; waits while the channel is full.
        let zero = try FileDescriptor.open("/dev/zero", O_RDONLY)
        let writer = try ChildProcess(
          [program("relayctl"), "write", "relay", "--block", "64"], input: zero.raw,
          environment: ["RELAY_SOCKET": daemon.socket])
        try eventually("it writes") {
          try !run("cat", daemon.device("relay0")).output.isEmpty
        }
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      _ = try run("cat", daemon.device("relay0"))
      try eventually("the channel goes on") {
        try daemon.write("after\n")
        return try run("cat", daemon.device("relay0")).output.hasSuffix("after\n")
      }
      let written = try daemon.statistic("records_written")
      #expect(try daemon.statistic("records_read") == written)
    }
  }
}
