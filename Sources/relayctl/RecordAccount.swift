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

  /// "488 records read, 24 lost (4.7 %)"
  var text: String {
    guard lost > 0 else { return "\(read) records read, none lost" }
    let share = Double(lost) / (Double(lost) + Double(read))
    let tenths = (share * 1000).rounded()
    // No loss looks like none, and nothing that was read like nothing.
    let percentage =
      tenths == 0
      ? "less than 0.1" : tenths == 1000 && read > 0 ? "more than 99.9" : "\(tenths / 10)"
    return "\(read) records read, \(lost) lost (\(percentage) %)"
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
