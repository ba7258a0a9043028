// SPDX-License-Identifier: Apache-2.0
// The two ends of sd_notify, and children that are handed descriptors.

import Glibc
import LinuxIO
import Testing

@Suite struct NotifyTests {
  @Test func whoSentSomethingIsKnown() throws {
    let manager = try NotifySocket()
    let sender = try ChildProcess(
      [
        "python3", "-c",
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
          + "s.connect('\(manager.name)'); s.send(b'READY=1')",
      ])
    #expect(sender.wait() == 0)
    try withUnsafeTemporaryAllocation(byteCount: 64, alignment: 1) { buffer in
      guard
        let packet = try UnixSocket.receive(
          manager.raw, into: buffer, withSender: true, dontWait: true)
      else { throw SystemError(code: EAGAIN, operation: "receive") }
      #expect(packet.sender == sender.pid)
      #expect(String(decoding: buffer[..<packet.count], as: UTF8.self) == "READY=1")
    }
  }

  @Test func otherUsersDoNotReachIt() throws {
    let manager = try NotifySocket()
    var status = stat()
    #expect(stat(manager.name, &status) == 0)
    #expect(status.st_mode == S_IFSOCK | 0o600)
    #expect(status.st_uid == geteuid())
  }

  @Test func anAbstractNameIsReachedToo() throws {
    let socket = FileDescriptor(owning: Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0))
    let name = "relayd-test-\(getpid())"
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0[1...].copyBytes(from: name.utf8) }
    let length = socklen_t(MemoryLayout<sa_family_t>.size + 1 + name.utf8.count)
    let bound = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(socket.raw, $0, length) }
    }
    #expect(bound == 0)
    let sender = try NotifySocket.connect("@" + name, timeoutMilliseconds: 1000)
    #expect(send(sender.raw, "x", 1, 0) == 1)
    #expect(
      code { () throws(SystemError) in _ = try NotifySocket.connect("@", timeoutMilliseconds: 1) }
        == ECONNREFUSED)
  }

  @Test func aChildFindsWhatItIsHandedFromThreeOn() throws {
    let directory = TemporaryDirectory()
    var files: [(name: String, raw: CInt)] = []
    // Some of them where others are to be.
    for index in 0..<20 {
      let file = try MemoryFile.create(name: "\(index)", count: 0)
      #expect(write(file.raw, "\(index)", "\(index)".utf8.count) > 0)
      files.append((name: "n\(index)", raw: file.take()))
    }
    defer { for file in files { close(file.raw) } }
    let script = """
      [ "$LISTEN_PID" = $$ ] && [ "$LISTEN_FDS" = 20 ] && [ "$NEW" = 1 ] &&
      ! grep -qz ^PATH= /proc/$$/environ &&
      IFS=:; fd=3; for name in $LISTEN_FDNAMES; do
        echo "$name=$(cat /proc/self/fd/$fd)"; fd=$((fd + 1))
      done >\(directory.path)/found
      """
    let child = try ChildProcess(
      ["bash", "-c", script], handingOver: files.shuffled(), environment: ["PATH": nil, "NEW": "1"])
    #expect(child.wait() == 0)
    let found = try Files.contents(of: "\(directory.path)/found", atMost: 4096)
    #expect(
      Set(String(decoding: found, as: UTF8.self).split(separator: "\n"))
        == Set((0..<20).map { "n\($0)=\($0)" }))
  }

  @Test func aChildThatIsHandedNothingIsToldNothing() throws {
    let child = try ChildProcess(
      ["bash", "-c", "! env | grep LISTEN_"], handingOver: [], environment: ["LISTEN_FDS": "1"])
    #expect(child.wait() == 0)
  }

  @Test func aProgramThatIsNotThereIsSaid() throws {
    for name in ["/nowhere/relayd", "no-such-relayd"] {
      do throws(SystemError) {
        _ = try ChildProcess([name], handingOver: [], environment: [:])
        Issue.record("started \(name)")
      } catch {
        #expect(error.description == "start \(name): No such file or directory")
      }
    }
  }
}
