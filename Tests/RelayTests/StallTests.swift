// SPDX-License-Identifier: Apache-2.0
// A writer that stops inside a record holds up what is behind it for a while, and no longer.

import Glibc
import Synchronization
import Testing

@testable import Relay

@Suite(.serialized) struct StallTests {
  private let channel: Channel
  private let reader: Reader
  private var buffer: ChannelBuffer { channel.buffer }

  init() throws {
    channel = try makeChannel(subbufSize: 4, subbufCount: 4)
    reader = Reader(channel)
    reader.stallTimeout = 20
  }

  /// A record that is reserved and not committed.
  private func stop(_ text: String, owner: UInt16) -> ChannelBuffer.Reserved {
    buffer.reserve(text.utf8.count, owner: owner, wakeFD: -1, NoTestPoints.self)
  }

  private func sleepOver() { poll(nil, 0, 30) }

  private func expectAccount(_ read: UInt64, stalled: UInt64, aborted: UInt64 = 0) {
    let s = reader.statistics()
    #expect(s.recordsRead == read && s.lostStalled == stalled && s.aborted == aborted)
    #expect(s.recordsWritten == s.recordsRead + s.recordsUnread + s.lostOverwritten + s.lostStalled)
  }

  @Test func whatIsBehindItComesAfterTheTimeout() {
    _ = stop("x", owner: 7)
    #expect(channel.write("ab") == .written)
    #expect(reader.drain() == "" && !reader.hasData)
    #expect(reader.stallTimeLeft! <= 20)
    sleepOver()
    let claim = reader.claim(limit: 10)
    #expect(claim.byteCount == 2 && claim.lostBefore.stalled == 1)
    reader.consume()
    #expect(reader.stallTimeLeft == nil)
    expectAccount(1, stalled: 1)
  }

  @Test func nothingIsPassedForNothing() {
    _ = stop("x", owner: 7)
    for _ in 0..<3 {
      #expect(reader.drain() == "" && reader.stallTimeLeft == nil)
      sleepOver()
    }
    expectAccount(0, stalled: 0)
  }

  @Test func withoutATimeoutItIsWaitedForForEver() {
    reader.stallTimeout = nil
    _ = stop("x", owner: 7)
    #expect(channel.write("ab") == .written)
    for _ in 0..<3 {
      #expect(reader.drain() == "" && reader.stallTimeLeft == nil)
      sleepOver()
    }
  }

  @Test func itsSubbufferIsKeptUntilItIsDone() {
    guard case .reserved(let stopped) = stop("x", owner: 7) else { return #expect(Bool(false)) }
    for letter in "abcdefghi" { #expect(channel.write("\(letter)") == .written) }
    #expect(reader.drain() == "")
    sleepOver()
    #expect(reader.drain() == "abcdefghi")
    for round in 0..<20 {
      #expect(channel.write("yz") == .written, "\(round)")
      #expect(reader.drain() == "yz")
      #expect(buffer.loadState(0).seq == 1 && buffer.loadState(0).isHeld)
    }
    stopped.commit()
    #expect(reader.drain() == "", "what was counted as lost does not come later")
    #expect(buffer.loadState(0).phase == .free)
    expectAccount(29, stalled: 1)
  }

  @Test func oneThatDiesLaterIsCountedOnce() {
    _ = stop("x", owner: 7)
    #expect(channel.write("ab") == .written)
    #expect(reader.drain() == "")
    sleepOver()
    #expect(reader.drain() == "ab")
    channel.sweep(owner: 7)
    expectAccount(1, stalled: 0, aborted: 1)
  }

  /// All who stopped before the wait began are passed together; who came later has time of its own.
  @Test func manyThatStoppedCostOneTimeout() {
    for owner in 7..<10 { _ = stop("x", owner: UInt16(owner)) }
    #expect(channel.write("a") == .written)
    #expect(reader.drain() == "")
    _ = stop("y", owner: 11)
    #expect(channel.write("b") == .written)
    sleepOver()
    #expect(reader.drain() == "a")
    #expect(reader.drain() == "")
    sleepOver()
    #expect(reader.drain() == "b")
    expectAccount(2, stalled: 4)
  }

  @Test func aClaimEndsBeforeTheGap() {
    #expect(channel.write("a") == .written)
    _ = stop("x", owner: 7)
    #expect(channel.write("b") == .written)
    #expect(reader.drain() == "a")
    sleepOver()
    #expect(channel.write("c") == .written)
    var claim = reader.claim(limit: 10)
    #expect(claim.byteCount == 2 && claim.lostBefore.stalled == 1)
    reader.giveBack()
    claim = reader.claim(limit: 10)
    #expect(claim.byteCount == 2 && claim.lostBefore.stalled == 1)
    reader.consume()
    expectAccount(3, stalled: 1)
  }

  @Test func aClosedChannelEndsBehindIt() {
    _ = stop("x", owner: 7)
    channel.close()
    #expect(!reader.isDrained)
    sleepOver()
    #expect(reader.isDrained)
    expectAccount(0, stalled: 1)
  }

  @Test func aResetForgetsIt() {
    _ = stop("x", owner: 7)
    #expect(channel.write("ab") == .written)
    #expect(reader.drain() == "")
    sleepOver()
    #expect(reader.drain() == "ab")
    reader.reset()
    #expect(channel.write("c") == .written && reader.drain() == "c")
    channel.sweep(owner: 7)
    expectAccount(1, stalled: 0, aborted: 1)
  }
}
