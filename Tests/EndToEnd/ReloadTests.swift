// SPDX-License-Identifier: Apache-2.0
// The configuration read again, by SIGHUP and by relayctl reload.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ReloadTests {
    enum Way: CaseIterable { case signal, command }

    /// Has it reload; what it complains about.
    func reload(_ daemon: Daemon, _ way: Way) throws -> String {
      switch way {
      case .command:
        let finished = try daemon.relayctl("reload")
        #expect((finished.status == 0) == finished.error.isEmpty)
        #expect(finished.status <= 1)
        return finished.error
      case .signal:
        let before = daemon.logText.utf8.count
        daemon.process.signal(SIGHUP)
        func log() -> String { String(daemon.logText.utf8.dropFirst(before))! }
        try eventually("it reloads") { log().contains("SIGHUP: reloading\n") }
        // The next request is answered after it.
        try daemon.require("list")
        return log().split(separator: "\n").filter { $0.hasPrefix("<3>") }.map {
          "relayctl: \($0.dropFirst(3))\n"
        }.joined()
      }
    }

    @Test(arguments: Way.allCases)
    func newChannelsAppearAndVanishedOnesClose(_ way: Way) throws {
      let daemon = try Daemon(
        configuration: "[channel.stays]\nglobal = true\n[channel.goes]\nglobal = true\n")
      try daemon.write("one\n", to: "stays")
      try daemon.write("two\n", to: "goes")
      try daemon.require("create", "created", "--keep")
      try daemon.configure(
        "[channel.comes]\nglobal = true\npermissions = \"0440\"\n[channel.stays]\nglobal = true\n")
      #expect(try reload(daemon, way) == "")
      #expect(try Set(daemon.channels()) == ["stays", "comes", "created"])
      #expect(access(daemon.device("goes0"), F_OK) == -1)
      #expect(daemon.logText.contains("channel goes is not configured any more: closed"))
      #expect(daemon.logText.contains("nobody read 1 record of \(daemon.device("goes0"))"))
      #expect(try run("stat", "-c", "%a", daemon.device("comes0")).output == "440\n")
      #expect(try run("cat", daemon.device("stays0")).output == "one\n")
      try daemon.write("three\n", to: "comes")
      #expect(try run("cat", daemon.device("comes0")).output == "three\n")
      // And the other way round.
      try daemon.configure("[channel.stays]\nglobal = true\n[channel.goes]\nglobal = true\n")
      #expect(try reload(daemon, way) == "")
      #expect(try Set(daemon.channels()) == ["stays", "goes", "created"])
      #expect(try run("cat", daemon.device("goes0")).output == "", "a new one")
    }

    @Test(.onceIsEnough, arguments: Way.allCases)
    func aChangedChannelIsRefusedByNameAndTheRestIsDone(_ way: Way) throws {
      let daemon = try Daemon(
        configuration: "[channel.audit]\nglobal = true\nn_subbufs = 4\n[channel.b]\nglobal = true\n"
      )
      try daemon.configure(
        """
        [channel.audit]
        global = true
        n_subbufs = 5
        mode = "overwrite"
        [channel.c]
        global = true
        """)
      #expect(
        try reload(daemon, way)
          == "relayctl: channel audit: n_subbufs, mode cannot change while it is open; it stays as "
          + "it was\n")
      #expect(try daemon.channels() == ["audit", "c"])
      #expect(try daemon.relayctl("list").output.contains("discard"))
    }

    @Test(.onceIsEnough) func everyKeyOfAChannelThatChangesIsNamed() throws {
      let daemon = try Daemon(configuration: "[channel.a]\n")
      try daemon.configure(
        """
        [channel.a]
        subbuf_size = 4096
        n_subbufs = 3
        mode = "overwrite"
        global = true
        read = "block"
        write = true
        wakeup = "subbuffer"
        stall_timeout = "2s"
        consumer_timeout = "2s"
        owner = 4001
        group = 4001
        permissions = "0440"
        writers = 4001
        max_producers = 3
        """)
      let keys =
        "subbuf_size, n_subbufs, mode, global, read, write, wakeup, stall_timeout, "
        + "consumer_timeout, owner, group, permissions, writers, max_producers"
      #expect(try reload(daemon, .command).hasPrefix("relayctl: channel a: \(keys) cannot change"))
    }

    @Test(.onceIsEnough, arguments: Way.allCases) func aBrokenFileChangesNothing(_ way: Way) throws
    {
      let daemon = try Daemon(configuration: "[channel.a]\nglobal = true\n")
      try daemon.configure("[channel.b]\nglobal = true\nmode = \"ring\"\n[colour]\n")
      let complaints = try reload(daemon, way).split(separator: "\n")
      #expect(complaints.count == 2)
      #expect(complaints.first?.contains("relayd.toml:6: channel b: mode = \"ring\"") == true)
      #expect(complaints.last?.contains("relayd.toml:7: unknown key colour") == true)
      for complaint in complaints { #expect(complaint.hasSuffix("; nothing was changed")) }
      #expect(try daemon.channels() == ["a"])
      // Not even where there is none any more.
      unlink("\(daemon.scratch.path)/relayd.toml")
      #expect(try reload(daemon, way).contains("relayd.toml: No such file or directory"))
      #expect(try daemon.channels() == ["a"])
      try daemon.configure("[channel.b]\nglobal = true\n")
      #expect(try reload(daemon, way) == "")
      #expect(try daemon.channels() == ["b"])
    }

    @Test(
      .onceIsEnough,
      arguments: [
        ("backend", "\"auto\"", Backend.underTest.rawValue, "auto"),
        ("mount", "\"/tmp/elsewhere\"", "", "/tmp/elsewhere"),
        ("socket", "\"/tmp/elsewhere\"", "", "/tmp/elsewhere"),
        ("create_group", "6001", "none", "6001"),
      ])
    func aFixedSettingIsRefusedByNameAndTheRestIsDone(
      _ key: String, _ value: String, _ now: String, _ then: String
    ) throws {
      let daemon = try Daemon(configuration: "[channel.a]\nglobal = true\n")
      try daemon.configure("\(key) = \(value)\n[channel.b]\nglobal = true\n")
      let complaints = try reload(daemon, .command)
      #expect(complaints.hasPrefix("relayctl: \(key) stays "), "\(complaints)")
      #expect(
        complaints.hasSuffix("\(now) until relayd is restarted (and would then be \(then))\n"),
        "\(complaints)")
      #expect(try daemon.channels() == ["b"])
    }

    @Test(.onceIsEnough) func whatWasCreatedIsInTheWayOfAConfiguredOne() throws {
      let daemon = try Daemon(configuration: "[channel.a]\nglobal = true\n")
      try daemon.require("create", "b", "--global", "--keep")
      try daemon.configure("[channel.a]\nglobal = true\n[channel.b]\nglobal = true\n")
      #expect(
        try reload(daemon, .command)
          == "relayctl: channel b: exists already, created at run time; close it first\n")
      try daemon.require("close", "b")
      #expect(try reload(daemon, .command) == "")
      #expect(try daemon.channels() == ["a", "b"])
    }

    @Test func aChannelThatComesBackWhileItsNodeIsOpenIsRefused() throws {
      guard Backend.underTest == .cuse else { return }
      let (with, without) = ("[channel.a]\n[channel.b]\nglobal = true\n", "[channel.a]\n")
      let daemon = try Daemon(configuration: with)
      do {
        let device = try FileDescriptor.open(daemon.device("b0"), O_RDONLY)
        try daemon.configure(without)
        #expect(try reload(daemon, .command) == "")
        try daemon.configure(with)
        #expect(try reload(daemon, .command).contains("channel b: was closed, and its devices"))
        #expect(device.raw >= 0)
      }
      try eventually("the name is free") { try reload(daemon, .command) == "" }
      #expect(try daemon.channels() == ["a", "b"])
    }

    @Test(.onceIsEnough) func limitsMayChange() throws {
      let daemon = try Daemon(configuration: "max_channels = 1\n[channel.a]\nglobal = true\n")
      #expect(try daemon.relayctl("create", "b").error.contains("max_channels is 1"))
      try daemon.configure("max_channels = 2\nmax_producers = 1\n[channel.a]\nglobal = true\n")
      #expect(try reload(daemon, .command) == "")
      try daemon.require("create", "b")
      let pipe = try Pipe()
      let writer = try daemon.startWriter("a", pipe)
      #expect(try daemon.relayctl("write", "a").error.contains("max_producers is 1"))
      writer.signal(SIGTERM)
      _ = writer.wait()
    }

    @Test(.onceIsEnough) func aDaemonIsReloadedByItsProcessNumber() throws {
      let daemon = try Daemon(configuration: "[channel.a]\nglobal = true\n")
      try daemon.configure("[channel.b]\nglobal = true\n")
      func reload(_ pid: Int32) throws -> Finished {
        try run(
          [program("relayctl"), "reload", "--pid", "\(pid)"],
          environment: ["RELAY_SOCKET": "/nowhere"])
      }
      #expect(try reload(daemon.process.pid).status == 0)
      #expect(try daemon.channels() == ["b"])
      let other = try ChildProcess(["sleep", "60"])
      let none = try reload(other.pid)
      other.signal(SIGKILL)
      _ = other.wait()
      #expect(none.status == 69)
      #expect(
        none.error
          == "relayctl: process \(other.pid) serves no control socket; is it a relayd?\n")
    }

    @Test(.onceIsEnough) func dropInsAreReadAgainToo() throws {
      let daemon = try Daemon(configuration: "[channel.a]\nglobal = true\n")
      let directory = "\(daemon.scratch.path)/relayd.toml.d"
      mkdir(directory, 0o755)
      try run("bash", "-c", "printf '[channel.b]\\nglobal = true\\n' > '\(directory)/1.toml'")
      #expect(try reload(daemon, .signal) == "")
      #expect(try daemon.channels() == ["a", "b"])
    }
  }
}
