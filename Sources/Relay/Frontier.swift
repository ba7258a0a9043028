// SPDX-License-Identifier: Apache-2.0
// Where writers are in the current sub-buffer: found from the hint, which anybody may have spoiled,
// at a cost that is bounded whatever it says.

internal import Synchronization

extension ChannelBuffer {
  /// The first entry not used in this lap: where the hint says, or behind it, found in steps that
  /// double, then by halves. So a hint that is far behind costs some dozens of looks, and touches
  /// few pages that writers have not touched.
  func frontier(_ current: Current) -> Frontier {
    let index = index(current.subbuf)
    let last = layout.entryCount - 1
    // Relaxed: validated by the entry before it, which is loaded with acquire.
    let hint = Hint(raw: hint.pointee.load(ordering: .relaxed))
    var low = hint.isFor(current.seq) && hint.count <= last ? hint.count : 0
    if low > 0, isFree(loadEntry(index, low - 1), current.seq) { low = 0 }
    // What is below `low` is used, and what stands at `high` was not as it was seen.
    var high = low
    var step = 1
    var seen = loadEntry(index, high)
    while !isFree(seen, current.seq) {
      guard high < last else { return .corrupt }
      low = high + 1
      high = min(high + step, last)
      step *= 2
      seen = loadEntry(index, high)
    }
    while low < high {
      let middle = (low + high) / 2
      let entry = loadEntry(index, middle)
      if isFree(entry, current.seq) { (high, seen) = (middle, entry) } else { low = middle + 1 }
    }
    let start = high > 0 ? loadEntry(index, high - 1).end : 0
    guard start <= layout.subbufSize else { return .corrupt }
    return seen.isSeal(current.seq)
      ? .sealed(at: high, end: start) : .empty(seen, at: high, start: start)
  }

  /// Not used for a record in this lap.
  private func isFree(_ entry: Entry, _ seq: UInt64) -> Bool {
    entry.isEmpty(seq) || entry.isSeal(seq)
  }
}
