// SPDX-License-Identifier: Apache-2.0
// What producers see of a daemon: a channel, a life page, and a socket that answers. Its life is
// played; LifeTests have real ones.

import CLinux
import Glibc
import LinuxIO
import Synchronization

@testable import Relay

/// Where a daemon listens, until the test ends.
final class SocketDirectory: Sendable {
  private let path: String
  var socket: String { "\(path)/control" }

  init() {
    var template = Array("/tmp/daemon-XXXXXX".utf8CString)
    path = template.withUnsafeMutableBufferPointer { String(cString: mkdtemp($0.baseAddress!)) }
  }

  deinit {
    unlink(socket)
    unlink("\(socket).lock")
    rmdir(path)
  }
}

final class FakeDaemon: Sendable {
  static let header: [UInt8] = [9, 128, 0, 0, 2, 0, 0, 0]
  static let request: [UInt8] = [9, 1, 0, 0]

  let channel: Channel
  let life: LifePage
  private let words: Mapping

  init(
    _ name: String = "test", mode: ChannelMode = .discard, subbufSize: Int = 16,
    subbufCount: Int = 4
  ) throws {
    life = try LifePage.create()
    words = try Mapping.shared(
      life.storeDescriptor, count: 4096, writable: true, inheritedByChildren: false)
    channel = try Channel.openShared(
      name,
      Geometry(
        subbufSize: subbufSize, subbufCount: subbufCount, mode: mode, isGlobal: true,
        online: CPUSet([0]),
        possible: CPUSet([0])))
    serve(generation: 1)
  }

  private var word: UnsafePointer<Atomic<UInt32>> {
    UnsafePointer(words.base.assumingMemoryBound(to: Atomic<UInt32>.self))
  }

  /// A daemon of that generation has the life page, and the channel.
  func serve(generation: UInt64) {
    channel.setGeneration(generation)
    begin(generation: generation)
  }

  /// A daemon of that generation has the life page.
  func begin(generation: UInt64) {
    SharedWord((words.base + 8).assumingMemoryBound(to: Atomic<UInt64>.self)).pointee
      .store(generation, ordering: .releasing)
    word.pointee.store(77, ordering: .releasing)
  }

  func die() { word.pointee.store(0x4000_0000, ordering: .releasing) }

  var descriptors: [CInt] {
    let files = channel.descriptors!
    return [files.geometry, files.ring, files.wake, life.descriptor]
  }

  func attach(_ socket: String, owner: UInt16) throws -> Channel {
    let copies = descriptors.map { SharedTests.copy($0).take() }
    let channel = try Channel.attach(
      AttachedChannel(
        name: "test", owner: owner, geometry: FileDescriptor(owning: copies[0]),
        ring: FileDescriptor(owning: copies[1]), wake: FileDescriptor(owning: copies[2]),
        life: FileDescriptor(owning: copies[3]),
        way: WayBack(
          connection: try GuardedDescriptor(UnixSocket.connected()),
          path: socket, request: FakeDaemon.request, replyHeader: FakeDaemon.header)))
    // However busy the machine is.
    channel.lifeline!.pointee.question.pointee.replyMilliseconds = 20_000
    return channel
  }

  /// Answers that many who attach, as owners 21 and up.
  func listen(
    _ path: String, answers: Int = 1, refusing: Bool = false,
    _ beforeReply: @escaping @Sendable () -> Void = {}
  ) throws -> Answers {
    let listener = Listener(try UnixSocket.listen(path: path))
    let descriptors = descriptors
    return Answers(
      thread: Thread {
        Result {
          try (0..<answers).map {
            try listener.answer(
              descriptors, owner: refusing ? nil : UInt8(21 + $0), beforeReply)
          }
        }
      })
  }
}

extension UnixSocket {
  /// A connection whose other end is gone.
  fileprivate static func connected() throws -> FileDescriptor {
    let pair = try UnixSocket.pair()
    return try pair.first.duplicate()
  }
}

/// To be awaited.
struct Answers {
  let thread: Thread<Result<[GuardedDescriptor], any Error>>

  /// The connections, when all have been answered.
  @discardableResult
  func join() throws -> [GuardedDescriptor] { try thread.join().get() }
}

private final class Listener: Sendable {
  private let listener: UnixListener

  init(_ listener: consuming UnixListener) { self.listener = listener }

  func answer(
    _ descriptors: [CInt], owner: UInt8?, _ beforeReply: () -> Void
  ) throws -> GuardedDescriptor {
    _ = Readiness.wait(listener.raw, .read, timeoutMilliseconds: 20_000)
    guard let connection = try UnixSocket.accept(listener.raw) else {
      throw SystemError(code: ETIMEDOUT, operation: "wait for a producer")
    }
    _ = Readiness.wait(connection.raw, .read, timeoutMilliseconds: 20_000)
    var request = [UInt8](repeating: 0, count: 100)
    let count = try request.withUnsafeMutableBytes { bytes in
      try UnixSocket.receive(connection.raw, into: bytes)?.count ?? 0
    }
    guard Array(request[..<count]) == FakeDaemon.request else {
      throw SystemError(code: EPROTO, operation: "read a producer's request")
    }
    beforeReply()
    // A refusal is any other message.
    let reply = owner.map { FakeDaemon.header + [$0, 0] } ?? [9, 129, 0, 0]
    _ = try reply.withUnsafeBytes {
      try UnixSocket.send(connection.raw, $0, descriptors: owner == nil ? [] : descriptors)
    }
    return try GuardedDescriptor(connection)
  }
}
