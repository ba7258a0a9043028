// SPDX-License-Identifier: Apache-2.0
// relayd as a system service: installed as users install it, started, reloaded, restarted and
// stopped by a real systemd (Tests/VM/with-systemd).

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.enabled(if: environment("RELAY_TEST_SYSTEMD") == "1")) struct ServiceTests {
    @discardableResult
    private func shell(_ command: String) throws -> String {
      let finished = try run("bash", "-c", command)
      guard finished.status == 0 else {
        throw Failure(
          "\(command): \(finished.output)\(finished.error)"
            + (try run("systemctl", "status", "--no-pager", "relayd").output))
      }
      return finished.output
    }

    private func install(_ configuration: String) throws {
      let root = "/" + "\(#filePath)".split(separator: "/").dropLast(3).joined(separator: "/")
      try shell("make --no-print-directory -C \(root) install BUILD=\(try build(root))")
      try shell("systemd-sysusers && systemctl daemon-reload && udevadm control --reload")
      try shell("mkdir -p /etc/relayd")
      try shell("cat > /etc/relayd/relayd.toml <<'EOF'\n\(configuration)EOF")
    }

    @Test func theServiceStartsReloadsRestartsAndStops() throws {
      try install(
        "[channel.audit]\nglobal = true\npermissions = \"0440\"\ngroup = \"adm\"\n")
      // Nobody tells systemctl of another socket.
      try shell("sed -i '1i socket = \"/run/relayd/other\"' /etc/relayd/relayd.toml")
      setenv("RELAY_SOCKET", "/run/relayd/other", 1)
      defer { unsetenv("RELAY_SOCKET") }
      // Type=notify: started means ready.
      try shell("systemctl start relayd")
      #expect(try shell("stat -c '%U:%G %a' /dev/audit0") == "root:adm 440\n")
      try shell("echo one | relayctl write audit")
      #expect(try shell("cat /dev/audit0") == "one\n")

      try shell("printf '[channel.extra]\\nglobal = true\\n' >> /etc/relayd/relayd.toml")
      try shell("systemctl reload relayd && test -c /dev/extra0")
      try shell("echo 'nonsense = 1' >> /etc/relayd/relayd.toml")
      #expect(try run("systemctl", "reload", "relayd").status != 0, "a refusal is seen")
      try shell("sed -i /nonsense/d /etc/relayd/relayd.toml; echo two | relayctl write audit")
      #expect(try shell("cat /dev/audit0") == "two\n", "it serves on")

      try shell("systemctl restart relayd && test -c /dev/audit0 && test -c /dev/extra0")
      try shell("systemctl kill --signal=KILL relayd")
      try eventually("Restart= brings it back") {
        try run("relayctl", "list").output.contains("audit")
      }
      try shell("systemctl stop relayd")
      #expect(access("/dev/audit0", F_OK) != 0)
      #expect(try shell("systemctl show -P Result relayd") == "success\n")
    }

    /// Ends the relayd, $PID in the command, and waits for the next one.
    private func kill(_ command: String) throws {
      let before = try shell("systemctl show -P MainPID relayd")
      try shell("PID=\(before.dropLast()); \(command)")
      try eventually("Restart= brings it back") {
        let now = try shell("systemctl show -P MainPID relayd")
        return now != before && now != "0\n"
      }
    }

    @Test func writersAndAFollowerSeeEveryRecordThroughTwentyRestarts() throws {
      try install("[channel.relay]\nglobal = true\nsubbuf_size = \"1MiB\"\n")
      try shell("systemctl start relayd")
      let survivors = try Survivors(environment: [:])
      for i in 0..<20 {
        try survivors.awaitProgress()
        // So many in so short a time are more than its limit.
        try shell("systemctl reset-failed relayd")
        if i % 2 == 0 {
          try shell("systemctl restart relayd")
        } else {
          // The last one by the kernel's choice, which is made easy.
          try kill(
            i == 19
              ? "echo 1000 > /proc/$PID/oom_score_adj; echo f > /proc/sysrq-trigger"
              : "kill -KILL $PID")
        }
      }
      try survivors.awaitProgress()
      try survivors.check()
      try shell("systemctl stop relayd")
    }

    /// The build directory below the project, from where the programs under test are.
    private func build(_ root: String) throws -> String {
      let release = environment("RELAY_BIN")!
      guard release.hasPrefix(root + "/"), release.hasSuffix("/release") else {
        throw Failure("\(release) is not below \(root)")
      }
      return String(release.dropFirst(root.count + 1).dropLast("/release".count))
    }
  }
}
