// SPDX-License-Identifier: Apache-2.0
// How often relayd makes files again that somebody takes away, before it gives up.

import Testing

@testable import RelayDaemon

@Suite struct RestorePaceTests {
  @Test func triesAreBoundedAndFartherAndFartherApart() {
    var pace = RestorePace()
    let now = ContinuousClock.now
    let waits = (0..<8).map { pace.next(at: now + .seconds($0)) }
    #expect(waits == [1, 250, 500, 1000, 2000, 4000, nil, nil])
  }

  @Test func aMinuteWithoutALossForgetsTheTries() {
    var pace = RestorePace()
    let now = ContinuousClock.now
    for second in 0..<5 { _ = pace.next(at: now + .seconds(second)) }
    let wait = pace.next(at: now + .seconds(65))
    #expect(wait == 1)
  }

  @Test func filesThatStayedForAWhileForgetTheTries() {
    var pace = RestorePace()
    let now = ContinuousClock.now
    for round in 0..<20 {
      let lost = now + .seconds(10 * round)
      #expect(pace.next(at: lost) == 1)
      pace.noteSuccess(at: lost + .milliseconds(1))
    }
    // Those that are gone at once again are no success.
    let waits = (0..<7).map { round in
      defer { pace.noteSuccess(at: now + .seconds(300 + round)) }
      return pace.next(at: now + .seconds(300 + round))
    }
    #expect(waits == [1, 250, 500, 1000, 2000, 4000, nil])
  }
}
