// SPDX-License-Identifier: Apache-2.0
// Packets with the processes that sent them, which are not those that connected.

import Glibc
import Testing

@testable import LinuxIO

@Suite final class SenderTests {
  private let pair: SocketPair

  init() throws { pair = try UnixSocket.pair() }

  private func send(_ descriptors: [CInt] = []) throws {
    let bytes: [UInt8] = [1, 2, 3]
    let isSent = try bytes.withUnsafeBytes {
      try UnixSocket.send(pair.first.raw, $0, descriptors: descriptors)
    }
    #expect(isSent)
  }

  /// Calls `body` with the packet that is there.
  private func receive(_ body: (inout SentPacket) -> Void) throws {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 8)
    defer { buffer.deallocate() }
    guard var packet = try UnixSocket.receiveWithSender(pair.second.raw, into: buffer) else {
      Issue.record("nothing was received")
      return
    }
    body(&packet)
  }

  private func failure(_ packet: inout SentPacket) -> CInt? {
    do throws(SystemError) {
      _ = try packet.sender.takeProcess()
      return nil
    } catch { return error.code }
  }

  @Test func childIsTheSenderOfWhatItSends() throws {
    try UnixSocket.askSenders(pair.second.raw, true)
    let child = try ChildProcess(
      [
        "python3", "-c",
        "import socket, time; socket.socket(fileno=0).send(b'123'); time.sleep(1000)",
      ],
      input: pair.first.raw)
    let isThere = Readiness.wait(pair.second.raw, .read, timeoutMilliseconds: 30_000)
    #expect(isThere.contains(.read))
    try receive { packet in
      let (count, isTruncated) = (packet.count, packet.isTruncated)
      #expect(count == 3 && !isTruncated)
      let credentials = packet.sender.credentials
      let expected = PeerCredentials(pid: child.pid, uid: getuid(), gid: getgid())
      #expect(credentials == expected)
      guard let process = try? packet.sender.takeProcess() else {
        Issue.record("the sender has no handle")
        return
      }
      let before = process.hasExited
      child.signal(SIGKILL)
      _ = child.wait()
      let after = process.hasExited
      #expect(!before && after)
      let failure = failure(&packet)
      #expect(failure == ESRCH, "it is taken once")
    }
  }

  @Test func packetSentBeforeAnybodyAskedHasNoSender() throws {
    try send()
    try UnixSocket.askSenders(pair.second.raw, true)
    try receive { packet in
      let credentials = packet.sender.credentials
      #expect(credentials.pid == 0 && credentials.uid != 0)
      // Before Linux 6.5 there is no number to look up.
      let failure = failure(&packet)
      #expect(failure == ESRCH || failure == EOPNOTSUPP)
    }
  }

  @Test(arguments: [1, 2, 3, 16]) func descriptorsOfASenderAreClosed(_ count: Int) throws {
    try UnixSocket.askSenders(pair.second.raw, true)
    let end = try sendPipe(count)
    try receive { packet in
      let isTruncated = packet.isTruncated
      #expect(isTruncated)
    }
    // No other writer is left.
    let isOver = Readiness.wait(end.raw, .hangup, timeoutMilliseconds: 10_000)
    #expect(isOver.contains(.hangup))
  }

  /// Sends copies of the write end of a pipe, and returns the other one.
  private func sendPipe(_ count: Int) throws -> FileDescriptor {
    let pipe = try Pipe()
    try send([CInt](repeating: pipe.write.raw, count: count))
    return try pipe.read.duplicate()
  }

  @Test func packetsHaveNoSendersOnceNobodyAsks() throws {
    try UnixSocket.askSenders(pair.second.raw, true)
    try UnixSocket.askSenders(pair.second.raw, false)
    try send()
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 8)
    defer { buffer.deallocate() }
    guard let packet = try UnixSocket.receive(pair.second.raw, into: buffer, dontWait: true) else {
      Issue.record("nothing was received")
      return
    }
    let isTruncated = packet.isTruncated
    #expect(!isTruncated)
  }
}
