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

    private let audit = "[channel.audit]\nglobal = true\n"

    private func statistic(_ key: String) throws -> Int {
      let text = try shell("relayctl stat audit --json")
      return Int(
        text.components(separatedBy: "\"\(key)\" :").last!.drop { $0 == " " }.prefix { $0.isNumber }
      )!
    }

    @Test func aTypoAndARestartLoseNothing() throws {
      try install(audit)
      try shell("systemctl start relayd; printf 'one\\ntwo\\n' | relayctl write audit")
      try shell(
        "echo 'nonsense = 1' > /etc/relayd/typo; cat /etc/relayd/relayd.toml >> /etc/relayd/typo")
      try shell(
        "cp /etc/relayd/relayd.toml /etc/relayd/right; cp /etc/relayd/typo /etc/relayd/relayd.toml")
      try shell("systemctl restart relayd")
      let complaint = "configuration refused: /etc/relayd/relayd.toml:1: unknown key nonsense"
      #expect(try shell("systemctl show -P StatusText relayd").contains(complaint))
      #expect(try shell("head -c 4 /dev/audit0") == "one\n")
      // Also for the one after it, and however it ends.
      try kill("kill -KILL $PID")
      try eventually("it is up") { try run("relayctl", "stat", "audit").status == 0 }
      #expect(try shell("systemctl show -P StatusText relayd").contains(complaint))
      #expect(try run("systemctl", "reload", "relayd").status != 0)
      try shell("cp /etc/relayd/right /etc/relayd/relayd.toml; systemctl reload relayd")
      #expect(try !shell("systemctl show -P StatusText relayd").contains("refused"))
      #expect(try shell("cat /dev/audit0") == "two\n")
      #expect(try statistic("lost_restart") == 0)
      try shell("systemctl stop relayd")
      // With nothing handed over it fails, and stays so.
      try shell("cp /etc/relayd/typo /etc/relayd/relayd.toml")
      #expect(try run("systemctl", "start", "relayd").status != 0)
      #expect(try shell("systemctl show -P ActiveState relayd") == "failed\n")
      try shell("cp /etc/relayd/right /etc/relayd/relayd.toml; systemctl start relayd")
      try shell("systemctl stop relayd")
    }

    /// Each as soon as it is up: after five it waits longer and longer by itself.
    @Test func tenKillsInARowLoseNothing() throws {
      try install(audit)
      try shell("systemctl start relayd")
      for i in 0..<10 {
        try shell("echo \(i) | relayctl write audit")
        try kill("kill -KILL $PID")
        try eventually("it is up", within: 60) { try run("relayctl", "stat", "audit").status == 0 }
      }
      #expect(try shell("cat /dev/audit0") == "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n")
      #expect(try statistic("lost_restart") == 0)
      #expect(try shell("systemctl show -P NRestarts relayd") == "10\n")
      // However it ended, and whoever ended it.
      try shell("echo last | relayctl write audit")
      try kill("kill -TERM $PID")
      try eventually("it is up", within: 60) { try run("relayctl", "stat", "audit").status == 0 }
      #expect(try shell("cat /dev/audit0") == "last\n")
      try shell("systemctl stop relayd")
    }

    /// Where the version keeps the store, all are there; where it does not, all are counted.
    @Test(arguments: [false, true]) func stopAndStartLoseNothingSilently(_ withProducer: Bool)
      throws
    {
      try install(audit)
      try shell("systemctl start relayd")
      let input = try Pipe()
      let writer = try ChildProcess(["relayctl", "write", "audit"], input: input.read.raw)
      func write(_ count: Int) {
        for _ in 0..<count { _ = Glibc.write(input.write.raw, "line 67\n", 8) }
      }
      write(20)
      try eventually("it writes") { try statistic("records_written") == 20 }
      if !withProducer {
        writer.signal(SIGTERM)
        _ = writer.wait()
      }
      try shell("systemctl stop relayd")
      let left = try shell("cat /run/relayd/lost")
      #expect(left.contains("audit 0 ") && left.hasSuffix(" 20\n"), "\(left)")
      if withProducer { write(30) }
      try shell("systemctl start relayd")
      if withProducer {
        write(1000)
        try eventually("it moved over") {
          try statistic("records_written") + statistic("lost_restart") == 1050
        }
        writer.signal(SIGTERM)
        _ = writer.wait()
      }
      #expect(
        try statistic("records_unread") + statistic("lost_restart") == (withProducer ? 1050 : 20))
      #expect(try !shell("cat /run/relayd/lost").contains("audit"), "it is counted")
      try shell("systemctl stop relayd; rm /run/relayd/lost; true")
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
