// SPDX-License-Identifier: Apache-2.0
// Writers that overwrite, at full speed, against every kind of reading: none may be refused.

import ArgumentParser
import Glibc
import Relay
import Synchronization

struct Overwrite: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes into overwriting channels of each size while they are read in every way.",
    discussion: "Prints how many records were written and how many were refused.")

  @Option(help: "Writers of each channel, a thread each.") var writers = 1
  @Option(help: "The smallest channel, in sub-buffers.") var from = 3
  @Option(help: "The largest.") var to = 64
  @Option(help: "Records in all.") var records = 1 << 20

  func run() throws {
    var total = (written: 0, refused: 0)
    let counts = Array(from...to)
    for (place, subbufs) in counts.enumerated() {
      // A switch every few records, or seldom.
      for subbufSize in [32, 4096] {
        let each = records / (counts.count * 2 * writers) + 1
        let geometry = try Geometry(
          subbufSize: subbufSize, subbufCount: subbufs, entryCount: nil, mode: .overwrite)
        let channel = try Channel.open("overwrite", geometry)
        let threads = (0..<writers).map { _ in Writing(channel, each) }
        let reading = Reading(channel, seed: UInt64(place))
        while threads.contains(where: { !$0.isOver }) { reading.next() }
        let refused = threads.reduce(0) { $0 + $1.join() }
        reading.end()
        total.refused += refused
        total.written += each * writers - refused
        if refused > 0 {
          print("\(subbufs) sub-buffers of \(subbufSize): \(refused) of \(each * writers) refused")
        }
      }
    }
    print("written \(total.written) refused \(total.refused)")
  }
}

/// A thread that writes records of 8 bytes.
// Unchecked: the thread alone stores `refused`, and `join` comes before it is read.
private final class Writing: @unchecked Sendable {
  private let channel: Channel
  private let count: Int
  private var handle = pthread_t()
  private var refused = 0
  private let hasEnded = Atomic(false)

  init(_ channel: Channel, _ count: Int) {
    self.channel = channel
    self.count = count
    let status = pthread_create(
      &handle, nil,
      { argument in
        Unmanaged<Writing>.fromOpaque(argument!).takeRetainedValue().write()
        return nil
      }, Unmanaged.passRetained(self).toOpaque())
    precondition(status == 0)
  }

  // Relaxed: the join orders what it wrote.
  var isOver: Bool { hasEnded.load(ordering: .relaxed) }

  private func write() {
    let writer = channel.writer()
    let record: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
    record.withUnsafeBytes { record in
      for _ in 0..<count where writer.write(record) != .written { refused += 1 }
    }
    hasEnded.store(true, ordering: .relaxed)
  }

  func join() -> Int {
    pthread_join(handle, nil)
    return refused
  }
}

/// One thread's readers of one buffer: bytes and frames, consumed or given back or only peeked at,
/// sub-buffers that stay lent for a while, and looks.
private final class Reading {
  private static let sizes = [1, 7, 48, 100, 4096, 65536, 131_072, 1 << 20]

  private let reader: Relay.Reader
  private let peeker: Relay.Reader
  /// Where a claim of any size has room.
  private let frames = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 8)
  private var random: UInt64

  init(_ channel: Channel, seed: UInt64) {
    reader = Relay.Reader(channel, channel.buffers[0])
    peeker = reader.peeker()
    random = seed &+ 1
  }

  deinit { frames.deallocate() }

  private func number(below limit: Int) -> Int {
    random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Int(random >> 33) % limit
  }

  func next() {
    let size = Reading.sizes[number(below: Reading.sizes.count)]
    // A reader that finds much keeps its way of reading for some time.
    for _ in 0..<1 + number(below: 8) {
      switch number(below: 16) {
      case 0..<6: take(reader, size)
      case 6..<8: take(peeker, size)
      case 8..<11: takeFrames(reader, size)
      case 11: takeFrames(peeker, size)
      case 12: borrow()
      case 13: _ = reader.hasData
      case 14: _ = peeker.hasData
      default: _ = reader.statistics()
      }
    }
  }

  private func take(_ reader: Relay.Reader, _ size: Int) {
    let claim = reader.claim(limit: size)
    guard claim.byteCount > 0 else { return }
    // As for a reply, which the kernel copies.
    var target = frames.baseAddress!
    for vector in claim.vectors {
      target.copyMemory(from: vector.iov_base, byteCount: vector.iov_len)
      target += vector.iov_len
    }
    end(reader)
  }

  private func takeFrames(_ reader: Relay.Reader, _ size: Int) {
    let room = UnsafeMutableRawBufferPointer(
      rebasing: frames[..<max(size, Relay.Reader.smallestFrames)])
    if reader.claimFrames(into: room) > 0 { end(reader) }
  }

  private func end(_ reader: Relay.Reader) {
    if number(below: 8) == 0 { reader.giveBack() } else { reader.consume() }
  }

  /// As a mapped consumer does.
  private func borrow() {
    let unfinished = number(below: 2) == 0
    while reader.mayLend, reader.lend(unfinished: unfinished) != nil {}
    for _ in 0..<number(below: 4) { sched_yield() }
    reader.takeBack(consumed: number(below: reader.loanCount + 1))
    reader.takeBackUnread()
  }

  /// Everything that was written was delivered, or overwritten.
  func end() {
    while true {
      let claim = reader.claim(limit: 1 << 20)
      guard claim.byteCount > 0 else { break }
      reader.consume()
    }
    let s = reader.statistics()
    precondition(s.recordsWritten == s.recordsRead + s.lostOverwritten, "\(s)")
  }
}
