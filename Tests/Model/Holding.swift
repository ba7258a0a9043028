// SPDX-License-Identifier: Apache-2.0
// The bound on what one process holds by records that it never ends, as in
// Sources/Relay/HeldBound.swift. What that counts only becomes less meanwhile, or is counted again
// at the next switch: each count is one step here. Four notes a sub-buffer are more than there are
// entries in these worlds.

extension World {
  /// Entry `i`, behind which somebody reserves.
  mutating func noteIfOpen(_ current: Current, _ i: UInt8) {
    guard broken != .openNotNoted, entry(current.subbuf, i).tag == .busy else { return }
    let k = Int(current.subbuf)
    // Who slept since an earlier lap writes over no note of a later one.
    guard s.memory.noteSeq[k] <= current.seq else { return }
    if s.memory.noteSeq[k] < current.seq { s.memory.notes[k] = 0 }
    s.memory.noteSeq[k] = current.seq
    s.memory.notes[k] |= 1 << i
  }

  /// Whose noted records are open in a sub-buffer, in the lap of its state: a bit for each owner.
  private func holders(_ k: UInt8) -> UInt8 {
    let state = self[k]
    guard state.isHeld, s.memory.noteSeq[Int(k)] == state.seq else { return 0 }
    var holders: UInt8 = 0
    for i in 0..<entryCount where s.memory.notes[Int(k)] & 1 << i != 0 {
      if entry(k, i).tag == .busy { holders |= 1 << entry(k, i).lap }
    }
    return holders
  }

  private func holdsAllButTwo(_ owner: UInt8) -> Bool {
    (0..<subbufCount).count { holders($0) & 1 << owner != 0 } >= subbufCount - 2
  }

  /// Before the sub-buffer behind the sealed one is made current.
  mutating func boundHolders(leaving current: Current) {
    guard current.seq != 0 else { return }
    for i in 1..<entryCount where entry(current.subbuf, i).isSeal(lap(current.seq)) {
      noteIfOpen(current, i - 1)
    }
    for owner in 1...World.handsOwner {
      if holders(current.subbuf) & 1 << owner != 0, holdsAllButTwo(owner) {
        s.memory.named |= 1 << owner
      }
      if !holdsAllButTwo(owner) { s.memory.named &= ~(1 << owner) }
    }
  }

  /// Whether this owner may reserve nothing now.
  mutating func isRefused(_ owner: UInt8) -> Bool {
    guard s.memory.named & 1 << owner != 0 else { return false }
    if holdsAllButTwo(owner) { return true }
    s.memory.named &= ~(1 << owner)
    return false
  }

  /// Whether a writer that is done has left a record open.
  func hasLeftOpen(_ w: Int) -> Bool {
    guard bounds.programs.indices.contains(w), bounds.programs[w].contains(.leave) else {
      return false
    }
    return (0..<subbufCount).contains { k in
      (0..<entryCount).contains { entry(k, $0).tag == .busy && entry(k, $0).lap == owner(w) }
    }
  }
}
