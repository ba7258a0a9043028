// SPDX-License-Identifier: Apache-2.0
// How relayctl read says what was lost, and what came out of order.

import CRelayIoctl
import Testing

@testable import relayctl

@Suite struct RecordAccountTests {
  private func loss(
    _ overwritten: UInt64, _ full: UInt64, _ stalled: UInt64, _ restart: UInt64
  ) -> relay_loss {
    relay_loss(
      overwritten: overwritten, full: full, stalled: stalled, restart: restart, full_before: 0,
      restart_before: 0)
  }

  @Test(
    arguments: [
      (0, 0, "0 records read, none lost"), (1000, 0, "1000 records read, none lost"),
      (488, 24, "488 records read, 24 lost (4.69%)"),
      (0, 3, "0 records read, 3 lost (100.00%)"),
      (1_000_000, 1, "1000000 records read, 1 lost (0.01%)"),
      (1, 1_000_000, "1 records read, 1000000 lost (99.99%)"),
    ] as [(UInt64, UInt64, String)])
  func theText(_ read: UInt64, _ lost: UInt64, _ text: String) {
    var account = RecordAccount(read: read)
    account.add(loss(lost, 0, 0, 0))
    #expect(account.text == text)
  }

  @Test func everyCauseCounts() {
    var account = RecordAccount()
    account.add(loss(1, 2, 4, 8))
    account.add(loss(16, 0, 0, 0))
    #expect((account + account).lost == 62)
    // From memory that somebody scribbled over.
    account.add(loss(.max, .max, .max, .max))
  }

  @Test func disorderIsMeasuredAgainstTheLatest() {
    var disorder = Disorder()
    for time: UInt64 in [5, 7, 7, 3, 6, 8] { disorder.note(time: time) }
    #expect(disorder.count == 2 && disorder.most == 4)
  }
}
