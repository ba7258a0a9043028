// SPDX-License-Identifier: Apache-2.0
// What is particular to a relayfs mount: its directory, its mount point, and what a killed daemon
// leaves.

import Glibc
import LinuxIO
import Relay
import Synchronization
import Testing

@testable import DeviceHost

@Suite(.serialized, .enabled(if: backend == .fuse)) struct RelayfsTests {
  @Test func theMountHoldsOneReadOnlyFileForEachDevice() throws {
    let channel = try makeChannel()
    let host = try LiveHost((0..<5).map { ("test\($0)", channel) })
    let names = (0..<5).map { "test\($0)\n" }.joined()
    #expect(try output("ls", host.mountPoint.path) == names)
    #expect(try output("stat", "-c", "%a %F", host.mountPoint.path) == "555 directory\n")
    #expect(
      try output("stat", "-c", "%a %s %F", host.path("test3")) == "400 0 regular empty file\n")
    #expect(throws: SystemError.self) { _ = try openFile(host.path("test5")) }
  }

  @Test func aDirectoryOfManyFilesIsListedWhole() throws {
    let channel = try makeChannel()
    let host = try LiveHost((0..<500).map { ("long-name-of-a-channel\($0)", channel) })
    let listing = try output("ls", host.mountPoint.path)
    #expect(listing.split(separator: "\n").count == 500)
  }

  @Test func stoppingUnmounts() throws {
    let host = try LiveHost([("test0", makeChannel())])
    #expect(host.mountPoint.isMounted)
    host.stop()
    #expect(!host.mountPoint.isMounted)
  }

  @Test func aMountPointThatIsNotThereIsNamed() throws {
    let message = try #require(try failure(.fuse, mountPoint: "/nonexistent/here", ["test0"]))
    #expect(message.contains("/nonexistent/here"))
    #expect(message.contains("No such file or directory"))
  }

  @Test func twoDevicesOfOneNameAreFound() throws {
    let mountPoint = MountPoint()
    let message = try #require(
      try failure(.fuse, mountPoint: mountPoint.path, ["same0", "same0"]))
    #expect(
      message
        == "device same0: \(mountPoint.path)/same0 exists already; choose another channel name")
  }

  @Test func whatCameUpBeforeADeviceThatCannotIsTakenDown() throws {
    let channel = try makeChannel()
    let host = try LiveHost([("twice0", channel)])
    let names = ["first0", "second0", "twice0"]
    #expect(throws: HostError.self) {
      try host.host.add(names.map { Device(name: $0, reader: Reader(channel, channel.buffers[0])) })
    }
    #expect(try output("ls", host.mountPoint.path) == "twice0\n")
    channel.write("here")
    #expect(try output("cat", host.path("twice0")) == "here")
  }

  @Test func aMountPointThatIsAFileIsNamed() throws {
    let message = try #require(try failure(.fuse, mountPoint: "/etc/passwd", ["test0"]))
    #expect(message.contains("/etc/passwd is not a directory"))
  }

  @Test func theMountOfAKilledDaemonIsReplaced() throws {
    let mountPoint = MountPoint()
    do {
      let fuse = try FileDescriptor.open("/dev/fuse", O_RDWR | O_CLOEXEC)
      let options = "fd=\(fuse.raw),rootmode=40000,user_id=0,group_id=0"
      #expect(mount("dead", mountPoint.path, "fuse", 0, options) == 0)
    }
    // Its connection is closed, as if its daemon had been killed.
    var status = stat()
    #expect(stat(mountPoint.path, &status) == -1 && errno == ENOTCONN)

    let notices = Mutex<[String]>([])
    let host = try DeviceHost(
      backend: .fuse, mountPoint: mountPoint.path, threadCount: 1,
      log: { line, _, _ in
        notices.withLock { $0.append(line) }
        return true
      }, logUse: { _, _ in })
    try host.start()
    #expect(notices.withLock { $0.count == 1 && $0[0].contains(mountPoint.path) })
    host.stop()
    #expect(!mountPoint.isMounted)
  }
}
