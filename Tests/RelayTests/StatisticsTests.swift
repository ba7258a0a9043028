// SPDX-License-Identifier: Apache-2.0
// Counting a buffer: exact, at the same cost however much is unread, and without a trace.

import Glibc
import Synchronization
import Testing

@testable import Relay

@Suite struct StatisticsTests {
  private func isBalanced(_ s: Statistics) -> Bool {
    s.recordsWritten == s.recordsRead + s.recordsUnread + s.lostOverwritten + s.lostStalled
  }

  private func cancelOne(_ channel: Channel) {
    guard case .reserved(let reservation) = channel.writer().reserve(1) else {
      Issue.record("no space")
      return
    }
    reservation.cancel()
  }

  @Test func countingMovesNothing() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3, mode: .overwrite)
    let reader = Reader(channel)
    channel.write("ab")
    #expect(reader.read() == "ab")
    for _ in 0..<10 { channel.write("cdef") }
    let (seq, entry) = (reader.position.seq, reader.position.entry)
    let s = reader.statistics()
    #expect(s.recordsRead == 1 && s.lostOverwritten == 7 && s.recordsUnread == 3)
    #expect(s.bytesUnread == 12 && s.subbufsConsumed == 8 && s.recordsWritten == 11)
    #expect(reader.position.seq == seq && reader.position.entry == entry)
    for subbuf in 0..<3 { #expect(channel.buffer.loadState(subbuf).pins == 0) }
    let claim = reader.claim(limit: 100)
    #expect(claim.lostBefore.overwritten == 7, "told to who reads, not to who looked")
    reader.consume()
    #expect(reader.statistics() == reader.statistics() && isBalanced(reader.statistics()))
  }

  @Test func unreadRecordsAreNotLookedAt() throws {
    let channel = try makeChannel(subbufSize: 8, subbufCount: 3)
    let reader = Reader(channel)
    for _ in 0..<20 { channel.write("x") }
    // As no writer leaves it.
    channel.buffer.index(0)[2].store(0, ordering: .relaxed)
    #expect(reader.statistics().recordsUnread == 20 && reader.statistics().bytesUnread == 20)
  }

  @Test func countsAreExactAtEachStep() throws {
    for mode in ChannelMode.allCases {
      let channel = try makeChannel(subbufSize: 8, subbufCount: 3, mode: mode)
      let reader = Reader(channel)
      var (written, read) = (0, 0)
      for step in 0..<200 {
        if channel.write("xy") == .written { written += 1 }
        if step % 7 == 0 { read += reader.read(step % 5 * 2).count / 2 }
        let s = reader.statistics()
        #expect(s.recordsWritten == written && s.recordsRead == read && isBalanced(s))
        #expect(s.bytesUnread == s.recordsUnread * 2)
        #expect(mode == .overwrite || s.lostOverwritten == 0)
      }
    }
  }

  @Test func cancelledRecordsAreNotUnread() throws {
    let channel = try makeChannel(subbufSize: 8, subbufCount: 3)
    let reader = Reader(channel)
    for _ in 0..<5 {
      channel.write("x")
      cancelOne(channel)
    }
    var s = reader.statistics()
    #expect(s.recordsUnread == 5 && s.recordsWritten == 5 && s.cancelled == 5)
    #expect(s.bytesUnread == 10, "their bytes count until they are passed")
    #expect(reader.drain() == "xxxxx")
    s = reader.statistics()
    #expect(s.recordsUnread == 0 && s.bytesUnread == 0 && s.recordsRead == 5 && isBalanced(s))
  }

  @Test func cancelledRecordsAmongOverwrittenOnesLeaveTheSumExact() throws {
    let channel = try makeChannel(subbufSize: 8, subbufCount: 3, mode: .overwrite)
    let reader = Reader(channel)
    for _ in 0..<100 {
      channel.write("x")
      cancelOne(channel)
    }
    let s = reader.statistics()
    #expect(s.recordsUnread + s.lostOverwritten == 100 && isBalanced(s))
    #expect(reader.drain().count + Int(reader.statistics().lostOverwritten) == 100)
  }

  @Test func theFrontierIsFoundWhereverTheHintPoints() throws {
    for used in [0, 1, 2, 3, 30, 63, 64] {
      for isSealed in [false, true] {
        let channel = try makeChannel(subbufSize: 64, subbufCount: 2, entryCount: 66)
        channel.write("")
        for _ in 0..<used { channel.write("x") }
        let buffer = channel.buffer
        if isSealed { _ = buffer.seal(buffer.loadCurrent()) }
        for hint in 0...66 {
          buffer.hint.pointee.store(
            Hint(seq: 1, count: hint, end: 0).raw, ordering: .relaxed)
          switch buffer.frontier(buffer.loadCurrent()) {
          case .empty(_, let i, let end): #expect(!isSealed && i == used + 1 && end == used)
          case .sealed(let i, let end): #expect(isSealed && i == used + 1 && end == used)
          case .corrupt: Issue.record("\(used) records, hint \(hint)")
          }
        }
      }
    }
  }

  @Test func anotherThreadCountsAsTheReaderDoes() throws {
    let channel = try Channel.openShared(
      "test", Geometry(subbufSize: 8, subbufCount: 3, entryCount: nil))
    let reader = Reader(channel)
    #expect(reader.savedStatistics(isDamaged: false) == Statistics())
    for step in 0..<50 {
      _ = channel.buffer.writeStepped("xyz", owner: 7)
      if step % 5 == 0 { _ = reader.read(step % 4) }
      #expect(reader.savedStatistics(isDamaged: false) == reader.statistics())
    }
    reader.reset()
    #expect(reader.savedStatistics(isDamaged: false) == reader.statistics())
    #expect(reader.savedStatistics(isDamaged: true).corrupt == 1)
  }

  @Test func aSweepLooksOnceAtWhatIsFinished() throws {
    let channel = try makeChannel(subbufSize: 64, subbufCount: 2)
    for _ in 0..<3 { channel.write("x") }
    let reserved = channel.buffer.reserve(1, owner: 7, wakeFD: -1, NoTestPoints.self)
    _ = consume reserved
    channel.write("x")
    func finished() -> Int { channel.finishedRecords.withLock { $0[0]![0].count } }
    #expect(channel.sweep(owner: 9) == 0)
    // Nothing before the record of the living one is looked at again; that one is.
    #expect(finished() == 3)
    #expect(channel.sweep(owner: 7) == 1)
    #expect(finished() == 5)
    #expect(channel.sweep(owner: 7) == 0)
  }

  @Test func recordsGivenUpAfterAResetTakeNothingFromThoseBehind() throws {
    let channel = try makeChannel(subbufSize: 8, subbufCount: 4)
    let reader = Reader(channel)
    for owner in [UInt16(7), 9] {
      let reserved = channel.buffer.reserve(1, owner: owner, wakeFD: -1, NoTestPoints.self)
      _ = consume reserved
    }
    reader.reset()
    #expect(channel.sweep(owner: 7) == 1)
    channel.write("xy")
    #expect(reader.statistics().recordsUnread == 1 && reader.statistics().aborted == 1)
    #expect(channel.sweep(owner: 9) == 1)
    let s = reader.statistics()
    #expect(s.recordsUnread == 1 && s.recordsWritten == 1 && s.aborted == 2 && isBalanced(s))
  }

  @Test func passedRecordsThatAreGivenUpAreSettledBeforeTheirPlaceIsUsedAgain() throws {
    let count = 600
    let channel = try makeChannel(subbufSize: 1024, subbufCount: 3, entryCount: 1026)
    let reader = Reader(channel)
    reader.stallTimeout = 0
    for _ in 0..<count {
      let reserved = channel.buffer.reserve(1, owner: 7, wakeFD: -1, NoTestPoints.self)
      _ = consume reserved
    }
    channel.write("x")
    #expect(reader.drain() + reader.drain() == "x" && reader.statistics().lostStalled == count)
    #expect(!reader.hasSettled)
    #expect(channel.sweep(owner: 7) == count)
    // Its sub-buffer is freed and used again.
    for _ in 0..<3 {
      channel.write(String(repeating: "y", count: 1000))
      _ = reader.drain()
    }
    channel.write("z")
    let s = reader.statistics()
    #expect(s.lostStalled == 0 && s.aborted == count && s.recordsUnread == 1 && isBalanced(s))
    #expect(reader.hasSettled)
  }

  @Test func anotherThreadSeesNoLossWhereNoneIs() throws {
    let channel = try Channel.openShared(
      "test", Geometry(subbufSize: 64, subbufCount: 3, entryCount: nil))
    let reader = Reader(channel)
    // Unchecked: the other thread calls `savedStatistics` alone, which any thread may.
    final class Shared: @unchecked Sendable {
      let reader: Reader
      let looks = Atomic(0)

      init(_ reader: Reader) { self.reader = reader }
    }
    let shared = Shared(reader)
    let looker = Thread {
      for _ in 0..<20_000 {
        let s = shared.reader.savedStatistics(isDamaged: false)
        #expect(s.lostOverwritten == 0 && s.padding < 1 << 40)
        // Relaxed: a count of its own.
        shared.looks.wrappingAdd(1, ordering: .relaxed)
      }
    }
    // Relaxed: as above.
    while shared.looks.load(ordering: .relaxed) < 20_000 {
      for _ in 0..<20 { _ = channel.buffer.writeStepped("12345678", owner: 7) }
      _ = reader.read()
    }
    looker.join()
  }
}
