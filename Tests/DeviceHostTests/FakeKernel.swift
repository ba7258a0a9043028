// SPDX-License-Identifier: Apache-2.0
// The kernel's side of a CUSE connection, played over a socket pair against the real libfuse, shim
// and device: for moments that a real kernel rarely gives. One thread: a request is sent, served,
// and its answer received, in turn.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import DeviceHost
@testable import Relay

/// What the server wrote: an answer (`unique` as in the request) or a notification (`unique` 0).
struct Message: Equatable {
  var unique: UInt64
  var code: Int32
  var body: [UInt8]

  static func wake(_ pollHandle: UInt64) -> Message {
    Message(unique: 0, code: 1, body: bytes(pollHandle))
  }
}

func bytes<each Field: FixedWidthInteger>(_ fields: repeat each Field) -> [UInt8] {
  var bytes: [UInt8] = []
  for field in repeat each fields { withUnsafeBytes(of: field) { bytes += $0 } }
  return bytes
}

final class FakeKernel: SessionOwner {
  enum Operation: UInt32 {
    case open = 14
    case read = 15
    case write = 16
    case release = 18
    case interrupt = 36
    case ioctl = 39
    case poll = 40
    case initialize = 4096
  }

  let channel: Channel
  let device: Device
  private let socket: FileDescriptor
  private var session: Session?
  private(set) var lastUnique: UInt64 = 0

  convenience init(subbufSize: Int = 16 << 10, options: FileOptions = FileOptions()) throws {
    try self.init(try makeChannel(subbufSize: subbufSize), options: options)
  }

  init(_ channel: Channel, buffer: Int = 0, options: FileOptions = FileOptions()) throws {
    self.channel = channel
    device = Device(
      name: "test0", reader: Reader(channel, channel.buffers[buffer]), options: options)
    let pair = try UnixSocket.pair()
    socket = try pair.first.duplicate()
    let server = try pair.second.duplicate()
    for fd in [socket.raw, server.raw] { _ = fcntl(fd, F_SETFL, O_NONBLOCK) }
    session = try Session(
      loop: EventLoop(), owner: self, cuse: server, name: device.name, major: 0, minor: 0)
    let answer = try ask(.initialize, bytes(UInt32(7), UInt32(38), UInt32(0), UInt32(0)))
    #expect(answer.code == 0)
    #expect(String(decoding: answer.body, as: UTF8.self).contains("DEVNAME=test0\0"))
  }

  deinit { session?.destroy() }

  /// What the device's front end does when the kernel ends the session.
  func takeAway() { device.abandon(ObjectIdentifier(session!)) }

  /// Sends a request, lets the server serve it, and returns everything that the server wrote.
  func exchange(_ operation: Operation, _ body: [UInt8]) throws -> [Message] {
    lastUnique += 2
    let header =
      bytes(UInt32(40 + body.count), operation.rawValue, lastUnique, UInt64(1))
      + bytes(UInt32(0), UInt32(0), UInt32(1), UInt32(0))
    let isSent = try (header + body).withUnsafeBytes { bytes throws(SystemError) in
      try UnixSocket.send(socket.raw, bytes)
    }
    #expect(isSent)
    #expect(session!.step())
    return try messages()
  }

  /// What the server wrote since the last call.
  func messages() throws -> [Message] {
    var messages: [Message] = []
    var buffer = [UInt8](repeating: 0, count: 256 << 10)
    while true {
      let count = buffer.withUnsafeMutableBytes { recv(socket.raw, $0.baseAddress, $0.count, 0) }
      guard count >= 16 else { return messages }
      let message = buffer.withUnsafeBytes {
        Message(
          unique: $0.load(fromByteOffset: 8, as: UInt64.self),
          code: $0.load(fromByteOffset: 4, as: Int32.self), body: Array($0[16..<count]))
      }
      messages.append(message)
    }
  }

  /// The one answer to a request.
  func ask(_ operation: Operation, _ body: [UInt8]) throws -> Message {
    let messages = try exchange(operation, body)
    let answer = try #require(messages.first)
    #expect(messages.count == 1)
    #expect(answer.unique == lastUnique)
    return answer
  }

  /// Bytes that the server can have on the way; longer answers fail.
  func limitAnswers(to bytes: CInt) {
    var bytes = bytes
    let size = socklen_t(MemoryLayout<CInt>.size)
    #expect(setsockopt(session!.fd, SOL_SOCKET, SO_SNDBUF, &bytes, size) == 0)
  }

  func device(_ node: UInt64) -> Device? { device }
  func served(_ session: Session) {}
  func sessionEnded(_ session: Session) {}
  func lookup(_ request: OpaquePointer, parent: UInt64, name: String) { fatalError("a device") }
  func attributes(_ request: OpaquePointer, node: UInt64) { fatalError("a device") }
  func list(_ request: OpaquePointer, node: UInt64, size: Int, offset: UInt64) {
    fatalError("a device")
  }
}

extension FakeKernel {
  func open(_ flags: CInt = O_RDONLY) throws -> UInt64 {
    let answer = try ask(.open, bytes(UInt32(flags), UInt32(0)))
    #expect(answer.code == 0)
    try #require(answer.body.count == 16)
    return answer.body.withUnsafeBytes { $0.load(as: UInt64.self) }
  }

  static func read(
    _ file: UInt64, _ size: Int, at offset: UInt64 = 0, flags: CInt = 0
  ) -> [UInt8] {
    bytes(file, offset, UInt32(size), UInt32(0), UInt64(0)) + bytes(UInt32(flags), UInt32(0))
  }

  func read(_ file: UInt64, _ size: Int, at offset: UInt64 = 0) throws -> String {
    let answer = try ask(.read, FakeKernel.read(file, size, at: offset))
    #expect(answer.code == 0)
    return String(decoding: answer.body, as: UTF8.self)
  }

  static func write(
    _ file: UInt64, _ record: [UInt8], at offset: UInt64 = 0, flags: CInt = 0
  ) -> [UInt8] {
    bytes(file, offset, UInt32(record.count), UInt32(0), UInt64(0))
      + bytes(UInt32(flags), UInt32(0)) + record
  }

  /// What a write is answered: the bytes written, or -errno.
  func write(
    _ file: UInt64, _ record: [UInt8], at offset: UInt64 = 0, flags: CInt = O_NONBLOCK
  ) throws -> Int {
    let answer = try ask(.write, FakeKernel.write(file, record, at: offset, flags: flags))
    return FakeKernel.count(answer)
  }

  static func count(_ answer: Message) -> Int {
    guard answer.code == 0 else { return Int(answer.code) }
    return Int(answer.body.withUnsafeBytes { $0.load(as: UInt32.self) })
  }

  /// - Parameter pollHandle: what a wake will name; nil: the reader doesn't wait.
  func poll(_ file: UInt64, _ pollHandle: UInt64?, for events: CInt = POLLIN) throws -> CInt {
    let answer = try ask(
      .poll, bytes(file, pollHandle ?? 0, UInt32(pollHandle == nil ? 0 : 1), UInt32(events)))
    #expect(answer.code == 0)
    return answer.body.withUnsafeBytes { $0.load(as: CInt.self) }
  }

  /// An ioctl as the kernel passes it on: with what the command's number says.
  /// - Parameter output: bytes that the answer may have; nil: as the number says.
  func ask(
    _ file: UInt64, _ command: UInt32, _ input: [UInt8] = [], output: Int? = nil
  ) throws -> Message {
    let isRead = command >> 31 == 1
    let size = output ?? (isRead ? Int(command >> 16 & 0x3fff) : 0)
    return try ask(.ioctl, FakeKernel.ioctl(file, command, input, size))
  }

  static func ioctl(
    _ file: UInt64, _ command: UInt32, _ input: [UInt8], _ size: Int = 0
  ) -> [UInt8] {
    bytes(file, UInt32(0), command, UInt64(0), UInt32(input.count), UInt32(size)) + input
  }

  /// What it answers: 0, or an errno value.
  func control(_ file: UInt64, _ command: UInt32, _ value: CInt? = nil) throws -> CInt {
    let answer = try ask(file, command, value.map { bytes($0) } ?? [])
    // The result and what retries would need: all zero.
    #expect(answer.code != 0 || answer.body == [UInt8](repeating: 0, count: 16))
    return -answer.code
  }

  /// As a process that writes could: the current sub-buffer is one that there is not.
  func damage() {
    channel.buffers[0].currentWord.pointee.store(
      Current(seq: 1 << 20, subbuf: 0xffff).raw, ordering: .relaxed)
  }

  func release(_ file: UInt64) throws {
    let answer = try ask(.release, bytes(file, UInt32(0), UInt32(0), UInt64(0)))
    #expect(answer == Message(unique: lastUnique, code: 0, body: []))
  }
}
