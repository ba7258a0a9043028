// SPDX-License-Identifier: Apache-2.0
// Flush, reset and close, as in relay but without its faults.

import Testing

@testable import Relay

@Suite struct LifeTests {
  @Test func flushMovesOnOnlyIfThereIsData() throws {
    let channel = try makeChannel()
    #expect(channel.flush() == .flushed)
    #expect(channel.buffer.loadCurrent().seq == 0)
    channel.write("a")
    #expect(channel.flush() == .flushed)
    #expect(channel.buffer.loadCurrent().seq == 2)
    #expect(channel.flush() == .flushed)
    #expect(channel.buffer.loadCurrent().seq == 2)
    #expect(Reader(channel).drain() == "a")
  }

  @Test func flushOfAFullChannelSaysSo() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 2)
    channel.write("abcd")
    channel.write("efg")
    #expect(channel.flush() == .full)
    #expect(Reader(channel).drain() == "abcdefg")
    #expect(channel.flush() == .flushed)
  }

  @Test(arguments: ChannelMode.allCases) func resetForgetsEverything(_ mode: ChannelMode) throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3, mode: mode)
    let reader = Reader(channel)
    for i in 0..<50 { channel.write(String(i % 10)) }
    #expect(reader.read(2).count == 2)
    reader.reset()
    #expect(reader.statistics() == Statistics())
    #expect(!reader.hasData)
    for i in 0..<10 { #expect(channel.write(String(i)) == .written) }
    #expect(reader.drain() == "0123456789")
    let s = reader.statistics()
    #expect(s.recordsWritten == 10)
    #expect(s.bytesWritten == 10)
    #expect(s.lostFull == 0)
  }

  @Test(arguments: [0, 1, 4, 9, 12]) func resetFreesEverySubbuffer(_ before: Int) throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3)
    let reader = Reader(channel)
    for _ in 0..<before { channel.write("x") }
    reader.reset()
    for i in 0..<12 { #expect(channel.write("y") == .written, "\(i)") }
    #expect(channel.write("y") == .full)
  }

  @Test func lossesBeforeAResetAreNoGapAfterIt() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 2)
    let reader = Reader(channel)
    for _ in 0..<2 { channel.write("abcd") }
    reader.reset()
    for _ in 0..<2 { channel.write("abcd") }
    #expect(channel.write("x") == .full)
    _ = reader.drain()
    reader.reset()
    channel.buffer.count(channel.buffer.lostFull)
    reader.reset()
    channel.write("new")
    let claim = reader.claim(limit: 100)
    #expect(claim.lostBefore == Gap())
    reader.consume()
  }

  @Test func resetDropsTheRestOfACutRecord() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("0123456789")
    #expect(reader.read(3) == "012")
    reader.reset()
    channel.write("new")
    #expect(reader.drain() == "new")
  }

  @Test func resetPassesARecordBeingWrittenAndItsSubbufferIsFreedLater() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 2)
    let reader = Reader(channel)
    guard case .reserved(let reservation) = channel.writer().reserve(2) else { return }
    reader.reset()
    channel.write("abcd")
    #expect(channel.write("e") == .full)
    #expect(reader.drain() == "abcd")
    reservation.commit()
    #expect(reader.drain() == "", "forgotten by the reset")
    #expect(channel.write("efgh") == .written)
    #expect(reader.drain() == "efgh")
  }

  @Test func closeRefusesWritersAndReadersDrainWhatIsLeft() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("a")
    guard case .reserved(let reservation) = channel.writer().reserve(1) else { return }
    reservation.bytes.copyBytes(from: [98])
    channel.close()
    #expect(channel.write("c") == .closed)
    #expect(channel.flush() == .closed)
    #expect(!reader.isDrained)
    #expect(reader.read() == "a")
    #expect(!reader.isDrained, "a record reserved before the close may still be committed")
    reservation.commit()
    #expect(reader.read() == "b")
    #expect(reader.isDrained)
  }

  @Test func closeOfANeverWrittenChannelIsItsEnd() throws {
    let channel = try makeChannel()
    channel.close()
    #expect(Reader(channel).isDrained)
    #expect(channel.write("a") == .closed)
  }

  @Test func closeRightAfterAFlushIsItsEnd() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("a")
    channel.flush()
    channel.close()
    #expect(reader.drain() == "a")
    #expect(reader.isDrained)
  }
}
