// SPDX-License-Identifier: Apache-2.0
// How much of what writers offered was lost, as stat shows it.

import Relay

/// Records that were lost, of those that writers offered. What they gave up themselves is neither.
struct LossShare {
  let lost: UInt64
  private let offered: UInt64

  init(_ s: Statistics) {
    // Not in `recordsWritten`; what was overwritten or passed is.
    let unwritten = s.lostFull &+ s.lostTooBig &+ s.lostRestart &+ s.aborted
    offered = s.recordsWritten &+ unwritten
    lost = s.lostOverwritten &+ s.lostStalled &+ unwritten
  }

  /// 0 where nothing was offered.
  var percent: Double { offered == 0 ? 0 : 100 * Double(lost) / Double(offered) }

  /// With two digits behind the point; 0.00% and 100.00% are said only where they are exact.
  var text: String {
    guard lost > 0, offered > 0 else { return "0.00%" }
    let rounded = Int(min(100 * percent, 10_000).rounded())
    let hundredths = lost == offered ? 10_000 : min(max(rounded, 1), 9_999)
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
