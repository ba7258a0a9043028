// SPDX-License-Identifier: Apache-2.0
// Sub-buffers lent as they lie in the ring: what is lent, what that holds, and what taking it back
// does.

import Synchronization
import Testing

@testable import Relay

extension Channel {
  /// The bytes of what was lent, where they lie.
  fileprivate func text(_ lent: LentSubbuf) -> String {
    let payload = UnsafeRawPointer(buffer.payload(lent.subbuf))
    return lent.pieces.map {
      String(
        decoding: UnsafeRawBufferPointer(start: payload + $0.offset, count: $0.length),
        as: UTF8.self)
    }.joined(separator: "|")
  }
}

@Suite struct LendTests {
  @Test func aWholeSubbufferIsLentOnceWritersHaveLeftIt() throws {
    let channel = try makeChannel(subbufSize: 16)
    let reader = Reader(channel)
    for text in ["0123456", "789abcd"] { channel.write(text) }
    #expect(!reader.canLend(unfinished: false))
    #expect(reader.lend(unfinished: false) == nil)
    channel.write("next")
    #expect(reader.canLend(unfinished: false))
    let lent = try #require(reader.lend(unfinished: false))
    #expect(channel.text(lent) == "0123456789abcd")
    #expect((lent.seq, lent.subbuf, lent.padding) == (1, 0, 2))
    #expect((lent.firstRecord, lent.recordCount) == (0, 2))
    #expect(lent.isLast && !lent.isRest)
    #expect((lent.produced, lent.consumed) == (1, 0))
    #expect(reader.lend(unfinished: false) == nil)
    reader.takeBack(consumed: 1)
    #expect(reader.statistics().recordsRead == 2)
    #expect(reader.statistics().subbufsConsumed == 1)
    #expect(reader.drain() == "next")
  }

  @Test func lookForALoanEndsAtTheFirstByte() throws {
    let channel = try makeChannel(subbufSize: 64)
    let reader = Reader(channel)
    for _ in 0..<8 { channel.write("12345678") }
    // What no writer writes: who comes there notices.
    let far = channel.buffer.index(0) + 5
    let known = Entry(.committed, seq: 1, end: 48).raw & (1 << 61 - 1)
    far.pointee.store(7 << 61 | known, ordering: .relaxed)
    #expect(reader.canLend(unfinished: true) && !reader.isCorrupt)
    #expect(reader.lend(unfinished: true)?.recordCount == 5)
    #expect(reader.isCorrupt)
  }

  @Test func looksLeaveWhatIsLentAsItIs() throws {
    let channel = try makeChannel(subbufSize: 16)
    let reader = Reader(channel)
    for text in ["01234567", "89", "abcdefghijkl", "mn"] { channel.write(text) }
    for (text, records) in [("0123456789", UInt64(2)), ("abcdefghijklmn", 2)] {
      #expect(reader.canLend(unfinished: true) && reader.canLend(unfinished: true))
      let lent = try #require(reader.lend(unfinished: true))
      #expect(channel.text(lent) == text && lent.recordCount == records)
    }
    #expect(!reader.canLend(unfinished: true))
    // What was looked past comes again.
    reader.takeBackUnread()
    #expect(reader.lend(unfinished: true).map(channel.text) == "0123456789")
    #expect(reader.canLend(unfinished: true))
    reader.takeBackUnread()
    #expect(reader.drain() == "0123456789abcdefghijklmn")
  }

  @Test func anUnfinishedSubbufferIsLentInParts() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("abc")
    let first = try #require(reader.lend(unfinished: true))
    #expect(channel.text(first) == "abc" && !first.isLast && first.padding == 0)
    #expect(reader.lend(unfinished: true) == nil)
    channel.write("de")
    let second = try #require(reader.lend(unfinished: true))
    #expect(channel.text(second) == "de" && second.firstRecord == 1)
    reader.takeBack(consumed: 2)
    channel.close()
    // Nothing is left of it but its end.
    #expect(reader.lend(unfinished: true) == nil && reader.isDrained)
  }

  @Test func whatIsLentIsNeitherOverwrittenNorRefused() throws {
    let channel = try makeChannel(subbufSize: 8, subbufCount: 4, mode: .overwrite)
    let reader = Reader(channel)
    for text in ["aaaaaaaa", "bbbbbbbb"] { channel.write(text) }
    let lent = try #require(reader.lend(unfinished: false))
    for i in 0..<50 {
      #expect(channel.write("write \(10 + i)") == .written)
      #expect(channel.text(lent) == "aaaaaaaa")
    }
    reader.takeBack(consumed: 1)
    let next = try #require(reader.lend(unfinished: false))
    // Three sub-buffers were there for 51 records.
    #expect(next.lostBefore.overwritten == 48 && channel.text(next) == "write 57")
    #expect(reader.statistics().lostOverwritten == 48)
  }

  @Test func whatWasNotConsumedComesAgain() throws {
    let channel = try makeChannel(subbufSize: 8)
    let reader = Reader(channel)
    for text in ["aaaaaaaa", "bbbbbbbb", "cccccccc"] { channel.write(text) }
    let lent = (0..<2).compactMap { _ in reader.lend(unfinished: false) }
    #expect(lent.map(channel.text) == ["aaaaaaaa", "bbbbbbbb"])
    reader.takeBack(consumed: 1)
    #expect(reader.loanCount == 1)
    reader.takeBackUnread()
    #expect(reader.drain() == "bbbbbbbbcccccccc")
    #expect(channel.buffer.hasFreeSubbuf)
  }

  /// As `relayctl stat` and `reset` come while something is lent.
  @Test func countingGoesOnMeanwhileAndAResetTakesAllBack() throws {
    let channel = try makeChannel(subbufSize: 8)
    let reader = Reader(channel)
    for text in ["aaaaaaaa", "bbbbbbbb", "cc"] { channel.write(text) }
    _ = reader.lend(unfinished: false)
    let statistics = reader.statistics()
    #expect(statistics.recordsUnread == 3 && statistics.recordsRead == 0)
    #expect(reader.flush() == .flushed)
    reader.reset()
    #expect(reader.loanCount == 0)
    #expect(reader.statistics().recordsWritten == 0)
    #expect(reader.lend(unfinished: true) == nil)
    channel.write("after")
    #expect(reader.lend(unfinished: true).map(channel.text) == "after")
  }

  @Test func cancelledRecordsAreHolesAndEmptySubbuffersArePassed() throws {
    let channel = try makeChannel(subbufSize: 16)
    let reader = Reader(channel)
    func cancel(_ length: Int) {
      if case .reserved(let reservation) = channel.writer().reserve(length) { reservation.cancel() }
    }
    cancel(16)
    channel.write("abcd")
    cancel(4)
    channel.write("efgh")
    channel.flush()
    let lent = try #require(reader.lend(unfinished: false))
    #expect(channel.text(lent) == "abcd|efgh")
    #expect((lent.seq, lent.padding, lent.recordCount, lent.firstRecord) == (2, 4, 2, 1))
    reader.takeBack(consumed: 1)
    let statistics = reader.statistics()
    #expect(statistics.subbufsConsumed == 2 && statistics.cancelled == 2)
    #expect(statistics.recordsRead == 2 && statistics.lostOverwritten == 0)
  }

  /// Each part pins its sub-buffer; its pins are few.
  @Test func noMoreIsLentThanCanBePinned() throws {
    let channel = try makeChannel(subbufSize: 64)
    let reader = Reader(channel)
    var parts = 0
    while reader.mayLend, parts < 100 {
      channel.write("x")
      #expect(reader.lend(unfinished: true) != nil)
      parts += 1
    }
    #expect(parts == Reader.partLimit)
    #expect(!reader.canLend(unfinished: true) && !reader.isCorrupt)
    reader.takeBack(consumed: parts)
    channel.write("y")
    #expect(reader.canLend(unfinished: true))
  }

  @Test func theRestOfARecordComesFirst() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("0123456789")
    channel.write("abc")
    #expect(reader.read(4) == "0123")
    let rest = try #require(reader.lend(unfinished: true))
    #expect(rest.isRest && rest.byteCount == 6 && rest.firstRecord == 0)
    let piece = rest.pieces[0]
    let bytes = UnsafeRawBufferPointer(start: reader.restPlace + piece.offset, count: piece.length)
    #expect(String(decoding: bytes, as: UTF8.self) == "456789")
    #expect(reader.lend(unfinished: true).map(channel.text) == "abc")
    reader.takeBack(consumed: 1)
    reader.takeBackUnread()
    #expect(reader.drain() == "abc")
    #expect(reader.statistics().bytesRead == 13)
  }
}
