// SPDX-License-Identifier: Apache-2.0
// A claim, or a look, passes a bounded number of entries, whatever they hold; the next one goes on
// there.

import Testing

@testable import Relay

@Suite struct WalkLimitTests {
  private static let limit = 100
  /// More than fit into one sub-buffer.
  private static let passed = 1000

  private let channel: Channel
  private let reader: Reader

  init() throws {
    channel = try makeChannel(subbufSize: 4096, subbufCount: 8, entryCount: 300)
    reader = Reader(channel)
    reader.walkLimit = WalkLimitTests.limit
  }

  enum Kind: CaseIterable {
    case empty, cancelled
  }

  private func put(_ kind: Kind, _ count: Int = passed) {
    for _ in 0..<count {
      switch kind {
      case .empty: #expect(channel.write("") == .written)
      case .cancelled:
        guard case .reserved(let reservation) = channel.writer().reserve(1) else {
          Issue.record("the channel is full")
          return
        }
        reservation.cancel()
      }
    }
  }

  /// How often `look` finds nothing though there is more.
  private func rounds(_ reader: Reader, until look: () -> Bool) -> Int {
    var rounds = 0
    while !look() {
      #expect(reader.walked <= 2 * WalkLimitTests.limit)
      guard reader.hasMoreToWalk, rounds < WalkLimitTests.passed else { return -1 }
      rounds += 1
    }
    #expect(!reader.hasMoreToWalk)
    return rounds
  }

  private static let expected = passed / limit...2 * passed / limit

  @Test(arguments: Kind.allCases) func claimGoesOnWhereTheLastOneStopped(_ kind: Kind) {
    put(kind)
    channel.write("x")
    var text = ""
    let rounds = rounds(reader) {
      text = reader.read()
      return text != ""
    }
    #expect(text == "x")
    #expect(WalkLimitTests.expected.contains(rounds), "\(rounds)")
    #expect(reader.read() == "" && !reader.hasMoreToWalk)
    let statistics = reader.statistics()
    #expect(statistics.recordsUnread == 0)
    #expect(statistics.recordsRead == (kind == .empty ? UInt64(WalkLimitTests.passed) + 1 : 1))
    #expect(statistics.recordsWritten == statistics.recordsRead)
    #expect(statistics.lostOverwritten == 0)
  }

  @Test(arguments: Kind.allCases) func lookGoesOnWhereTheLastOneStopped(_ kind: Kind) {
    put(kind)
    channel.write("x")
    let rounds = rounds(reader) { reader.hasData }
    #expect(WalkLimitTests.expected.contains(rounds), "\(rounds)")
    #expect(reader.read() == "x")
  }

  @Test(arguments: Kind.allCases, [false, true])
  func lookForALoanGoesOnWhereTheLastOneStopped(_ kind: Kind, _ isBehindLoan: Bool) throws {
    if isBehindLoan {
      channel.write("a")
      #expect(reader.lend(unfinished: true)?.byteCount == 1)
    }
    put(kind)
    #expect(rounds(reader) { reader.canLend(unfinished: true) || !reader.hasMoreToWalk } > 0)
    #expect(!reader.canLend(unfinished: true) && !reader.hasMoreToWalk)
    put(kind)
    channel.write("x")
    let rounds = rounds(reader) { reader.canLend(unfinished: true) }
    #expect(WalkLimitTests.expected.contains(rounds), "\(rounds)")
    #expect(reader.lend(unfinished: true)?.byteCount == 1)
    reader.takeBackUnread()
    reader.walkLimit = Int.max
    #expect(reader.drain() == (isBehindLoan ? "ax" : "x"))
  }

  @Test func lookBehindPartsThatCameBackFindsThemAgain() {
    for text in ["a", "b"] {
      channel.write(text)
      channel.flush()
      #expect(reader.lend(unfinished: true)?.byteCount == 1)
    }
    put(.empty)
    while !reader.canLend(unfinished: true), reader.hasMoreToWalk {}
    reader.takeBackUnread()
    for _ in 0..<2 {
      #expect(reader.canLend(unfinished: true))
      #expect(reader.lend(unfinished: true)?.byteCount == 1)
    }
  }

  @Test(arguments: Kind.allCases) func lookEndsWhereThereIsNothing(_ kind: Kind) {
    put(kind)
    var rounds = 0
    while !reader.hasData, reader.hasMoreToWalk, rounds < WalkLimitTests.passed { rounds += 1 }
    #expect(WalkLimitTests.expected.contains(rounds), "\(rounds)")
    #expect(!reader.isDrained)
    channel.close()
    #expect(reader.isDrained)
  }

  @Test func closedBufferIsNotDrainedBeforeItsEnd() {
    put(.empty)
    channel.write("x")
    channel.close()
    #expect(rounds(reader) { reader.isDrained || reader.hasData } > 0)
    #expect(!reader.isDrained)
    #expect(reader.read() == "x" && reader.isDrained)
  }

  @Test func frameBehindCancelledRecordsIsFoundWithItsNumber() {
    put(.cancelled)
    channel.write("x")
    let rounds = rounds(reader) { reader.hasFrames }
    #expect(WalkLimitTests.expected.contains(rounds), "\(rounds)")
    #expect(reader.frames() == [.record(UInt64(WalkLimitTests.passed), "x")])
  }

  @Test func peekersCursorMovesOnByItself() {
    put(.empty)
    channel.write("x")
    let peeker = reader.peeker()
    let rounds = rounds(peeker) { peeker.hasData }
    #expect(WalkLimitTests.expected.contains(rounds), "\(rounds)")
    #expect(peeker.read() == "x")
    #expect(reader.statistics().recordsRead == 0)
  }

  @Test func lookBesideAReaderOfRecordsPassesNothing() {
    put(.empty)
    channel.write("x")
    reader.keepsEmptyRecords = true
    let rounds = rounds(reader) { reader.hasData }
    #expect(WalkLimitTests.expected.contains(rounds), "\(rounds)")
    // It need not begin anew.
    #expect(reader.hasData && !reader.hasMoreToWalk)
    #expect(reader.statistics().recordsRead == 0)
    #expect(reader.frames(80) == [.record(0, ""), .record(1, "")])
  }

  @Test func recordsBehindSuchALookAreFound() {
    put(.empty)
    reader.keepsEmptyRecords = true
    while !reader.hasData, reader.hasMoreToWalk {}
    #expect(!reader.hasData && !reader.hasMoreToWalk)
    channel.write("x")
    #expect(reader.hasData)
    while reader.read() == "" { guard reader.hasMoreToWalk else { break } }
    #expect(!reader.hasData)
    channel.write("y")
    #expect(reader.hasData)
  }

  @Test func lookBehindAStoppedWriterNeedNotBeginAnew() throws {
    reader.keepsEmptyRecords = true
    reader.stallTimeout = 0
    guard case .reserved(let reservation) = channel.writer().reserve(1) else {
      Issue.record("the channel is full")
      return
    }
    put(.empty)
    #expect(!reader.hasData)
    var rounds = 0
    while !reader.hasData, reader.hasMoreToWalk, rounds < WalkLimitTests.passed { rounds += 1 }
    #expect(WalkLimitTests.expected.contains(rounds), "\(rounds)")
    #expect(!reader.hasData && !reader.hasMoreToWalk && reader.walked < 10)
    // It is found though the last look came further.
    reservation.commit()
    #expect(reader.hasData)
  }

  @Test func lookOverManySubbuffersSaysThatThereAreMore() throws {
    let channel = try makeChannel(subbufSize: 4096, subbufCount: 256)
    let reader = Reader(channel)
    reader.walkLimit = 1 << 14
    reader.keepsEmptyRecords = true
    for _ in 0..<200 {
      #expect(channel.write("") == .written && reader.flush() == .flushed)
    }
    channel.write("x")
    var rounds = 0
    while !reader.hasData, reader.hasMoreToWalk, rounds < 200 { rounds += 1 }
    #expect(reader.hasData && rounds > 0)
  }

  @Test func whatWasFoundIsDeliveredBeforeTheWalkGoesOn() {
    channel.write("x")
    put(.empty)
    channel.write("y")
    #expect(reader.read() == "x" && !reader.hasMoreToWalk)
    while !reader.hasData, reader.hasMoreToWalk {}
    #expect(reader.read() == "y")
  }

  @Test func lentPartsHaveNoLimit() {
    put(.empty, 250)
    channel.write("x")
    #expect(reader.lend(unfinished: true)?.byteCount == 1)
    // Nothing is passed while something is lent: a look that came no further would never end.
    #expect(!reader.hasData && !reader.hasMoreToWalk)
    reader.takeBack(consumed: 1)
    #expect(reader.loanCount == 0)
  }
}
