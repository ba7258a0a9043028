// SPDX-License-Identifier: Apache-2.0
// What somebody does to a device node with ordinary tools: relayd notices, says it, lists only what
// can be opened, and makes a node again where its place is empty.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.enabled(if: Backend.underTest == .cuse)) struct NodePlaceTests {
    private let daemon: Daemon

    init() throws { daemon = try Daemon("relay:global", "other:global") }

    private func isDevice() -> Bool {
      var status = stat()
      return lstat("/dev/relay0", &status) == 0 && status.st_mode & S_IFMT == S_IFCHR
    }

    private func say(_ text: String, after command: String) throws {
      let finished = try daemon.shell(command)
      #expect(finished.status == 0, "\(finished.error)")
      try eventually("\(text): \(daemon.logText)") { daemon.logText.contains(text) }
    }

    private func devices() throws -> [String] {
      try daemon.relayctl("list", "--json").output.components(separatedBy: "\"/dev/").dropFirst()
        .map { String($0.prefix { $0 != "\"" }) }
    }

    private func read() throws -> String {
      try run("timeout", "20", "cat", "/dev/relay0").output
    }

    @Test(arguments: ["rm /dev/relay0", "mv /dev/relay0 /dev/moved0"])
    func removedNodeIsMadeAgainWithItsData(_ command: String) throws {
      defer { unlink("/dev/moved0") }
      try daemon.write("kept\n")
      try say("somebody removed /dev/relay0: it is made again now", after: command)
      try eventually("it is there again") { try isDevice() && devices() == ["relay0", "other0"] }
      #expect(try read() == "kept\n")
    }

    /// Both take the name in one step.
    @Test(arguments: ["touch /dev/file; mv /dev/file", "ln -sfT null"])
    func replacedNodeIsNotListedUntilTheOtherFileIsGone(_ command: String) throws {
      try daemon.write("kept\n")
      try say("somebody replaced /dev/relay0 by another file", after: "\(command) /dev/relay0")
      #expect(try devices() == ["other0"])
      try daemon.write("more\n")
      // Nobody removes it but the one who put it there.
      #expect(!isDevice())
      unlink("/dev/relay0")
      try eventually("the node is there again") { try isDevice() && devices().count == 2 }
      #expect(try read() == "kept\nmore\n")
    }

    /// Over the node alone, or over the directory that it is in.
    @Test(arguments: [
      ("relay", "/dev/relay0", "--bind /dev/null"), ("in/relay", "/dev/in", "-t tmpfs none"),
    ])
    func coveredNodeIsNotListedUntilItIsUnmounted(
      _ channel: String, _ place: String, _ mount: String
    ) throws {
      try daemon.require("create", "in/relay", "--global", "--keep")
      let path = "/dev/\(channel)0"
      try daemon.write("kept\n", to: channel)
      #expect(try devices().count == 3)
      try say("somebody mounted something over \(path): nobody", after: "mount \(mount) \(place)")
      #expect(try devices() == ["relay0", "other0", "in/relay0"].filter { "/dev/" + $0 != path })
      try say("\(path) leads to its channel again", after: "umount \(place)")
      #expect(try devices().count == 3)
      #expect(try run("timeout", "20", "cat", path).output == "kept\n")
      #expect(!daemon.logText.contains("made again"), "\(daemon.logText)")
    }

    @Test func removedNodeThatIsOpenIsMadeAgainAfterTheLastClose() throws {
      let file = try FileDescriptor.open("/dev/relay0", O_RDONLY)
      try say(
        "somebody removed /dev/relay0: it is made again when nobody has it open any more",
        after: "rm /dev/relay0")
      try daemon.write("one\n")
      var bytes = [UInt8](repeating: 0, count: 8)
      #expect(Glibc.read(file.raw, &bytes, 8) == 4, "who has it open reads on")
      #expect(try devices() == ["other0"])
      close(file.take())
      try eventually("it is there again") { isDevice() }
    }

    @Test func nodeThatLeadsToTheSameDeviceWillDo() throws {
      let number = try run("sed", "s/:/ /", "/sys/class/cuse/relay0/dev").output.dropLast()
      let file = try FileDescriptor.open("/dev/relay0", O_RDONLY)
      try say("somebody removed /dev/relay0", after: "rm /dev/relay0")
      #expect(try daemon.shell("mknod -m 400 /dev/relay0 c \(number)").status == 0)
      close(file.take())
      defer { unlink("/dev/relay0") }
      try eventually("it is listed") { try devices().count == 2 }
      try daemon.write("one\n")
      #expect(try read() == "one\n")
    }

    @Test func changedModeIsReported() throws {
      try say(
        "somebody changed /dev/relay0: it is 0:0 0666 and should be 0:0 0400",
        after: "chmod 666 /dev/relay0")
      #expect(try devices().count == 2)
    }
  }
}
