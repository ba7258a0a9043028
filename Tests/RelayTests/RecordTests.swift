// SPDX-License-Identifier: Apache-2.0
// Reading by records: whole ones, empty ones, their numbers, and what was lost before them.

import Synchronization
import Testing

@testable import Relay

extension Reader {
  struct Record {
    let info: RecordInfo
    let bytes: [UInt8]
    var text: String { String(decoding: bytes, as: UTF8.self) }
  }

  /// nil: none now, or no more.
  func record() -> Record? {
    var bytes = [UInt8](repeating: 0, count: 64)
    guard case .record(let info) = bytes.withUnsafeMutableBytes({ readRecord(into: $0) }) else {
      return nil
    }
    return Record(info: info, bytes: Array(bytes[..<info.byteCount]))
  }
}

@Suite struct RecordTests {
  private func texts(_ reader: Reader) -> [String] {
    var texts: [String] = []
    while let record = reader.record() { texts.append("\(record.info.sequence) \(record.text)") }
    return texts
  }

  private func readNothing(_ reader: Reader) -> RecordResult {
    reader.readRecord(into: UnsafeMutableRawBufferPointer(start: nil, count: 0))
  }

  @Test func recordsComeOneByOneAcrossSubbuffers() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    for text in ["", "0123456789", "abcdefghij", "", "k"] { channel.write(text) }
    #expect(texts(reader) == ["0 ", "1 0123456789", "2 abcdefghij", "3 ", "4 k"])
    #expect(readNothing(reader) == .none)
    let s = reader.statistics()
    #expect(s.recordsRead == 5 && s.bytesRead == 21 && s.recordsUnread == 0)
    #expect(s.subbufsConsumed == 1 && channel.buffer.loadState(0).phase == .free)
  }

  @Test func anEmptyRecordIsDataForWhoReadsRecords() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    #expect(readNothing(reader) == .none)
    #expect(reader.arm())
    channel.write("")
    #expect(!reader.arm() && reader.hasData && !reader.isDrained)
    channel.close()
    #expect(reader.hasData && !reader.isDrained)
    #expect(reader.statistics().recordsUnread == 1)
    #expect(texts(reader) == ["0 "])
    #expect(!reader.hasData && readNothing(reader) == .end)
  }

  @Test func whatIsTooLongStays() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("abc")
    #expect(readNothing(reader) == .tooLong(3))
    #expect(readNothing(reader) == .tooLong(3))
    #expect(channel.buffer.loadState(0).pins == 0)
    #expect(texts(reader) == ["0 abc"])
  }

  @Test func theRestOfARecordThatAReadBeganComesFirst() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    for text in ["x", "abcd", "y"] { channel.write(text) }
    #expect(reader.read(3) == "xab")
    #expect(readNothing(reader) == .tooLong(2))
    #expect(texts(reader) == ["1 cd", "2 y"])
    #expect(reader.statistics().bytesRead == 6)
  }

  @Test func cancelledRecordsLeaveTheirNumber() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("a")
    if case .reserved(let reservation) = channel.writer().reserve(2) { reservation.cancel() }
    channel.write("b")
    #expect(texts(reader) == ["0 a", "2 b"])
    #expect(reader.statistics().recordsRead == 2)
  }

  @Test func aRecordThatIsBeingWrittenIsWaitedFor() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    guard case .reserved(let reservation) = channel.writer().reserve(1) else { return }
    channel.write("b")
    #expect(readNothing(reader) == .none)
    reservation.bytes[0] = 0x61
    reservation.commit()
    #expect(texts(reader) == ["0 a", "1 b"])
  }

  @Test func aRecordWhoseWriterStoppedIsPassedAndTold() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    reader.stallTimeout = 0
    guard case .reserved(let reservation) = channel.writer().reserve(1) else { return }
    channel.write("b")
    // The first look starts the wait.
    let record = try #require(reader.record() ?? reader.record())
    #expect(record.info.sequence == 1 && record.info.lostBefore.stalled == 1)
    channel.write("c")
    #expect(reader.record()?.info.lostBefore == Gap())
    reservation.cancel()
  }

  @Test func whatWasOverwrittenIsToldBeforeTheNextOne() throws {
    let channel = try makeChannel(subbufCount: 2, mode: .overwrite)
    let reader = Reader(channel)
    for i in 0..<5 { channel.write("0123456789abcde\(i)") }
    let record = try #require(reader.record())
    #expect(record.info.sequence == 3 && record.info.lostBefore.overwritten == 3)
    #expect(texts(reader) == ["4 0123456789abcde4"])
  }

  @Test func whatWasRefusedIsToldBeforeAnEmptyRecord() throws {
    let channel = try makeChannel(subbufCount: 2)
    let reader = Reader(channel)
    for _ in 0..<5 { channel.write("0123456789abcdef") }
    #expect(reader.record()?.info.lostBefore == Gap())
    #expect(reader.record()?.info.lostBefore == Gap())
    #expect(readNothing(reader) == .none)
    channel.write("")
    channel.write("x")
    let empty = try #require(reader.record())
    #expect(empty.info.lostBefore.full == 3 && empty.info.byteCount == 0)
    #expect(reader.record()?.info.lostBefore == Gap())
  }

  @Test func damageIsSaidToBeSo() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("abc")
    let entry = Entry(.committed, seq: 1, end: 17)
    channel.buffer.index(0).pointee.store(entry.raw, ordering: .relaxed)
    #expect(readNothing(reader) == .corrupt)
    #expect(readNothing(reader) == .corrupt)
    #expect(channel.buffer.loadState(0).pins == 0)
  }
}
