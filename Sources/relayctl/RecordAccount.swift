// SPDX-License-Identifier: Apache-2.0
// How many records of a buffer, or of a channel, a reader got, and how many it did not.

import CRelayIoctl

struct RecordAccount: Equatable {
  /// Whole ones.
  var read: UInt64 = 0
  private(set) var lost: UInt64 = 0

  mutating func add(_ loss: relay_loss) {
    // The numbers come from memory that others write.
    lost = lost &+ loss.overwritten &+ loss.full &+ loss.stalled &+ loss.restart
  }

  static func + (one: RecordAccount, other: RecordAccount) -> RecordAccount {
    RecordAccount(read: one.read &+ other.read, lost: one.lost &+ other.lost)
  }

  /// "488 records read, 24 lost (4.69%)"
  var text: String {
    guard lost > 0 else { return "\(read) records read, none lost" }
    return "\(read) records read, \(lost) lost (\(LossShare(lost: lost, of: read &+ lost).text))"
  }
}

/// Records that were printed after later ones.
struct Disorder: Equatable {
  private(set) var count: UInt64 = 0
  private var latest: UInt64 = 0
  /// In nanoseconds.
  private(set) var most: UInt64 = 0

  mutating func note(time: UInt64) {
    if time < latest {
      count += 1
      most = max(most, latest - time)
    }
    latest = max(latest, time)
  }
}
