// SPDX-License-Identifier: Apache-2.0
// Reading whole records: numbers, lengths, losses in place, and records longer than a reply.

import CRelayIoctl
import LinuxIO
import Testing

@testable import Relay

/// One frame as a reader has it.
enum Frame: Equatable {
  /// A record, or the bytes from `offset` on of one of `of` bytes.
  case record(UInt64, String, offset: Int = 0, of: Int? = nil)
  case lost(
    before: UInt64, overwritten: UInt64 = 0, full: UInt64 = 0, stalled: UInt64 = 0,
    restart: UInt64 = 0)
}

extension Reader {
  /// One read(2) of frames into `size` bytes, delivered or not.
  func frames(_ size: Int = 4096, isDelivered: Bool = true) -> [Frame] {
    withUnsafeTemporaryAllocation(byteCount: size, alignment: 8) { bytes in
      // What a reply leaves there must not be another channel's.
      bytes.initializeMemory(as: UInt8.self, repeating: 0xee)
      let count = claimFrames(into: bytes)
      guard count > 0 else { return [] }
      if isDelivered { consume() } else { giveBack() }
      return parse(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
    }
  }

  /// Reads until there is nothing left.
  func allFrames(_ size: Int = 4096) -> [Frame] {
    var all: [Frame] = []
    while true {
      let frames = frames(size)
      if frames.isEmpty { return all }
      all += frames
    }
  }
}

private func parse(_ bytes: UnsafeRawBufferPointer) -> [Frame] {
  var frames: [Frame] = []
  var at = 0
  while at < bytes.count {
    let header = bytes.loadUnaligned(fromByteOffset: at, as: relay_frame.self)
    #expect(at % 8 == 0 && header.size == 40 && header.reserved == 0)
    let start = at + 40
    let end = start + Int(header.length)
    at = (end + 7) / 8 * 8
    guard at <= bytes.count else {
      Issue.record("a frame is cut")
      return frames
    }
    #expect(bytes[end..<at].allSatisfy { $0 == 0 })
    let payload = bytes[start..<end]
    if header.type == RELAY_FRAME_RECORD {
      let isWhole = header.length == header.record_length
      #expect(header.offset + header.length <= header.record_length)
      frames.append(
        .record(
          header.sequence, String(decoding: payload, as: UTF8.self), offset: Int(header.offset),
          of: isWhole ? nil : Int(header.record_length)))
    } else {
      #expect(header.type == RELAY_FRAME_LOST && [32, 48].contains(header.length))
      var loss = relay_loss()
      withUnsafeMutableBytes(of: &loss) { $0.copyBytes(from: payload.prefix($0.count)) }
      frames.append(
        .lost(
          before: header.sequence, overwritten: loss.overwritten, full: loss.full,
          stalled: loss.stalled, restart: loss.restart))
    }
  }
  return frames
}

@Suite(.serialized) struct FramesTests {
  @Test func eachRecordHasItsNumberAndItsLength() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    #expect(!reader.hasFrames && reader.frames() == [])
    for text in ["one", "", "eight888", "the next sub-buf"] { channel.write(text) }
    #expect(reader.hasFrames)
    #expect(
      reader.frames() == [
        .record(0, "one"), .record(1, ""), .record(2, "eight888"), .record(3, "the next sub-buf"),
      ])
    #expect(!reader.hasFrames && reader.frames() == [])
    let s = reader.statistics()
    #expect(s.recordsRead == 4 && s.bytesRead == 27 && s.recordsUnread == 0)
  }

  @Test(arguments: [72, 79, 80, 95, 96, 4096])
  func aReplyOfAnySizeHasWholeFrames(_ size: Int) throws {
    let channel = try makeChannel(subbufCount: 8)
    let reader = Reader(channel)
    let texts = ["a", "bb", "", "ccccccc", "dddddddd", "eeeeeeeee", "ffffffffffffffff"]
    for text in texts { channel.write(text) }
    #expect(
      reader.allFrames(size) == texts.enumerated().map { .record(UInt64($0.offset), $0.element) })
  }

  @Test func aRecordThatFitsIntoNoReplyComesInPieces() throws {
    let channel = try makeChannel(subbufSize: 128)
    let reader = Reader(channel)
    let text = String(repeating: "0123456789", count: 7)
    channel.write("a")
    channel.write(text)
    channel.write("b")
    #expect(reader.frames(72) == [.record(0, "a")], "a record is cut only if it comes first")
    #expect(reader.frames(72) == [.record(1, String(text.prefix(32)), of: 70)])
    #expect(
      reader.frames(72, isDelivered: false)
        == [.record(1, String(text.dropFirst(32).prefix(32)), offset: 32, of: 70)])
    #expect(
      reader.frames(72) == [.record(1, String(text.dropFirst(32).prefix(32)), offset: 32, of: 70)])
    #expect(
      reader.frames() == [
        .record(1, String(text.suffix(6)), offset: 64, of: 70), .record(2, "b"),
      ])
  }

  @Test func readersOfBytesAndOfFramesTakeTurns() throws {
    let channel = try makeChannel(subbufSize: 128)
    let reader = Reader(channel)
    let text = String(repeating: "0123456789", count: 5)
    for _ in 0..<2 { channel.write(text) }
    #expect(reader.read(7) == "0123456")
    #expect(
      reader.frames(72) == [.record(0, String(text.dropFirst(7).prefix(32)), offset: 7, of: 50)])
    #expect(reader.read(20) == String(text.suffix(11)) + "012345678")
    #expect(reader.frames() == [.record(1, String(text.dropFirst(9)), offset: 9, of: 50)])
  }

  @Test func aRestIsNotTornByOverwriting() throws {
    let channel = try makeChannel(subbufSize: 64, subbufCount: 2, mode: .overwrite)
    let reader = Reader(channel)
    let text = String(repeating: "0123456789", count: 6)
    channel.write(text)
    #expect(reader.frames(72) == [.record(0, String(text.prefix(32)), of: 60)])
    for _ in 0..<5 { channel.write(String(repeating: "#", count: 64)) }
    let hashes = String(repeating: "#", count: 64)
    #expect(
      reader.allFrames() == [
        .record(0, String(text.suffix(28)), offset: 32, of: 60), .lost(before: 4, overwritten: 3),
        .record(4, hashes), .record(5, hashes),
      ])
  }

  @Test func cancelledRecordsLeaveAHoleInTheNumbers() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    channel.write("a")
    guard case .reserved(let reservation) = channel.writer().reserve(3) else {
      Issue.record("no space")
      return
    }
    channel.write("b")
    #expect(reader.frames() == [.record(0, "a")])
    #expect(!reader.hasFrames, "what is behind an unfinished record waits")
    reservation.cancel()
    #expect(reader.frames() == [.record(2, "b")])
  }

  @Test func whatWasOverwrittenIsToldInItsPlace() throws {
    let channel = try makeChannel(mode: .overwrite)
    let reader = Reader(channel)
    channel.write("first")
    #expect(reader.frames() == [.record(0, "first")])
    for i in 1...9 { channel.write("sub-buffer no. \(i)") }
    #expect(
      reader.frames(isDelivered: false).first == .lost(before: 6, overwritten: 5))
    #expect(
      reader.allFrames(72) == [.lost(before: 6, overwritten: 5)]
        + (6...9).map { .record(UInt64($0), "sub-buffer no. \($0)") })
    let s = reader.statistics()
    #expect(s.lostOverwritten == 5 && s.recordsRead == 5)
  }

  @Test func whatWasRefusedIsToldWhereTheNextSubbufferBegins() throws {
    let channel = try makeChannel(subbufCount: 2)
    let reader = Reader(channel)
    for text in ["0123456789abcdef", "0123456789abc"] { #expect(channel.write(text) == .written) }
    for _ in 0..<3 { #expect(channel.write("too many") == .full) }
    #expect(
      reader.allFrames() == [.record(0, "0123456789abcdef"), .record(1, "0123456789abc")])
    channel.write("again")
    #expect(reader.frames() == [.lost(before: 2, full: 3), .record(2, "again")])
  }

  @Test func whatWasRefusedLastIsToldAtTheEnd() throws {
    let channel = try makeChannel(subbufCount: 2)
    let reader = Reader(channel)
    for text in ["0123456789abcdef", "0123456789abc"] { #expect(channel.write(text) == .written) }
    for _ in 0..<3 { #expect(channel.write("too many") == .full) }
    channel.close()
    #expect(reader.frames().last == .lost(before: 2, full: 3))
    #expect(reader.frames() == [] && reader.isDrained)
  }

  @Test func aStoppedWriterIsPassedAndTold() throws {
    let channel = try makeChannel(subbufSize: 64)
    let reader = Reader(channel)
    reader.stallTimeout = 0
    channel.write("a")
    guard case .reserved(let reservation) = channel.writer().reserve(3) else {
      Issue.record("no space")
      return
    }
    channel.write("b")
    #expect(reader.frames() == [.record(0, "a")], "the wait begins")
    #expect(reader.frames() == [.lost(before: 2, stalled: 1), .record(2, "b")])
    reservation.commit()
    #expect(reader.frames() == [] && reader.statistics().lostStalled == 1)
  }

  @Test func whatIsGivenBackComesAgain() throws {
    let channel = try makeChannel(subbufCount: 2)
    let reader = Reader(channel)
    for text in ["0123456789abcdef", "b"] { channel.write(text) }
    let before = reader.frames(isDelivered: false)
    #expect(before.count == 2 && reader.frames() == before)
    #expect(channel.write("0123456789abcdef") == .written, "what was consumed is free")
  }

  @Test func looksDoNotTakeEmptyRecordsFromWhoReadsThem() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    reader.keepsEmptyRecords = true
    for _ in 0..<2 { channel.write("") }
    #expect(!reader.hasData && reader.hasFrames)
    _ = reader.statistics()
    channel.close()
    #expect(!reader.isDrained)
    #expect(reader.frames() == [.record(0, ""), .record(1, "")])
    #expect(reader.isDrained)
  }

  @Test func aGapBetweenReadersIsToldOnce() throws {
    let channel = try makeChannel(mode: .overwrite)
    let reader = Reader(channel)
    for i in 0..<9 { channel.write("sub-buffer no. \(i)") }
    #expect(reader.frames(72) == [.lost(before: 5, overwritten: 5)])
    #expect(reader.claim(limit: 100).lostBefore == Gap())
    reader.giveBack()
  }
}

@Suite struct PeekTests {
  @Test func peekingConsumesNothing() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    for text in ["one", "two", "the next sub-buf"] { channel.write(text) }
    #expect(reader.read(3) == "one")
    let peeker = reader.peeker()
    #expect(peeker.frames() == [.record(1, "two"), .record(2, "the next sub-buf")])
    #expect(peeker.frames() == [])
    #expect(reader.peeker().drain(5) == "twothe next sub-buf")
    #expect(reader.statistics().recordsRead == 1)
    #expect(reader.drain() == "twothe next sub-buf")
    #expect(channel.buffer.loadState(0).phase == .free)
  }

  @Test func whatOthersConsumedIsMissed() throws {
    let channel = try makeChannel()
    let reader = Reader(channel)
    let peeker = reader.peeker()
    for text in ["one", "the next sub-buf", "and the next one", "x"] { channel.write(text) }
    #expect(peeker.frames(72) == [.record(0, "one")])
    #expect(reader.drain(1 << 20).hasSuffix("x"))
    #expect(peeker.frames() == [.lost(before: 3, overwritten: 2), .record(3, "x")])
  }

  @Test func whatIsOverwrittenIsMissed() throws {
    let channel = try makeChannel(mode: .overwrite)
    let reader = Reader(channel)
    let peeker = reader.peeker()
    channel.write("first")
    #expect(peeker.drain() == "first")
    for i in 1...9 { channel.write("sub-buffer no. \(i)") }
    #expect(
      peeker.frames().prefix(2) == [
        .lost(before: 6, overwritten: 5), .record(6, "sub-buffer no. 6"),
      ])
  }

  @Test func aLongRecordIsPeekedInPieces() throws {
    let channel = try makeChannel(subbufSize: 128, mode: .overwrite)
    let reader = Reader(channel)
    let text = String(repeating: "0123456789", count: 7)
    for _ in 0..<2 { channel.write(text) }
    let peeker = reader.peeker()
    #expect(peeker.frames(72) == [.record(0, String(text.prefix(32)), of: 70)])
    #expect(peeker.read(10) == String(text.dropFirst(32).prefix(10)))
    #expect(peeker.drain() == String(text.dropFirst(42)) + text)
    let other = reader.peeker()
    #expect(other.frames(72) == [.record(0, String(text.prefix(32)), of: 70)])
    for _ in 0..<9 { channel.write(text) }
    #expect(other.frames().first == .lost(before: 7, overwritten: 7), "its rest is gone")
    #expect(reader.frames().first == .lost(before: 7, overwritten: 7))
  }
}
