// SPDX-License-Identifier: Apache-2.0
// relayd with configuration files: checked, refused, and served.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ConfigurationTests {
    let scratch: Scratch
    let path: String

    init() throws {
      scratch = try Scratch()
      path = "\(scratch.path)/relayd.toml"
    }

    func write(_ text: String) throws {
      let file = try #require(fopen(path, "w"))
      fputs(text, file)
      fclose(file)
    }

    @Test func theExampleIsWithoutComplaint() throws {
      let project = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()
      let example = "\(project)/Sources/Support/relayd.toml"
      let asItIs = try run(program("relayd"), "--check", "--config", example)
      #expect(asItIs.status == 0)
      #expect(asItIs.error == "")
      #expect(asItIs.output.contains("\n[channel.relay]\n"))
      try run("bash", "-c", "sed 's/^#\\([^ ]\\)/\\1/' '\(example)' > '\(path)'")
      let uncommented = try run(program("relayd"), "--check", "--config", path)
      #expect(uncommented.status == 0)
      #expect(uncommented.error == "")
      #expect(uncommented.output.contains("\nmax_memory = \"1GiB\"\n"))
    }

    @Test func whatCheckPrintsIsCheckedAsTheSame() throws {
      try write("[channel.\"net/rx\"]\npermissions = \"0440\"\n")
      let printed = try run(
        program("relayd"), "--check", "--config", path, "--backend", "fuse", "--channel",
        "relay:n_subbufs=4", "--mount", "m", "--socket", "s")
      #expect(printed.status == 0, "\(printed.error)")
      #expect(printed.output.contains("permissions = \"0440\"\n"))
      try write(printed.output)
      let again = try run(program("relayd"), "--check", "--config", path)
      #expect(again.status == 0)
      #expect(again.output == printed.output)
    }

    @Test func aBadFileIsRefusedWithFileAndLine() throws {
      try write("[channel.relay]\nglobal = true\nmode = \"ring\"\n\n[colour]\n")
      let checked = try run(program("relayd"), "--check", "--config", path)
      #expect(checked.status == 64)
      #expect(checked.output == "")
      let lines = checked.error.split(separator: "\n")
      #expect(lines.count == 2)
      #expect(
        lines.first
          == "\(path):3: channel relay: mode = \"ring\" is neither \"discard\" nor \"overwrite\"")
      #expect(lines.last?.hasPrefix("\(path):5: unknown key colour; there are ") == true)
      // And so when it starts, as log lines.
      let started = try run(
        ["timeout", "20", program("relayd"), "--config", path]
          + Daemon.arguments("\(scratch.path)/control", scratch.path))
      #expect(started.status == 64)
      #expect(started.error == lines.map { "<2>\($0)\n" }.joined())
    }

    @Test func aFileThatMayNotBeReadIsRefused() throws {
      try write("")
      chmod(path, 0)
      chmod(scratch.path, 0o755)
      let finished = try run(
        "setpriv", "--reuid=65534", "--clear-groups", program("relayd"), "--check", "--config", path
      )
      #expect(finished.status == 64)
      #expect(finished.error == "\(path): Permission denied; let relayd's user read it\n")
    }

    @Test func theChannelsOfFilesAreServedBesideThoseOfTheCommandLine() throws {
      let mount = "\(scratch.path)/mount"
      mkdir(mount, 0o755)
      mkdir("\(path).d", 0o755)
      try write(
        """
        backend = "\(Backend.underTest.rawValue)"
        mount = "\(mount)"
        socket = "\(scratch.path)/control"
        [channel.audit]
        global = true
        """)
      try run("bash", "-c", "printf '[channel.audit]\\nn_subbufs = 4\\n' > '\(path).d/1.toml'")
      let log = try outputFile("log")
      let daemon = try ChildProcess(
        [program("relayd"), "--config", path, "--channel", "extra:global"], error: log.raw)
      defer {
        daemon.signal(SIGTERM)
        #expect(daemon.wait() == 0)
      }
      try eventually("ready") { text(of: log.raw).contains("ready") }
      #expect(text(of: log.raw).contains("channel audit: 4 sub-buffers"))
      for channel in ["audit", "extra"] {
        try run(
          "bash", "-c", "echo \(channel) | '\(program("relayctl"))' write \(channel)",
          environment: ["RELAY_SOCKET": "\(scratch.path)/control"])
        let device =
          Backend.underTest == .cuse ? "/dev/\(channel)0" : "\(mount)/\(channel)0"
        #expect(try run("cat", device).output == "\(channel)\n")
      }
    }

    @Test func waitingForCUSEIsNotForFUSE() throws {
      let finished = try run(program("relayd"), "--wait-for-cuse", "--backend", "fuse", "--check")
      #expect(finished.status == 64)
      #expect(finished.error.contains("--wait-for-cuse is for CUSE"))
    }
  }
}
