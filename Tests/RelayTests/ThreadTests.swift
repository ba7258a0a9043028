// SPDX-License-Identifier: Apache-2.0
// Real threads against one buffer, with self-checking records and exact accounting.

import Glibc
import Synchronization
import Testing

@testable import Relay

/// A joinable thread with a result.
final class Thread<Result: Sendable>: @unchecked Sendable {
  private var handle = pthread_t()
  private var result: Result?
  private let body: @Sendable () -> Result

  init(_ body: @escaping @Sendable () -> Result) {
    self.body = body
    let box = Unmanaged.passRetained(self as AnyObject)
    let status = pthread_create(
      &handle, nil,
      { argument in
        let object = Unmanaged<AnyObject>.fromOpaque(argument!).takeRetainedValue()
        (object as! any Runnable).run()
        return nil
      }, box.toOpaque())
    precondition(status == 0)
  }

  func join() -> Result {
    pthread_join(handle, nil)
    return result!
  }
}

protocol Runnable { func run() }
extension Thread: Runnable {
  func run() { result = body() }
}

@Suite struct ThreadTests {
  static let writers = 4
  static let recordsEach = 40_000

  /// {writer, length, sequence} and then `length` bytes that follow from both.
  static func record(_ writer: Int, _ sequence: Int) -> [UInt8] {
    let length = (sequence &* 7 + writer) % 50
    var bytes: [UInt8] = [UInt8(writer), UInt8(length)]
    for shift in [0, 8, 16, 24] { bytes.append(UInt8(sequence >> shift & 0xff)) }
    for i in 0..<length { bytes.append(UInt8(truncatingIfNeeded: sequence &* 31 &+ writer &+ i)) }
    return bytes
  }

  @Test(arguments: ChannelMode.allCases)
  func everyRecordIsWholeInOrderAndAccountedFor(_ mode: ChannelMode) throws {
    // Large enough sub-buffers that writers and the reader meet in all states.
    let channel = try makeChannel(subbufSize: 2048, subbufCount: 8, mode: mode)
    let threads = (0..<ThreadTests.writers).map { writer in
      Thread {
        var written = 0
        for sequence in 0..<ThreadTests.recordsEach {
          let result = ThreadTests.record(writer, sequence).withUnsafeBytes {
            channel.writer().write($0)
          }
          if result == .written { written += 1 }
        }
        return written
      }
    }
    let reader = Reader(channel)
    var bytes: [UInt8] = []
    var next = [Int](repeating: 0, count: ThreadTests.writers)
    var records = 0
    func parse() {
      var at = 0
      while at + 6 <= bytes.count, at + 6 + Int(bytes[at + 1]) <= bytes.count {
        let writer = Int(bytes[at])
        let sequence = (0..<4).reduce(0) { $0 | Int(bytes[at + 2 + $1]) << ($1 * 8) }
        let end = at + 6 + Int(bytes[at + 1])
        guard writer < next.count, sequence >= next[writer],
          Array(bytes[at..<end]) == ThreadTests.record(writer, sequence)
        else {
          Issue.record("torn, doubled or out of order at record \(records)")
          bytes = []
          return
        }
        next[writer] = sequence + 1
        records += 1
        at = end
      }
      bytes.removeFirst(at)
    }
    func drain(_ limit: Int) -> Bool {
      let claim = reader.claim(limit: limit)
      guard claim.byteCount > 0 else { return false }
      for vector in claim.vectors {
        bytes += UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
      }
      reader.consume()
      parse()
      return true
    }
    let joiner = Thread { threads.map { $0.join() }.reduce(0, +) }
    var limit = 1
    while records < 1000 || reader.hasData {
      limit = limit &* 17 % 5003
      _ = drain(limit)
    }
    let written = joiner.join()
    while drain(4096) {}
    #expect(bytes.isEmpty)
    let s = reader.statistics()
    #expect(s.recordsRead == UInt64(records))
    #expect(s.recordsWritten == UInt64(written))
    #expect(s.recordsUnread == 0)
    #expect(s.corrupt == 0)
    #expect(records + Int(s.lostOverwritten) == written)
    #expect(written + Int(s.lostFull) == ThreadTests.writers * ThreadTests.recordsEach)
  }

  @Test(arguments: ChannelMode.allCases)
  func resetsAmongRunningWritersLeaveAnExactAccount(_ mode: ChannelMode) throws {
    let channel = try makeChannel(subbufSize: 512, subbufCount: 4, mode: mode)
    let reader = Reader(channel)
    let threads = (0..<3).map { writer in
      Thread {
        for sequence in 0..<20_000 {
          ThreadTests.record(writer, sequence).withUnsafeBytes { _ = channel.writer().write($0) }
        }
      }
    }
    let joiner = Thread {
      for thread in threads { thread.join() }
      return channel.close()
    }
    while !reader.isClosed {
      reader.reset()
      _ = reader.read(1000)
      let s = reader.statistics()
      #expect(s.recordsWritten == s.recordsRead + s.recordsUnread + s.lostOverwritten)
      #expect(s.corrupt == 0)
    }
    joiner.join()
    reader.reset()
    #expect(reader.statistics().recordsWritten == 0)
    #expect(reader.isDrained)
  }
}
