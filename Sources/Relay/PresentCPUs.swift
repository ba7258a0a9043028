// SPDX-License-Identifier: Apache-2.0
// Which CPUs have a buffer: a bitmap that grows while the channel lives, on the geometry page, so
// that producers see it change and cannot change it. And where the records of the others go.

internal import CRelayABI
internal import Synchronization

/// The live bitmap of one channel, which owns the page and must outlive this view.
// Sendable: a view of memory whose every word is accessed atomically.
@frozen @usableFromInline
struct PresentCPUs: @unchecked Sendable {
  private let words: SharedWord
  /// CPUs beyond these have no memory, whatever the bitmap says.
  private let slotCount: Int

  init(page: UnsafeRawPointer, slotCount: Int) {
    // relay_abi.h asserts that it comes right after.
    let offset = MemoryLayout<relay_abi_geometry>.size
    words = SharedWord((page + offset).assumingMemoryBound(to: Atomic<UInt64>.self))
    self.slotCount = slotCount
  }

  /// The bits of CPUs 64 × `index` and up. Acquire: pairs with `insert`, so whoever sees a CPU
  /// sees its buffer closed if the channel was closed before.
  private func load(_ index: Int) -> UInt64 {
    let bits = words[index].load(ordering: .acquiring)
    let count = slotCount - index * 64
    return count < 64 ? bits & (1 << UInt64(count) - 1) : bits
  }

  private var wordCount: Int { (slotCount + 63) / 64 }

  func contains(_ cpu: Int) -> Bool {
    (0..<slotCount).contains(cpu) && load(cpu / 64) & 1 << UInt64(cpu % 64) != 0
  }

  var lowest: Int? {
    for index in 0..<wordCount {
      let bits = load(index)
      if bits != 0 { return index * 64 + bits.trailingZeroBitCount }
    }
    return nil
  }

  /// Ascending.
  var all: [Int] { (0..<slotCount).filter { contains($0) } }

  /// Adds one for good. Traps where the page is mapped read-only, as in every producer.
  func insert(_ cpu: Int) {
    precondition((0..<slotCount).contains(cpu))
    // Release: pairs with every `load`.
    words[cpu / 64].bitwiseOr(1 << UInt64(cpu % 64), ordering: .releasing)
  }
}

extension ChannelBuffer {
  /// Where records meant for this slot go: here, or, if its CPU has no buffer, into the buffer of
  /// the lowest CPU that has one.
  ///
  /// Never asked on the fast path: an absent CPU's slot is all zero, which no fast write gets past.
  /// A hostile producer can start such a slot behind the bitmap's back. Its writers then write
  /// there, as they would have once the CPU came, and nobody reads it until then: that loses
  /// records of this channel, whose writers trust one another, and breaks nothing.
  @usableFromInline
  var home: ChannelBuffer {
    let current = loadCurrent()
    guard current.seq == 0, !current.isClosed, !layout.present.contains(cpu),
      let lowest = layout.present.lowest
    else { return self }
    return ChannelBuffer(base: layout.memory + lowest * layout.stride, layout: layoutPointer)
  }
}
