// SPDX-License-Identifier: Apache-2.0
// How much was lost, in percent: of what writers offered, as stat shows it, or of a stream.

import Relay

/// Records that were lost, of how many.
struct LossShare {
  let lost: UInt64
  private let total: UInt64

  /// - Parameter total: the lost ones included.
  init(lost: UInt64, of total: UInt64) {
    self.lost = lost
    self.total = total
  }

  /// Of what writers offered. What they gave up themselves is neither.
  init(_ s: Statistics) {
    // Not in `recordsWritten`; what was overwritten or passed is.
    let unwritten = s.lostFull &+ s.lostTooBig &+ s.lostRestart &+ s.aborted
    self.init(
      lost: s.lostOverwritten &+ s.lostStalled &+ unwritten, of: s.recordsWritten &+ unwritten)
  }

  /// 0 where there was nothing.
  var percent: Double { total == 0 ? 0 : 100 * Double(lost) / Double(total) }

  /// With two digits behind the point; 0.00% and 100.00% are said only where they are exact.
  var text: String {
    guard lost > 0, total > 0 else { return "0.00%" }
    let rounded = Int(min(100 * percent, 10_000).rounded())
    let hundredths = lost == total ? 10_000 : min(max(rounded, 1), 9_999)
    let digits = String(100 + hundredths % 100).dropFirst()
    return "\(hundredths / 100).\(digits)%"
  }
}

extension Statistics {
  /// The account of several buffers; of backlogs the largest.
  static func total(of accounts: [Statistics]) -> Statistics {
    var total = Statistics()
    let counters: [WritableKeyPath<Statistics, UInt64>] = [
      \.recordsWritten, \.recordsRead, \.recordsUnread, \.bytesRead, \.lostFull, \.lostTooBig,
      \.lostOverwritten, \.lostStalled, \.lostRestart, \.aborted, \.cancelled, \.corrupt,
    ]
    for account in accounts {
      for counter in counters { total[keyPath: counter] &+= account[keyPath: counter] }
      total.backlogMax = max(total.backlogMax, account.backlogMax)
    }
    return total
  }
}
