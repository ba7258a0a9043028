// SPDX-License-Identifier: Apache-2.0
// The parts of a whole: whose asking is over which.

import Glibc
import Testing

@testable import LinuxIO

@Suite struct ShareTests {
  @Test(arguments: [
    (1, 1, 1), (2, 1, 1), (8, 7, 2), (16, 14, 4), (4096, 3584, 1024),
    (Int.max, Int.max / 8 * 7 + 7, Int.max / 4),
  ])
  func aPartIsKeptForRoot(_ whole: Int, _ ofOthers: Int, _ ofUser: Int) {
    let share = Share(of: whole, perUser: nil)
    #expect((share.ofOthers, share.ofUser) == (ofOthers, ofUser))
    #expect(Share(of: whole, perUser: 3).ofUser == 3)
  }

  @Test func usersOwnShareComesFirst() {
    let share = Share(of: 8, perUser: 3)
    #expect(share.shortage(4001, user: 2, others: 6, all: 7) == nil)
    #expect(share.shortage(4001, user: 3, others: 7, all: 8) == .ofUser)
    #expect(share.shortage(4001, user: 2, others: 7, all: 8) == .ofOthers)
    #expect(share.shortage(4001, user: 2, others: 6, all: 8) == .whole)
  }

  @Test func rootAndOwnUserHaveTheWhole() {
    let share = Share(of: 8, perUser: 3)
    for uid in [0, geteuid()] {
      #expect(share.shortage(uid, user: 7, others: 7, all: 7) == nil)
      #expect(share.shortage(uid, user: 8, others: 0, all: 8) == .whole)
    }
  }

  @Test func hugeRequestIsOver() {
    let share = Share(of: 100, perUser: nil)
    #expect(share.shortage(4001, asksFor: .max, user: 90, others: 90, all: 90) == .ofUser)
    #expect(share.shortage(0, asksFor: .max, user: 0, others: 0, all: 0) == .whole)
    // A limit was lowered since.
    #expect(share.shortage(0, user: 200, others: 200, all: 200) == .whole)
  }
}
