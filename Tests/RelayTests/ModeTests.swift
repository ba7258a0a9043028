// SPDX-License-Identifier: Apache-2.0
// What a full channel does in either mode, and that every loss is counted and located.

import Glibc
import Synchronization
import Testing

@testable import Relay

@Suite struct ModeTests {
  @Test func discardRefusesAndCountsUntilASubbufferIsFree() throws {
    let channel = try makeChannel(subbufCount: 2)
    let reader = Reader(channel)
    #expect(channel.write("0123456789abcdef") == .written)
    #expect(channel.write("ABCDEFGHIJKLMNOP") == .written)
    #expect(channel.write("x") == .full)
    #expect(channel.write("y") == .full)
    #expect(reader.read(15) == "0123456789abcde")
    #expect(channel.write("z") == .full, "the reader has not left the first sub-buffer yet")
    #expect(reader.read() == "fABCDEFGHIJKLMNOP")
    #expect(channel.write("w") == .written)
    let claim = reader.claim(limit: 10)
    #expect(claim.byteCount == 1)
    #expect(claim.lostBefore.full == 3)
    reader.consume()
    let s = reader.statistics()
    #expect(s.lostFull == 3)
    #expect(s.recordsWritten == 3)
    #expect(s.recordsRead == 3)
  }

  @Test func overwriteLosesTheOldestAndSaysHowManyAndWhere() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3, mode: .overwrite)
    let reader = Reader(channel)
    for i in 0..<20 { #expect(channel.write(String(i % 10)) == .written) }
    let claim = reader.claim(limit: 100)
    #expect(claim.lostBefore.overwritten == 8)
    reader.consume()
    #expect(reader.drain().count == 12 - claim.byteCount)
    let s = reader.statistics()
    #expect(s.lostOverwritten == 8)
    #expect(s.recordsRead == 12)
    #expect(s.recordsWritten == 20)
  }

  @Test func aGapComesBetweenClaimsNeverInside() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3, mode: .overwrite)
    let reader = Reader(channel)
    channel.write("abcd")
    #expect(reader.read(2) == "ab")
    for i in 0..<16 { channel.write(String(i % 10)) }
    #expect(reader.read() == "cd", "the rest of a record comes before what follows the gap")
    let claim = reader.claim(limit: 100)
    #expect(claim.lostBefore.overwritten == 4)
    reader.giveBack()
    #expect(reader.drain() == "456789012345")
  }

  @Test func aGapRightBeforeAnUnfinishedRecordGoesBeforeItsBytes() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 2, mode: .overwrite)
    let reader = Reader(channel)
    channel.write("abcd")
    #expect(reader.read(4) == "abcd")
    channel.write("efgh")
    guard case .reserved(let reservation) = channel.writer().reserve(1) else {
      Issue.record("no space")
      return
    }
    channel.write("ijkl")
    #expect(!reader.hasData, "efgh is overwritten, and what follows it is not finished")
    reservation.bytes[0] = UInt8(ascii: "x")
    reservation.commit()
    let claim = reader.claim(limit: 100)
    #expect(claim.lostBefore.overwritten == 1)
    #expect(claim.byteCount == 1)
    reader.consume()
    #expect(reader.read() == "ijkl")
  }

  @Test func aPinnedSubbufferIsNeverOverwritten() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3, mode: .overwrite)
    let reader = Reader(channel)
    channel.write("abcd")
    channel.write("efgh")
    let claim = reader.claim(limit: 4)
    for i in 0..<100 { #expect(channel.write(String(i % 10)) == .written) }
    let bytes = UnsafeRawBufferPointer(start: claim.vectors[0].iov_base, count: 4)
    #expect(String(decoding: bytes, as: UTF8.self) == "abcd")
    reader.consume()
    #expect(reader.statistics().lostOverwritten + reader.statistics().recordsUnread == 101)
  }

  @Test func cancelledRecordsAreNotCountedAsOverwritten() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 2, mode: .overwrite)
    let reader = Reader(channel)
    for i in 0..<40 {
      if i % 3 == 0 {
        guard case .reserved(let reservation) = channel.writer().reserve(1) else { return }
        reservation.cancel()
      } else {
        channel.write("x")
      }
    }
    _ = reader.drain()
    let s = reader.statistics()
    #expect(s.cancelled == 14)
    #expect(s.recordsWritten == 26)
    #expect(s.recordsRead + s.lostOverwritten == 26)
  }

  @Test(arguments: ChannelMode.allCases) func tooLongARecordIsRefused(_ mode: ChannelMode) throws {
    let channel = try makeChannel(mode: mode)
    #expect(channel.write("0123456789abcdef") == .written)
    #expect(channel.write("0123456789abcdefg") == .tooBig)
    #expect(Reader(channel).statistics().lostTooBig == 1)
  }

  @Test func aWaitingWriterGoesOnWhenASubbufferIsFreed() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 2)
    let reader = Reader(channel)
    channel.write("abcd")
    channel.write("efgh")
    let record: StaticString = "ijkl"
    @Sendable func write(_ milliseconds: Int) -> WriteResult {
      channel.writer().write(
        UnsafeRawBufferPointer(start: record.utf8Start, count: 4),
        waitingMilliseconds: milliseconds)
    }
    #expect(write(1) == .full)
    let waiter = Thread { write(10_000) == .written }
    while channel.buffer.spaceWaiters.pointee.load(ordering: .relaxed) == 0 {}
    #expect(reader.read() == "abcdefgh")
    #expect(waiter.join())
    #expect(reader.read() == "ijkl")
    #expect(reader.statistics().lostFull == 0)
  }
}
