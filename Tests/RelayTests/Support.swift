// SPDX-License-Identifier: Apache-2.0
// What the tests of the ring share: small channels, text records, and writers that stop.

import Glibc
import LinuxIO
import Synchronization

@testable import Relay

func makeChannel(
  subbufSize: Int = 16, subbufCount: Int = 4, entryCount: Int? = nil,
  mode: ChannelMode = .discard
) throws -> Channel {
  try Channel.open(
    "test",
    Geometry(subbufSize: subbufSize, subbufCount: subbufCount, entryCount: entryCount, mode: mode))
}

extension Channel {
  var buffer: ChannelBuffer { buffers[0] }

  @discardableResult
  func write(_ text: String) -> WriteResult {
    let writer = writer()
    return text.utf8.withContiguousStorageIfAvailable {
      writer.write(UnsafeRawBufferPointer($0))
    }!
  }
}

extension Reader {
  convenience init(_ channel: Channel) { self.init(channel, channel.buffer) }

  /// One read(2): at most `limit` bytes.
  func read(_ limit: Int = 1 << 20) -> String {
    let claim = claim(limit: limit)
    guard claim.byteCount > 0 else { return "" }
    let text = String(decoding: claim.vectors.flatMap { UnsafeRawBufferPointer($0) }, as: UTF8.self)
    consume()
    return text
  }

  /// Reads until there is nothing left, as cat does.
  func drain(_ limit: Int = 1 << 20) -> String {
    var all = ""
    while true {
      let text = read(limit)
      if text.isEmpty { return all }
      all += text
    }
  }
}

extension UnsafeRawBufferPointer {
  fileprivate init(_ vector: iovec) { self.init(start: vector.iov_base, count: vector.iov_len) }
}

/// Runs this thread's `handler` at every test point; false kills the writer there.
enum Steps: TestPoints {
  private struct Handler: @unchecked Sendable {
    let body: (TestPoint) -> Bool
  }
  private static let handlers = Mutex<[pthread_t: Handler]>([:])

  static var handler: ((TestPoint) -> Bool)? {
    get { handlers.withLock { $0[pthread_self()] }?.body }
    set {
      let new = newValue.map { Handler(body: $0) }
      handlers.withLock { $0[pthread_self()] = new }
    }
  }

  static func reached(_ point: TestPoint) -> Bool {
    guard let handler else { return true }
    // Others that run at this point are not stopped themselves.
    Steps.handler = nil
    defer { Steps.handler = handler }
    return handler(point)
  }
}

extension ChannelBuffer {
  /// A write that can be stopped. nil: killed on the way.
  func writeStepped(_ text: String, owner: UInt16) -> Bool? {
    switch reserve(text.utf8.count, owner: owner, wakeFD: -1, Steps.self) {
    case .stopped(.killed): return nil
    case .stopped: return false
    case .reserved(let reservation):
      reservation.bytes.copyBytes(from: text.utf8)
      return reservation.commit(Steps.self) ? true : nil
    }
  }
}
