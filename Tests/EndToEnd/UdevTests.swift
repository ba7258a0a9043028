// SPDX-License-Identifier: Apache-2.0
// A daemon that is not root: its nodes get their owner, group and mode from a real udev, through
// the rule and the program that are installed with relayd.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.enabled(if: Backend.underTest == .cuse)) struct UdevTests {
    private static let nobody: UInt32 = 65534
    private let systemd: String

    init() throws {
      systemd =
        "/" + "\(#filePath)".split(separator: "/").dropLast(3).joined(separator: "/") + "/systemd"
    }

    private func startUdev() throws {
      try run("mkdir", "-p", "/run/udev/rules.d", "/run/relayd")
      let rule = try run(
        "sed", "s|/usr/lib/relayd|\(systemd)|", "\(systemd)/60-relayd.rules")
      let file = try FileDescriptor.open(
        "/run/udev/rules.d/60-relayd.rules", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
      let bytes = Array(rule.output.utf8)
      #expect(write(file.raw, bytes, bytes.count) == bytes.count)
      #expect(try run("/lib/systemd/systemd-udevd", "--daemon").status == 0)
    }

    private func node(_ name: String) throws -> Finished { try run("\(systemd)/relayd-node", name) }

    @Test func anUnprivilegedDaemonsNodesAreGivenToTheirOwners() throws {
      try startUdev()
      defer { _ = try? run("pkill", "-f", "systemd-udevd") }
      let scratch = try Scratch()
      for path in ["/run/relayd", "/dev/cuse", scratch.path] {
        #expect(chown(path, UdevTests.nobody, UdevTests.nobody) == 0)
      }
      defer { chown("/dev/cuse", 0, 0) }
      let daemon = try Daemon(
        "net/rx:global,permissions=0440,group=4242", "own:global", in: scratch,
        prefix: ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
      // Ready means: as it should be.
      #expect(try run("stat", "-c", "%u:%g %a", "/dev/net/rx0").output == "65534:4242 440\n")
      #expect(try run("stat", "-c", "%u:%g %a", "/dev/own0").output == "65534:65534 400\n")

      #expect(try node("net/rx0").status != 0, "it has an owner")
      #expect(chown("/dev/net/rx0", 0, 0) == 0 && chmod("/dev/net/rx0", 0o600) == 0)
      #expect(try node("net/rx0").output == "65534 4242 0440\n")
      for name in ["tpm0", "../../../etc/passwd", ".lock", ""] {
        #expect(try node(name).status != 0, "\(name) is not ours")
      }
      // Another program's device of this name has another number.
      #expect(try run("mknod", "-m", "600", "/dev/null0", "c", "1", "3").status == 0)
      #expect(rename("/dev/null0", "/dev/own0") == 0)
      #expect(try node("own0").status != 0, "it is not ours")
      // Nobody else removes it.
      unlink("/dev/own0")
      daemon.end(SIGKILL)
      #expect(try node("net/rx0").status != 0, "nobody answers for a daemon that is gone")
    }

    @Test func withoutTheRuleTheRefusalSaysWhatToDo() throws {
      let scratch = try Scratch()
      for path in ["/dev/cuse", scratch.path] {
        #expect(chown(path, UdevTests.nobody, UdevTests.nobody) == 0)
      }
      defer { chown("/dev/cuse", 0, 0) }
      let finished = try run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program("relayd")]
          + Daemon.arguments("\(scratch.path)/control", "") + ["--channel", "own:global"])
      #expect(finished.status == 1)
      #expect(finished.error.contains("/dev/own0 is 0:0 0600"), "\(finished.error)")
      #expect(finished.error.contains("60-relayd.rules"), "\(finished.error)")
    }
  }
}
