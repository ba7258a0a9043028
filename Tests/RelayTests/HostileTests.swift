// SPDX-License-Identifier: Apache-2.0
// What no honest process writes into the shared words, one case each: found, counted, and never
// more work than there is memory.

import Synchronization
import Testing

@testable import Relay

@Suite(.serialized) struct HostileTests {
  /// Done to a channel of four sub-buffers of 16 bytes that holds "a", "b" and "c".
  struct Damage: Sendable, CustomTestStringConvertible {
    let testDescription: String
    var mode = ChannelMode.discard
    /// What the next write and flush come to, and whether reading and a reset find the damage.
    var write = WriteResult.written
    var flush = FlushResult.flushed
    let reader: Bool
    let apply: @Sendable (ChannelBuffer) -> Void
  }

  static let damages = [
    Damage(
      testDescription: "current names a sub-buffer that there is not", write: .corrupt,
      flush: .corrupt, reader: true
    ) { $0.currentWord.set(Current(seq: 1, subbuf: 4).raw) },
    Damage(testDescription: "current goes back to never used", reader: false) {
      // Its next writer starts anew.
      $0.currentWord.set(0)
    },
    Damage(
      testDescription: "current goes to the end of time", write: .corrupt, flush: .corrupt,
      reader: true
    ) {
      $0.currentWord.set(Current(seq: 1 << 44 - 1, subbuf: 0).raw)
      $0.fillIndex(0, Entry(.committed, seq: 1 << 44 - 1, end: 3))
    },
    Damage(testDescription: "current names a free sub-buffer", reader: true) {
      $0.currentWord.set(Current(seq: 2, subbuf: 1).raw)
    },
    Damage(testDescription: "current is free", reader: true) {
      $0.stateWord(0).set(SubbufState(.free, seq: 1).raw)
    },
    Damage(testDescription: "the state has another seq", reader: true) {
      $0.stateWord(0).set(SubbufState(.open, seq: 7).raw)
    },
    Damage(testDescription: "the pins are used up", reader: true) {
      $0.stateWord(0).set(SubbufState(.open, seq: 1, pins: 15).raw)
    },
    Damage(
      testDescription: "an end lies beyond the sub-buffer", write: .corrupt, flush: .corrupt,
      reader: true
    ) { $0.entry(2).set(Entry(.committed, seq: 1, end: 17).raw) },
    Damage(testDescription: "an end goes back", reader: true) {
      $0.entry(1).set(Entry(.committed, seq: 1, end: 0).raw)
    },
    Damage(testDescription: "a tag that nobody writes", reader: true) {
      $0.entry(1).set(7 << 61 | Entry(.committed, seq: 1, end: 2).raw & (1 << 61 - 1))
    },
    Damage(
      testDescription: "an index without an end", write: .corrupt, flush: .corrupt, reader: true
    ) { $0.fillIndex(0, Entry(.committed, seq: 1, end: 3)) },
    Damage(
      testDescription: "nothing but unfinished records", write: .corrupt, flush: .corrupt,
      reader: true
    ) { $0.fillIndex(0, Entry(busy: 3, end: 3)) },
    Damage(testDescription: "the hint points past the frontier", reader: false) {
      $0.hint.set(Hint(seq: 1, count: 9, end: 9).raw)
    },
    Damage(testDescription: "the hint points past the index", reader: false) {
      $0.hint.set(Hint(seq: 1, count: 0xff_ffff, end: 1 << 26 - 1).raw)
    },
    Damage(
      testDescription: "all sub-buffers are claimed", write: .written, flush: .full,
      reader: false
    ) {
      for subbuf in 1..<4 { $0.stateWord(subbuf).set(SubbufState(.claimed, seq: 1).raw) }
    },
    Damage(
      testDescription: "all sub-buffers have a writer inside", mode: .overwrite, flush: .full,
      reader: false
    ) {
      for subbuf in 1..<4 { $0.stateWord(subbuf).set(SubbufState(.full, seq: 0).raw) }
    },
    Damage(testDescription: "closed by nobody", write: .closed, flush: .closed, reader: false) {
      $0.currentWord.set($0.loadCurrent().raw | Current.closedBit)
    },
  ]

  @Test(arguments: damages) func damageIsFoundAndCounted(_ damage: Damage) throws {
    let channel = try makeChannel(mode: damage.mode)
    let reader = Reader(channel)
    channel.write("a")
    #expect(reader.drain() == "a")
    channel.write("b")
    channel.write("c")
    damage.apply(channel.buffer)
    _ = reader.drain()
    reader.reset()
    #expect(reader.isCorrupt == damage.reader)
    #expect(reader.statistics().corrupt == (damage.reader ? 1 : 0))
  }

  @Test(arguments: damages) func damageIsFoundByWhoReadsRecords(_ damage: Damage) throws {
    let channel = try makeChannel(mode: damage.mode)
    let reader = Reader(channel)
    let peeker = reader.peeker()
    channel.write("a")
    #expect(reader.allFrames() == [.record(0, "a")])
    channel.write("b")
    channel.write("c")
    damage.apply(channel.buffer)
    for reader in [reader, peeker] {
      _ = reader.allFrames()
      reader.stallTimeout = 0
      _ = reader.allFrames()
      // Some damage only a reset finds.
      if reader.isCorrupt { #expect(damage.reader) }
      #expect(reader.frames() == [])
    }
  }

  @Test(arguments: damages) func writersRefuseRatherThanFollow(_ damage: Damage) throws {
    let channel = try makeChannel(mode: damage.mode)
    for letter in "abc" { channel.write(String(letter)) }
    damage.apply(channel.buffer)
    #expect(channel.write("d") == damage.write)
    #expect(channel.flush() == damage.flush)
    channel.close()
    let count = channel.buffer.corrupt.pointee.load(ordering: .relaxed)
    #expect(count == (damage.flush == .corrupt ? 2 : 0) + (damage.write == .corrupt ? 1 : 0))
  }

  @Test(arguments: [false, true])
  func aSubbufferThatChangesWhileItIsPinnedIsFound(_ isDelivered: Bool) throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("abc")
    #expect(reader.claim(limit: 10).byteCount == 3)
    channel.buffer.stateWord(0).set(SubbufState(.free, seq: 1).raw)
    if isDelivered { reader.consume() } else { reader.giveBack() }
    #expect(reader.isCorrupt)
    #expect(reader.drain() == "")
  }

  @Test(arguments: [TestPoint.sawFrontier, .rereadCurrent, .loadedCurrent])
  func aWriterThatLosesEveryRaceGivesUp(_ point: TestPoint) throws {
    let channel = try makeChannel()
    channel.write("abc")
    let buffer = channel.buffer
    var lost = 0
    Steps.handler = { reached in
      guard reached == point else { return true }
      lost += 1
      if point == .rereadCurrent {
        buffer.entry(1).set(Entry(.cancelled, seq: UInt64(2 + lost), end: 0).raw)
      } else {
        buffer.currentWord.set(Current(seq: UInt64(1 + lost), subbuf: 0).raw)
      }
      return true
    }
    defer { Steps.handler = nil }
    let start = Clock.threadMilliseconds()
    #expect(buffer.writeStepped("d", owner: 2) == false)
    // Patience is 100 ms.
    #expect(Clock.threadMilliseconds() - start < 1000)
    #expect(lost > 8)
  }

  @Test func aFlushThatLosesEveryRaceGivesUp() throws {
    let channel = try makeChannel()
    channel.write("abc")
    let buffer = channel.buffer
    var lost = 0
    Steps.handler = { point in
      guard point == .rereadBeforeSeal else { return true }
      lost += 1
      buffer.entry(1).set(Entry(.cancelled, seq: UInt64(2 + lost), end: 0).raw)
      return true
    }
    defer { Steps.handler = nil }
    var patience = Patience()
    guard case .stopped(.corrupt) = buffer.seal(buffer.loadCurrent(), &patience, Steps.self) else {
      return #expect(Bool(false), "sealed")
    }
    #expect(lost > 8)
  }

  @Test func aReaderLeftBehindSubbuffersWithoutDataGetsThroughAllOfThem() throws {
    let channel = try makeChannel(subbufSize: 1, subbufCount: 1000)
    let reader = Reader(channel)
    for _ in 0..<999 {
      guard case .reserved(let reservation) = channel.writer().reserve(1) else { return }
      reservation.cancel()
    }
    channel.write("x")
    #expect(reader.drain() == "x")
    #expect(!reader.isCorrupt)
  }

  @Test func recordsThatLookStoppedFillNoMemory() throws {
    let count = 2 * Stall.passedLimit
    let channel = try makeChannel(subbufSize: count, entryCount: count + 2)
    let reader = Reader(channel)
    reader.stallTimeout = 0
    for _ in 0..<count { channel.write("x") }
    for i in 0..<count { channel.buffer.entry(i).set(Entry(busy: 7, end: i + 1).raw) }
    for _ in 0..<10 { _ = reader.drain() }
    #expect(reader.statistics().lostStalled == UInt64(count) - 1)
    #expect(reader.stall.passed.count == Stall.passedLimit)
  }

  @Test func overwritingGoesPastAnyNumberOfStoppedWriters() throws {
    let stopped = 70
    let channel = try makeChannel(subbufSize: 1, subbufCount: stopped + 3, mode: .overwrite)
    let reader = Reader(channel)
    for _ in 0..<stopped {
      // Neither committed nor cancelled.
      guard case .reserved(let reservation) = channel.writer().reserve(1) else { return }
      _ = reservation.bytes
    }
    for _ in 0..<3 * stopped { #expect(channel.write("x") == .written) }
    #expect(!reader.hasData)
    #expect(reader.statistics().corrupt == 0)
  }
}

extension SharedWord {
  fileprivate func set(_ value: UInt64) { pointee.store(value, ordering: .relaxed) }
}

extension ChannelBuffer {
  fileprivate func entry(_ i: Int) -> SharedWord { index(0) + i }
  fileprivate func fillIndex(_ subbuf: Int, _ entry: Entry) {
    for i in 0..<layout.entryCount { (index(subbuf) + i).set(entry.raw) }
  }
}
