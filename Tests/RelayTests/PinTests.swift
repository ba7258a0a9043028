// SPDX-License-Identifier: Apache-2.0
// What reading holds of a channel whose writers overwrite: never so much that one is refused.

import Testing

@testable import Relay

@Suite struct PinTests {
  enum Kind: CaseIterable {
    case bytes, frames, peekedBytes, peekedFrames, loans
  }

  /// How many sub-buffers are pinned.
  private func pinned(_ channel: Channel) -> Int {
    (0..<channel.geometry.subbufCount).count { channel.buffer.loadState($0).pins > 0 }
  }

  /// Claims as much as there is, or borrows it; returns what ends that.
  private func take(_ kind: Kind, _ reader: Reader) -> () -> Void {
    let peeker = reader.peeker()
    func claimFrames(_ reader: Reader) -> () -> Void {
      let frames = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 8)
      #expect(reader.claimFrames(into: frames) > 0)
      return {
        reader.giveBack()
        frames.deallocate()
      }
    }
    switch kind {
    case .bytes:
      #expect(reader.claim(limit: 1 << 20).byteCount > 0)
      return { reader.giveBack() }
    case .peekedBytes:
      #expect(peeker.claim(limit: 1 << 20).byteCount > 0)
      return { peeker.giveBack() }
    case .frames: return claimFrames(reader)
    case .peekedFrames: return claimFrames(peeker)
    case .loans:
      while reader.mayLend, reader.lend(unfinished: true) != nil {}
      #expect(reader.loanCount > 0)
      return { reader.takeBackUnread() }
    }
  }

  @Test(arguments: Kind.allCases) func readingLeavesRoomForTwoWriters(_ kind: Kind) throws {
    for count in 3...70 {
      let channel = try makeChannel(subbufSize: 8, subbufCount: count, mode: .overwrite)
      let reader = Reader(channel)
      for _ in 0..<2 * count { #expect(channel.write("01234567") == .written) }
      // The second writer is stopped inside of a record.
      if count >= 4 {
        Steps.handler = { $0 != .reserved }
        #expect(channel.buffer.writeStepped("unending", owner: 2) == nil)
        Steps.handler = nil
      }
      let end = take(kind, reader)
      #expect(pinned(channel) <= max(1, count - 3), "of \(count)")
      let refused = (0..<3 * count).count { _ in channel.write("abcdefgh") != .written }
      #expect(refused == 0, "of \(3 * count), with \(count) sub-buffers")
      end()
    }
  }

  @Test func smallClaimsBringEverything() throws {
    for count in 3...70 {
      let channel = try makeChannel(subbufSize: 4, subbufCount: count, mode: .overwrite)
      let reader = Reader(channel)
      let peeker = reader.peeker()
      let all = (0..<count).map { String(1000 + $0) }
      for text in all { channel.write(text) }
      #expect(peeker.hasData && peeker.drain() == all.joined(), "of \(count)")
      #expect(reader.hasData && reader.drain() == all.joined(), "of \(count)")
    }
  }

  /// Sub-buffers that hold nothing are passed, pinned one after the other.
  @Test(arguments: [4, 5, 8]) func emptySubbuffersEndNoRead(_ count: Int) throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: count, mode: .overwrite)
    let reader = Reader(channel)
    func cancel() {
      if case .reserved(let reservation) = channel.writer().reserve(4) { reservation.cancel() }
    }
    for _ in 0..<10 {
      for _ in 0..<count - 1 { cancel() }
      channel.write("abcd")
      #expect(reader.hasData && reader.read() == "abcd")
      for _ in 0..<count - 1 { cancel() }
      channel.write("efgh")
      #expect(reader.lend(unfinished: true)?.byteCount == 4)
      reader.takeBack(consumed: 1)
    }
    let s = reader.statistics()
    #expect((s.recordsRead, s.lostOverwritten, s.recordsUnread) == (20, 0, 0))
    #expect(s.cancelled == UInt64(20 * (count - 1)))
  }

  @Test func looksCountNothingTwiceWhileSomethingIsLent() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 4, mode: .overwrite)
    let reader = Reader(channel)
    if case .reserved(let reservation) = channel.writer().reserve(4) { reservation.cancel() }
    channel.write("abcd")
    #expect(reader.lend(unfinished: true)?.firstRecord == 1)
    for _ in 0..<3 {
      _ = reader.hasData
      _ = reader.statistics()
    }
    reader.takeBack(consumed: 1)
    let s = reader.statistics()
    #expect((s.recordsRead, s.cancelled, s.lostOverwritten) == (1, 1, 0))
    #expect((s.subbufsProduced, s.subbufsConsumed) == (1, 1))
  }

  /// The writer looks at one state after the other: what the reader frees behind its back is no
  /// reason for a refusal.
  @Test(arguments: [(3, 1), (4, 1), (4, 2), (8, 2)])
  func writersAreNotRefusedWhileReadersMoveOn(_ count: Int, _ writers: Int) throws {
    let channel = try makeChannel(subbufSize: 8, subbufCount: count, mode: .overwrite)
    let reader = Reader(channel)
    let threads = (0..<writers).map { _ in
      Thread { (0..<200_000).count { _ in channel.write("01234567") != .written } }
    }
    let joiner = Thread {
      let refused = threads.reduce(0) { $0 + $1.join() }
      channel.close()
      return refused
    }
    while !reader.isDrained {
      if reader.claim(limit: 1 << 20).byteCount > 0 { reader.consume() }
    }
    #expect(joiner.join() == 0)
    #expect(reader.statistics().lostFull == 0)
  }

  @Test func bytesBehindAnEmptyRecordAreThereBesideAReaderOfFrames() throws {
    let channel = try makeChannel(subbufSize: 8, subbufCount: 4, mode: .overwrite)
    let reader = Reader(channel)
    reader.keepsEmptyRecords = true
    channel.write("1234567")
    #expect(reader.read() == "1234567")
    channel.write("")
    #expect(!reader.hasData)
    channel.write("abc")
    #expect(reader.hasData)
    #expect((0..<4).allSatisfy { channel.buffer.loadState($0).pins == 0 })
    #expect(reader.read() == "abc")
  }
}
