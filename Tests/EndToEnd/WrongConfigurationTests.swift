// SPDX-License-Identifier: Apache-2.0
// A relayd that was handed channels and finds its configuration wrong goes on with them, says what
// is wrong, and takes the configuration once it is right.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct WrongConfigurationTests {
    private static let right =
      "[channel.relay]\nglobal = true\n[channel.audit]\nglobal = true\npermissions = \"0440\"\n"

    /// A mistake: how the files in the current directory get it, and what the log says of it.
    struct Mistake: CustomTestStringConvertible, Sendable {
      let command: String
      let complaint: String
      var testDescription: String { command }
    }

    private static let mistakes = [
      Mistake(
        command: "echo '[colour]' >> relayd.toml", complaint: "relayd.toml:9: unknown key colour"),
      Mistake(
        command: "sed -i 's/^permissions.*/permissions = \"rw\"/' relayd.toml",
        complaint: "relayd.toml:8: channel audit: permissions = \"rw\""),
      Mistake(command: "echo '[channel.' >> relayd.toml", complaint: "relayd.toml:9: "),
      Mistake(
        command: "echo 'group = \"no-such-group\"' >> relayd.toml",
        complaint: "relayd.toml:9: channel audit: group = \"no-such-group\" names no group"),
      Mistake(
        command: "mv relayd.toml elsewhere", complaint: "relayd.toml: No such file or directory"),
      Mistake(
        command: "mv relayd.toml elsewhere; mkdir relayd.toml",
        complaint: "relayd.toml: not a regular file"),
      Mistake(
        command: "mkdir relayd.toml.d; echo 'n = 1' > relayd.toml.d/1.toml",
        complaint: "relayd.toml.d/1.toml:1: unknown key n"),
      Mistake(
        command: "sed -i '1i max_channels = 1' relayd.toml",
        complaint: "relayd.toml:1: 2 channels, and max_channels is 1"),
      Mistake(
        command: "sed -i '1i max_memory = 4096' relayd.toml",
        complaint: "relayd.toml:1: the channels can take"),
      Mistake(
        command: "sed -i '/^socket/d; 1i socket = \"/no/such/directory/control\"' relayd.toml",
        complaint: "relayd.toml:1: socket \"/no/such/directory/control\" cannot be made"),
      Mistake(
        command: "sed -i \"s|^socket.*|socket = \\\"$PWD/mount\\\"|\" relayd.toml",
        complaint: "mount\" is the path of something else"),
      Mistake(
        command: "sed -i 's|^mount.*|mount = \"/no/such/mount\"|' relayd.toml",
        complaint: "relayd.toml:2: mount \"/no/such/mount\": No such file or directory"),
    ]

    private func shell(_ daemon: Daemon, _ command: String) throws {
      let finished = try run("bash", "-c", "cd '\(daemon.scratch.path)' && \(command)")
      guard finished.status == 0 else { throw Failure("\(command): \(finished.error)") }
    }

    @Test(.onceIsEnough, arguments: mistakes)
    func handedChannelsAreServedInSpiteOfAMistake(_ mistake: Mistake) throws {
      let manager = try NotifySocket()
      let daemon = try Daemon(
        configuration: WrongConfigurationTests.right, options: ["--hold"],
        environment: ["NOTIFY_SOCKET": manager.name])
      let held = HeldDaemon(daemon)
      try daemon.require("create", "created", "--global", "--keep")
      for channel in ["relay", "audit", "created"] { try daemon.write("one\n", to: channel) }
      try shell(daemon, "cp relayd.toml right")
      try held.restart(SIGTERM) { try shell(daemon, mistake.command) }
      #expect(daemon.logText.contains("<3>"), "\(daemon.logText)")
      #expect(daemon.logText.contains(mistake.complaint), "\(daemon.logText)")
      #expect(daemon.logText.contains("configuration refused: relayd goes on with what it was"))
      #expect(try Set(daemon.channels()) == ["relay", "audit", "created"])
      var heard = try states(manager)
      #expect(
        heard.last?.contains("; configuration refused: ") == true
          && heard.last?.contains(mistake.complaint) == true, "\(heard)")
      for channel in ["relay", "audit", "created"] {
        #expect(try run("cat", daemon.device("\(channel)0")).output == "one\n")
      }
      // And the next one, too: what it goes on with is the same.
      try daemon.write("two\n", to: "audit")
      try held.restart(SIGKILL)
      #expect(try run("cat", daemon.device("audit0")).output == "two\n")
      #expect(try daemon.relayctl("reload").status == 1, "still wrong")
      try shell(
        daemon, "rm -rf relayd.toml relayd.toml.d; (cat right; echo '[channel.new]') > relayd.toml")
      try daemon.require("reload")
      #expect(try Set(daemon.channels()) == ["relay", "audit", "created", "new"])
      heard = try states(manager)
      #expect(heard.last?.contains("refused") == false, "\(heard)")
      try held.restart(SIGTERM)
      #expect(daemon.logText.components(separatedBy: "configuration refused").count == 3)
      #expect(try Set(daemon.channels()) == ["relay", "audit", "created", "new"])
    }

    /// What the manager was told, newest last.
    private func states(_ manager: borrowing NotifySocket) throws -> [String] {
      var heard: [String] = []
      try withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
        while let packet = try UnixSocket.receive(
          manager.raw, into: buffer, withSender: true, dontWait: true)
        {
          let text = String(decoding: buffer[..<packet.count], as: UTF8.self)
          heard += text.split(separator: "\n").filter { $0.hasPrefix("STATUS=") }.map(String.init)
        }
      }
      return heard
    }

    /// No mistake of the file: a new channel does not fit beside those that were handed over.
    @Test(.onceIsEnough) func aChannelThatCannotBeMadeIsNamedAndTheOthersAreServed() throws {
      let held = try HeldDaemon(configuration: "[channel.relay]\nglobal = true\n")
      let daemon = held.daemon
      try daemon.require("create", "net", "--global", "--keep")
      for channel in ["relay", "net"] { try daemon.write("one\n", to: channel) }
      // A channel whose directory would be the device of one that was created.
      try daemon.configure(
        "[channel.relay]\nglobal = true\n[channel.\"net0/rx\"]\n[channel.other]\nglobal = true\n")
      try held.restart(SIGKILL)
      #expect(try daemon.channels().contains("relay"))
      #expect(daemon.logText.contains("configuration refused"), "\(daemon.logText)")
      #expect(try daemon.channels().contains("other"))
      for channel in ["relay", "net"] {
        #expect(try run("cat", daemon.device("\(channel)0")).output == "one\n", "\(daemon.logText)")
      }
    }

    /// The geometry that the file has now cannot be made: the one that was handed over goes on.
    @Test(.onceIsEnough) func aChangedChannelThatCannotBeMadeGoesOnAsItWas() throws {
      let held = try HeldDaemon(
        configuration: "[channel.relay]\nglobal = true\nsubbuf_size = 4096\n")
      let daemon = held.daemon
      try daemon.require("create", "big", "--global", "--keep", "--subbuf-size", "1MiB")
      try daemon.write("one\n")
      // Alone it fits; beside the created one it does not.
      try daemon.configure(
        """
        max_memory = "20MiB"
        [channel.relay]
        global = true
        subbuf_size = "1MiB"
        """)
      try held.restart(SIGKILL)
      #expect(daemon.logText.contains("configuration refused"), "\(daemon.logText)")
      #expect(daemon.logText.contains("<3>channel relay: it can take"))
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
      #expect(try daemon.statistic("lost_restart") == 0)
    }

    @Test(.onceIsEnough) func aWrongCommandLineIsRefusedAndTheChannelsAreServed() throws {
      let scratch = try Scratch()
      func install(_ option: String) throws {
        let text = "#!/bin/sh\nexec '\(program("relayd"))' \"$@\" \(option)\n"
        let installed = try run(
          "bash", "-c",
          "printf %s \"$TEXT\" >\"$FILE.new\" && chmod 755 \"$FILE.new\" && "
            + "mv \"$FILE.new\" \"$FILE\"",
          environment: ["TEXT": text, "FILE": "\(scratch.path)/relayd"])
        #expect(installed.status == 0)
      }
      try install("--channel relay:global")
      let daemon = try Daemon(
        options: ["--hold"], in: scratch,
        prefix: ["bash", "-c", "exec -a relayd \"$@\"", "bash"],
        environment: ["PATH": "\(scratch.path):/usr/bin:/bin"])
      let held = HeldDaemon(daemon)
      try daemon.write("one\n")
      for wrong in ["--chanel relay:global", "--channel relay:colour=red"] {
        try install(wrong)
        try held.restart(SIGTERM)
        #expect(daemon.logText.contains(wrong == "--chanel relay:global" ? "--chanel" : "colour"))
        #expect(try daemon.channels() == ["relay"])
        #expect(try daemon.statistic("records_unread") == 1)
      }
      try install("--channel relay:global")
      try held.restart(SIGTERM)
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
      #expect(daemon.logText.components(separatedBy: "configuration refused").count == 3)
    }

    /// Each as soon as relayd is up: nothing is lost, and nothing is started in vain.
    @Test(.onceIsEnough) func tenKillsInARowLoseNothing() throws {
      let held = try HeldDaemon("relay:global")
      for i in 0..<10 {
        try held.daemon.write("\(i)\n")
        try held.restart(SIGKILL)
      }
      #expect(
        try run("cat", held.daemon.device("relay0")).output == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n")
      #expect(try held.daemon.statistic("lost_restart") == 0)
    }
  }
}

extension HeldDaemon {
  /// One that was started with --hold.
  init(_ daemon: Daemon) { self.daemon = daemon }
}
