// SPDX-License-Identifier: Apache-2.0
// Every state seen so far, whole, in the order of their discovery.

struct StateTable {
  private static let words = (MemoryLayout<State>.size + 7) / 8
  private var rows: UnsafeMutablePointer<UInt64>
  private var capacity = 1 << 12
  private(set) var count = 0
  /// Open addressing: row number + 1, 0 for none.
  private var slots: UnsafeMutablePointer<UInt32>
  private var slotCount = 1 << 13

  init() {
    // Bytes without gaps, else equal states would not have equal bytes.
    precondition(MemoryLayout<State>.alignment == 1)
    rows = .allocate(capacity: capacity * StateTable.words)
    slots = .allocate(capacity: slotCount)
    slots.initialize(repeating: 0, count: slotCount)
  }

  func free() {
    rows.deallocate()
    slots.deallocate()
  }

  /// The state's row, and whether it is new.
  mutating func insert(_ state: State) -> (row: Int, isNew: Bool) {
    if count == capacity { grow() }
    let new = rows + count * StateTable.words
    new[StateTable.words - 1] = 0
    withUnsafeBytes(of: state) {
      UnsafeMutableRawPointer(new).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
    }
    var slot = hash(new)
    while slots[slot] != 0 {
      let row = Int(slots[slot]) - 1
      if isEqual(rows + row * StateTable.words, new) { return (row, false) }
      slot = (slot + 1) & (slotCount - 1)
    }
    count += 1
    slots[slot] = UInt32(count)
    return (count - 1, true)
  }

  subscript(_ row: Int) -> State {
    UnsafeRawPointer(rows + row * StateTable.words).loadUnaligned(as: State.self)
  }

  private func isEqual(
    _ a: UnsafeMutablePointer<UInt64>, _ b: UnsafeMutablePointer<UInt64>
  ) -> Bool {
    for i in 0..<StateTable.words where a[i] != b[i] { return false }
    return true
  }

  private func hash(_ row: UnsafeMutablePointer<UInt64>) -> Int {
    var hash: UInt64 = 0
    for i in 0..<StateTable.words {
      hash = (hash ^ row[i]) &* 0x9e37_79b9_7f4a_7c15
      hash ^= hash >> 29
    }
    return Int(truncatingIfNeeded: hash & UInt64(slotCount - 1))
  }

  private mutating func grow() {
    let larger = UnsafeMutablePointer<UInt64>.allocate(capacity: 2 * capacity * StateTable.words)
    larger.update(from: rows, count: count * StateTable.words)
    rows.deallocate()
    rows = larger
    capacity *= 2
    slots.deallocate()
    slotCount *= 2
    slots = .allocate(capacity: slotCount)
    slots.initialize(repeating: 0, count: slotCount)
    for row in 0..<count {
      var slot = hash(rows + row * StateTable.words)
      while slots[slot] != 0 { slot = (slot + 1) & (slotCount - 1) }
      slots[slot] = UInt32(row + 1)
    }
  }
}
