// SPDX-License-Identifier: Apache-2.0
// A producer that writes what it likes into the shared memory: random words, and words that look
// right but stand in the wrong place or at the wrong time.

package import Relay
internal import Synchronization

package struct HostileProcess: ~Copyable {
  /// Keeps the memory mapped.
  private let channel: Channel
  private let mapping: UnsafeMutableRawBufferPointer
  private let geometry: Geometry
  private let indexOffset: Int
  /// Entries of all sub-buffers; where the payload begins is not its business.
  private let indexCount: Int
  private let entryCount: Int

  /// What it can see of a global channel.
  package init(_ channel: Channel, entryCount: Int) {
    self.channel = channel
    geometry = channel.geometry
    mapping = channel.ringBytes
    self.entryCount = entryCount
    indexCount = entryCount * geometry.subbufCount
    indexOffset = (256 + 64 * geometry.subbufCount + 4095) / 4096 * 4096
  }

  private func word(_ offset: Int) -> UnsafePointer<Atomic<UInt64>> {
    UnsafePointer((mapping.baseAddress! + offset).assumingMemoryBound(to: Atomic<UInt64>.self))
  }

  private func store(_ value: UInt64, _ offset: Int) {
    word(offset).pointee.store(value, ordering: .relaxed)
  }

  private func load(_ offset: Int) -> UInt64 { word(offset).pointee.load(ordering: .relaxed) }

  private func place(_ script: inout Script) -> Int {
    switch script.byte() % 4 {
    case 0: script.below(32) * 8
    case 1: 256 + script.below(geometry.subbufCount * 8) * 8
    case 2: Int(script.word() % UInt64(mapping.count / 8)) * 8
    default: indexOffset + script.below(indexCount) * 8
    }
  }

  /// One of its ways to do harm.
  package func harm(_ script: inout Script) {
    switch script.byte() % 10 {
    case 0, 1: scribble(&script)
    case 2: flipBit(&script)
    case 3: copyWord(&script)
    default: forge(&script)
    }
  }

  /// Any value anywhere.
  func scribble(_ script: inout Script) {
    let offset = place(&script)
    store(script.word(), offset)
  }

  func flipBit(_ script: inout Script) {
    let offset = place(&script)
    store(load(offset) ^ 1 << UInt64(script.byte() % 64), offset)
  }

  func copyWord(_ script: inout Script) {
    let from = place(&script)
    store(load(from), place(&script))
  }

  /// A word such as a producer writes.
  func forge(_ script: inout Script) {
    let current = Current(raw: load(0))
    let seq = current.seq &+ UInt64(script.byte()) &- 128
    switch script.byte() % 4 {
    case 0:
      let forged = Current(seq: seq, subbuf: script.below(geometry.subbufCount + 1))
      store(script.byte() % 8 == 0 ? forged.raw | Current.closedBit : forged.raw, 0)
    case 1:
      store(Hint(seq: seq, count: script.below(entryCount + 2), end: script.short()).raw, 16)
    case 2:
      let phase = SubbufState.Phase(rawValue: UInt64(script.byte() % 4))!
      let pins = UInt64(script.byte() % 16)
      let owner = UInt16(script.byte())
      store(
        SubbufState(phase, seq: seq, owner: owner, pins: pins).raw,
        256 + script.below(geometry.subbufCount) * 64)
    default: forgeEntry(seq, &script)
    }
  }

  private func forgeEntry(_ seq: UInt64, _ script: inout Script) {
    let offset = indexOffset + script.below(indexCount) * 8
    let end = script.short() % (geometry.subbufSize + 2)
    let tag = Entry.Tag(rawValue: UInt64(script.byte() % 6))!
    let entry =
      tag == .busy
      ? Entry(busy: UInt16(script.byte()), end: end) : Entry(tag, seq: seq, end: end)
    store(entry.raw, offset)
  }
}
