// SPDX-License-Identifier: Apache-2.0
// What a reader gets: committed bytes, in order, once, however the reads are cut.

import Testing

@testable import Relay

@Suite struct ReadTests {
  @Test func deliversWhatWasWritten() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    #expect(reader.read() == "")
    #expect(channel.write("hello") == .written)
    #expect(reader.read() == "hello")
    #expect(reader.read() == "")
  }

  @Test func readsTheUnfinishedSubbufferAndGoesOnInIt() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("a")
    #expect(reader.read() == "a")
    channel.write("b")
    #expect(reader.read() == "b")
    #expect(channel.buffer.loadCurrent().seq == 1)
  }

  @Test func crossesSubbuffersAndStripsPadding() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    for record in ["0123456789", "abcdefghij", "ABCDEFGHIJ"] { channel.write(record) }
    #expect(reader.read() == "0123456789abcdefghijABCDEFGHIJ")
    #expect(reader.statistics().padding == 12)
  }

  @Test(arguments: 1...23) func anyReadSizeGivesTheSameBytes(_ limit: Int) throws {
    for mode in ChannelMode.allCases {
      let channel = try makeChannel(subbufCount: 8, mode: mode)
      let reader = Reader(channel)
      var expected = ""
      for length in [5, 11, 16, 0, 3, 3, 3, 9] {
        let record = String("abcdefghijklmnopqrstuvwxyz".prefix(length))
        channel.write(record)
        expected += record
      }
      #expect(reader.drain(limit) == expected)
      #expect(reader.statistics().bytesRead == UInt64(expected.utf8.count))
    }
  }

  @Test func aCutRecordIsNotTornByOverwriting() throws {
    let channel = try makeChannel(subbufCount: 2, mode: .overwrite)
    let reader = Reader(channel)
    channel.write("0123456789abcdef")
    #expect(reader.read(6) == "012345")
    for _ in 0..<10 { channel.write("################") }
    #expect(reader.read(4) == "6789")
    #expect(reader.read(100) == "abcdef" || reader.read(100).hasPrefix("#"))
  }

  @Test func skipsCancelledRecords() throws {
    let channel = try makeChannel(subbufSize: 32)
    let reader = Reader(channel)
    channel.write("a")
    guard case .reserved(let reservation) = channel.writer().reserve(5) else {
      Issue.record("no space")
      return
    }
    channel.write("b")
    #expect(reader.read() == "a", "what is behind an unfinished record waits")
    reservation.cancel()
    #expect(reader.read() == "b")
    #expect(reader.statistics().cancelled == 1)
    #expect(reader.statistics().recordsWritten == 2)
  }

  @Test func aReservedRecordIsInvisibleUntilCommitted() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    guard case .reserved(let reservation) = channel.writer().reserve(3) else {
      Issue.record("no space")
      return
    }
    #expect(!reader.hasData)
    reservation.bytes.copyBytes(from: Array("abc".utf8))
    reservation.commit()
    #expect(reader.read() == "abc")
  }

  @Test func whatIsGivenBackComesAgain() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("0123456789")
    channel.write("abcdefghij")
    #expect(reader.claim(limit: 13).byteCount == 13)
    reader.giveBack()
    #expect(reader.read(4) == "0123")
    #expect(reader.claim(limit: 8).byteCount == 8)
    reader.giveBack()
    #expect(reader.drain() == "456789abcdefghij")
  }

  @Test func manyEmptySubbuffersAreNoObstacle() throws {
    let channel = try makeChannel(subbufCount: 8)
    let reader = Reader(channel)
    for _ in 0..<5 {
      guard case .reserved(let reservation) = channel.writer().reserve(16) else {
        Issue.record("no space")
        return
      }
      reservation.cancel()
    }
    channel.write("data")
    #expect(reader.read() == "data")
    #expect(reader.read() == "")
  }

  @Test(arguments: [60, 63, 64, 65, 127, 200])
  func anyNumberOfEmptySubbuffersIsNoObstacle(_ count: Int) throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 256)
    let reader = Reader(channel)
    for _ in 0..<count {
      guard case .reserved(let reservation) = channel.writer().reserve(4) else {
        Issue.record("no space")
        return
      }
      reservation.cancel()
    }
    channel.write("data")
    #expect(reader.hasData)
    #expect(reader.read() == "data")
  }

  @Test(arguments: [5, 1000, Int.max]) func noRecordLongerThanASubbufferIsReserved(
    _ length: Int
  ) throws {
    let channel = try makeChannel(subbufSize: 4)
    channel.write("a")
    guard case .refused(.tooBig) = channel.writer().reserve(length) else {
      Issue.record("reserved \(length) bytes")
      return
    }
  }

  @Test func whatAClaimWithoutDataLeavesIsFree() throws {
    let channel = try makeChannel(subbufSize: 2, subbufCount: 2)
    let reader = Reader(channel)
    guard case .reserved(let unfinished) = channel.writer().reserve(1) else {
      Issue.record("nothing reserved")
      return
    }
    channel.write("a")
    channel.write("bc")
    // Sealed, and not left: the other one is still written to.
    reader.reset()
    unfinished.commit()
    #expect(!reader.hasData)
    #expect(channel.flush(channel.buffer) == .flushed)
    #expect(!reader.hasData)
    for record in ["de", "fg"] { #expect(channel.write(record) == .written) }
    #expect(reader.drain() == "defg")
  }

  @Test func armedReaderIsSignalledOnce() throws {
    let channel = try makeChannel(subbufSize: 64)
    let reader = Reader(channel)
    #expect(reader.arm())
    #expect(reader.isArmed())
    channel.write("a")
    #expect(!reader.isArmed())
    #expect(!reader.arm(), "there is data already")
    #expect(reader.read() == "a")
  }

  @Test func zeroLengthRecordsAreCountedAndFillTheIndex() throws {
    let channel = try makeChannel(subbufSize: 8, subbufCount: 2, entryCount: 4)
    let reader = Reader(channel)
    for _ in 0..<6 { #expect(channel.write("") == .written) }
    #expect(channel.write("") == .full)
    #expect(reader.read() == "")
    #expect(reader.statistics().recordsRead == 6)
    #expect(channel.write("x") == .written)
    #expect(reader.read() == "x")
  }
}
