// SPDX-License-Identifier: Apache-2.0
// A relayd that starts before /dev/cuse is there, as in early boot.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.enabled(if: Backend.underTest == .cuse)) struct LateCUSETests {
    /// How /dev/cuse is away: its node only, or the whole module.
    enum Absence: CaseIterable { case node, module }

    /// Takes /dev/cuse away; false where that cannot be (the kernel has CUSE built in).
    func takeAway(_ absence: Absence) throws -> Bool {
      switch absence {
      case .node: unlink("/dev/cuse") == 0
      case .module: try run("rmmod", "cuse").status == 0
      }
    }

    /// What is there already stays.
    func bringBack(_ absence: Absence) throws {
      let command =
        switch absence {
        case .node: "[[ -c /dev/cuse ]] || mknod -m 600 /dev/cuse c 10 203"
        // The node that a test made is not the kernel's, and stays without its module.
        case .module:
          """
          grep -q "^cuse " /proc/modules || modprobe cuse 2>/dev/null ||
            insmod "$(find /lib/modules/$(uname -r) /usr/lib/uml/modules/$(uname -r) \
              -name 'cuse.ko*' 2>/dev/null | head -n 1)"
          """
        }
      let finished = try run("bash", "-c", command)
      guard finished.status == 0 else { throw Failure("no /dev/cuse any more: \(finished.error)") }
    }

    @Test(arguments: Absence.allCases)
    func writesAreTakenFromTheStartAndNodesComeWithCUSE(_ absence: Absence) throws {
      guard try takeAway(absence) else {
        #expect(absence == .module)
        return
      }
      // Whatever happens, for the tests after this one.
      defer { #expect(throws: Never.self) { try bringBack(absence) } }
      let daemon = try Daemon(
        "relay:global", "net/late:global,read=block", options: ["--wait-for-cuse"])
      #expect(
        daemon.logText.contains(
          "ready: channels take writes; what can be read appears once /dev/cuse does"))
      try daemon.write("early\n")
      try daemon.write("too\n", to: "net/late")
      try daemon.require("create", "made", "--global", "--keep")
      try daemon.write("made\n", to: "made")
      try daemon.require("create", "gone", "--global")
      try daemon.require("close", "gone")
      #expect(try daemon.statistic("records_unread") == 1)
      #expect(access("/dev/relay0", F_OK) == -1)
      try bringBack(absence)
      try eventually("the nodes are there") {
        ["relay0", "net/late0", "made0"].allSatisfy { access("/dev/\($0)", R_OK) == 0 }
      }
      #expect(try run("stat", "-c", "%a", "/dev/net/late0").output == "400\n")
      #expect(try run("cat", "/dev/relay0", "/dev/made0").output == "early\nmade\n")
      #expect(try run("head", "-c", "4", "/dev/net/late0").output == "too\n")
      #expect(daemon.logText.contains("/dev/cuse is there: 3 devices through CUSE"))
      // From here on as always.
      try daemon.write("late\n")
      #expect(try run("cat", "/dev/relay0").output == "late\n")
      try daemon.require("create", "next", "--global")
      #expect(access("/dev/next0", R_OK) == 0)
      #expect(daemon.end() == 0)
    }

    @Test func whatCannotBeServedThenIsSaid() throws {
      #expect(unlink("/dev/cuse") == 0)
      defer { #expect(throws: Never.self) { try bringBack(.node) } }
      let daemon = try Daemon("relay:global", "tty:global", options: ["--wait-for-cuse"])
      try bringBack(.node)
      try eventually("the others are there") { access("/dev/relay0", R_OK) == 0 }
      try eventually("it is said") {
        daemon.logText.contains("its records are kept, and nobody can read them")
      }
      #expect(daemon.logText.contains("/dev/tty0 exists already"))
      #expect(daemon.logText.contains("/dev/cuse is there: 1 device through CUSE"))
      // Nobody is sent to the other program's device.
      let list = try daemon.relayctl("list").output
      #expect(list.contains("none now") && !list.contains("/dev/tty0"))
      let read = try daemon.relayctl("read", "tty")
      #expect(read.status == 1 && read.error.contains("channel tty has no device now"))
      #expect(try daemon.relayctl("reload").error.contains("/dev/tty0 exists already"))
    }

    @Test func whereItIsThereAlreadyNothingWaits() throws {
      let daemon = try Daemon("relay:global", options: ["--wait-for-cuse"])
      #expect(daemon.logText.contains("ready: 1 device through CUSE"))
      #expect(access("/dev/relay0", R_OK) == 0)
    }

    @Test func withoutTheFlagItIsAnErrorThatSaysWhatToDo() throws {
      #expect(unlink("/dev/cuse") == 0)
      defer { #expect(throws: Never.self) { try bringBack(.node) } }
      let scratch = try Scratch()
      let finished = try run(
        program("relayd"), "--backend", "cuse", "--socket", "\(scratch.path)/control")
      #expect(finished.status == 1)
      #expect(finished.error.contains("/dev/cuse is missing: load the module with `modprobe cuse`"))
      #expect(finished.error.contains("--wait-for-cuse"))
    }
  }
}
