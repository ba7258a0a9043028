// SPDX-License-Identifier: Apache-2.0
// What relayctl read takes of frames that a device repeats after its daemon died.

import CRelayIoctl
import Testing

@testable import relayctl

@Suite struct StreamProgressTests {
  private let progress = StreamProgress(incarnation: 1)

  /// The part of the payload that is new; nil: the record was taken before.
  private func take(_ sequence: UInt64, _ part: Range<Int>, of length: Int) -> Range<Int>? {
    var frame = relay_frame()
    frame.sequence = sequence
    frame.offset = UInt32(part.lowerBound)
    frame.length = UInt32(part.count)
    frame.record_length = UInt32(length)
    return progress.take(frame).map { part.lowerBound + $0..<part.upperBound }
  }

  @Test func eachRecordIsTakenOnce() {
    #expect(take(0, 0..<3, of: 3) == 0..<3)
    #expect(take(1, 0..<0, of: 0) == 0..<0)
    for known: UInt64 in [0, 1] { #expect(take(known, 0..<3, of: 3) == nil) }
    #expect(take(5, 0..<4, of: 4) == 0..<4, "numbers may be missing")
    #expect(take(4, 0..<4, of: 4) == nil)
    #expect(progress.next == 6 && progress.offset == 0)
  }

  @Test func whatWasTakenOfALongRecordIsNotTakenAgain() {
    #expect(take(7, 0..<100, of: 250) == 0..<100)
    #expect(progress.offset == 100)
    // The daemon died before it had noted that: it starts over, in other pieces.
    #expect(take(7, 0..<80, of: 250) == 80..<80)
    #expect(take(7, 80..<160, of: 250) == 100..<160)
    #expect(take(7, 100..<160, of: 250) == 160..<160)
    #expect(take(7, 160..<250, of: 250) == 160..<250)
    #expect(take(7, 160..<250, of: 250) == nil)
    #expect(progress.next == 8 && progress.offset == 0)
  }

  @Test func theRestOfARecordMayHaveGoneElsewhere() {
    #expect(take(7, 0..<100, of: 250) == 0..<100)
    #expect(take(8, 0..<100, of: 250) == 0..<100, "and of this one only the beginning is here")
    #expect(take(9, 200..<250, of: 250) == 200..<250, "and of this one only the end")
    #expect(progress.next == 10 && progress.offset == 0)
  }

  /// What of a loss in front of record `sequence` is new: overwritten, full, stalled, restart.
  private func lose(
    _ sequence: UInt64, _ counts: [UInt64], before: (full: UInt64, restart: UInt64)?
  ) -> [UInt64] {
    var frame = relay_frame()
    frame.sequence = sequence
    frame.length = before == nil ? 32 : 48
    let new = progress.take(
      frame,
      relay_loss(
        overwritten: counts[0], full: counts[1], stalled: counts[2], restart: counts[3],
        full_before: before?.full ?? 0, restart_before: before?.restart ?? 0))
    return [new.overwritten, new.full, new.stalled, new.restart]
  }

  @Test func lossThatIsRepeatedIsTakenOnce() {
    #expect(take(0, 0..<3, of: 3) == 0..<3)
    #expect(lose(6, [3, 4, 2, 7], before: (10, 0)) == [3, 4, 2, 7])
    // The daemon died before it had noted that, and more was lost before the next one told it.
    #expect(lose(6, [3, 4, 2, 7], before: (10, 0)) == [0, 0, 0, 0])
    #expect(lose(9, [6, 5, 2, 9], before: (10, 0)) == [3, 1, 0, 2])
    #expect(take(5, 0..<3, of: 3) == nil && take(9, 0..<3, of: 3) == 0..<3)
    #expect(lose(10, [0, 1, 0, 1], before: (15, 9)) == [0, 1, 0, 1])
  }

  /// One that the next daemon found stands before records that are repeated.
  @Test func newLossBeforeKnownRecordsIsTaken() {
    for number: UInt64 in 0..<3 { #expect(take(number, 0..<3, of: 3) == 0..<3) }
    #expect(lose(0, [0, 0, 0, 5], before: (0, 0)) == [0, 0, 0, 5])
    #expect(take(0, 0..<3, of: 3) == nil && progress.next == 3)
  }

  /// Of a relayd that does not number them.
  @Test func lossWithoutNumbersIsKnownByWhatComesBehindIt() {
    #expect(lose(3, [3, 1, 0, 0], before: nil) == [3, 1, 0, 0])
    #expect(take(3, 0..<3, of: 3) == 0..<3)
    #expect(lose(3, [3, 1, 0, 0], before: nil) == [0, 0, 0, 0])
  }

  @Test func numbersThatSomebodyScribbledOverBreakNothing() {
    #expect(lose(.max, [.max, .max, .max, .max], before: (.max, .max))[0] == .max)
    #expect(lose(0, [.max, .max, .max, .max], before: (.max, 1)) == [0, 0, 0, 0])
  }
}
