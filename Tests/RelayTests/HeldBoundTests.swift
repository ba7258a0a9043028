// SPDX-License-Identifier: Apache-2.0
// A process that leaves records open keeps at most all sub-buffers but two from the others, whoever
// fills those and switches.

import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite struct HeldBoundTests {
  private static let leaver: UInt16 = 5
  private static let other: UInt16 = 6

  private let channel: Channel
  private let reader: Reader
  private var buffer: ChannelBuffer { channel.buffers[0] }

  private init(_ mode: ChannelMode, subbufCount: Int, hasTimestamps: Bool = false) throws {
    channel = try Channel.openShared(
      "bound",
      Geometry(
        subbufSize: 256, subbufCount: subbufCount, mode: mode, isGlobal: true,
        hasTimestamps: hasTimestamps, online: CPUSet([0]), possible: CPUSet([0])))
    reader = Reader(channel, channel.buffers[0])
    reader.stallTimeout = 0
  }

  init() throws { try self.init(.discard, subbufCount: 8) }

  /// Nil: the reservation, which is left open.
  private func reserve(_ length: Int, owner: UInt16) -> ChannelBuffer.Stop? {
    switch buffer.reserve(
      length, owner: owner, wakeFD: WakeTarget(descriptor: -1), NoTestPoints.self)
    {
    case .reserved: nil
    case .stopped(let stop): stop
    }
  }

  private func write(_ owner: UInt16 = HeldBoundTests.other) -> ChannelBuffer.Stop? {
    switch buffer.reserve(
      16, owner: owner, wakeFD: WakeTarget(descriptor: -1), NoTestPoints.self)
    {
    case .reserved(let reservation):
      reservation.commit()
      return nil
    case .stopped(let stop): return stop
    }
  }

  /// Writes up to the next sub-buffer, and a few records into that.
  private func goOn() -> [ChannelBuffer.Stop] {
    let seq = buffer.loadCurrent().seq
    var stops: [ChannelBuffer.Stop] = []
    for _ in 0..<40 {
      if let stop = write() { stops.append(stop) }
      if buffer.loadCurrent().seq != seq { break }
    }
    for _ in 0..<3 { if let stop = write() { stops.append(stop) } }
    return stops
  }

  /// What the leaver gets whose records all go the fast way, between those of another process.
  private func leave(_ test: HeldBoundTests, laps: Int) -> [ChannelBuffer.Stop?] {
    (0..<laps).map { _ in
      let result = test.reserve(16, owner: Self.leaver)
      #expect(test.goOn() == [], "the other one is held up")
      _ = test.reader.drain()
      _ = test.reader.drain()
      return result
    }
  }

  @Test(arguments: [
    (ChannelMode.discard, 8, false), (.overwrite, 8, false), (.discard, 4, false),
    (.overwrite, 5, false), (.discard, 8, true), (.overwrite, 8, true), (.discard, 1024, false),
  ])
  func leaverIsRefusedAndOthersGoOn(
    _ mode: ChannelMode, _ subbufCount: Int, _ hasTimestamps: Bool
  ) throws {
    let test = try HeldBoundTests(mode, subbufCount: subbufCount, hasTimestamps: hasTimestamps)
    #expect(test.goOn() == [])
    let results = leave(test, laps: subbufCount + 20)
    let limit = subbufCount - 2
    #expect(results.prefix(limit).allSatisfy { $0 == nil })
    #expect(results.dropFirst(limit).allSatisfy { $0 == .holding })
    // A third process may write.
    #expect(test.write(7) == nil)
    // Its death ends it.
    #expect(test.channel.sweep(owner: Self.leaver) == limit)
    #expect(test.write(Self.leaver) == nil)
    let hint = Hint(raw: test.buffer.hint.pointee.load(ordering: .relaxed))
    #expect(hint.end <= 256, "the fast path is open again")
  }

  @Test func processThatEndsARecordMayWriteAgain() throws {
    #expect(goOn() == [])
    var first: Entry?
    var place: SharedWord?
    for lap in 0..<6 {
      if lap == 0 {
        let current = buffer.loadCurrent()
        #expect(reserve(16, owner: Self.leaver) == nil)
        guard case .empty(_, let i, _) = buffer.frontier(current) else { throw Stopped() }
        place = buffer.index(current.subbuf) + (i - 1)
        first = Entry(.committed, seq: current.seq, end: buffer.loadEntry(place!, 0).end)
      } else {
        #expect(reserve(16, owner: Self.leaver) == nil)
      }
      #expect(goOn() == [])
    }
    #expect(reserve(16, owner: Self.leaver) == .holding)
    // Its late commit.
    place!.pointee.store(first!.raw, ordering: .releasing)
    #expect(write(Self.leaver) == nil)
    #expect(reserve(16, owner: Self.leaver) == nil)
  }

  private struct Stopped: Error {}

  /// With the owner's own process alone nobody is protected, and below 4 there is nothing to share.
  @Test func boundIsForSharedChannelsOfFourAndMore() throws {
    let test = try HeldBoundTests(.discard, subbufCount: 3)
    var count = 0
    for _ in 0..<3 {
      #expect(test.reserve(16, owner: Self.leaver) == nil)
      count += 1
      if count < 3 { #expect(test.goOn() == []) }
    }
    let own = try makeChannel(subbufSize: 16, subbufCount: 8)
    for _ in 0..<8 {
      guard case .reserved = own.writer().reserve(16) else {
        Issue.record("an own channel is bounded")
        break
      }
    }
  }

  /// Another process of the channel may write anything there.
  @Test func namedWithoutReasonIsNamedNoMore() throws {
    #expect(goOn() == [])
    buffer.word(184).pointee.store(
      UInt64(Self.other) | 7 << 16 | 0xffff << 48, ordering: .relaxed)
    #expect(write() == nil)
    #expect(goOn() == [])
    #expect(buffer.word(184).pointee.load(ordering: .relaxed) == 0)
    for subbuf in 0..<8 {
      for k in 0..<4 {
        buffer.word(buffer.descriptor(subbuf) + 32 + k * 8).pointee.store(.max, ordering: .relaxed)
      }
    }
    for _ in 0..<20 {
      #expect(goOn() == [])
      _ = reader.drain()
    }
  }
}
