// SPDX-License-Identifier: Apache-2.0
// The 64-bit words of a channel buffer as Swift values: packing and unpacking, no memory access.
// The layout itself is documented in CRelayABI's relay_abi.h.

/// `current`: which sub-buffer is being filled, its sequence number, whether the buffer is closed.
@frozen @usableFromInline
package struct Current: Equatable {
  @usableFromInline package let raw: UInt64
  @inlinable package init(raw: UInt64) { self.raw = raw }
  @inlinable package init(seq: UInt64, subbuf: Int) {
    raw = seq << 20 | UInt64(truncatingIfNeeded: subbuf) & 0xffff
  }
  @inlinable package var seq: UInt64 { raw >> 20 }
  @inlinable package var subbuf: Int { Int(raw & 0xffff) }
  @inlinable package static var closedBit: UInt64 { 1 << 19 }
  @inlinable package var isClosed: Bool { raw & Current.closedBit != 0 }
}

/// The bits of `waiters`. Who sets or clears one leaves the other alone.
enum Wish {
  /// The reader wants to be woken at the next commit. The only bit of `switch_waiters`.
  static var wake: UInt64 { 1 }
  /// Writers look at each commit whether relayd lives (Pace.swift).
  static var look: UInt64 { 2 }
}

/// `descriptor.state`: what one sub-buffer is doing, for which sequence number, pinned by how many.
@frozen @usableFromInline
package struct SubbufState: Equatable {
  @usableFromInline
  package enum Phase: UInt64 { case free, claimed, open, full }

  @usableFromInline package let raw: UInt64
  @inlinable package init(raw: UInt64) { self.raw = raw }
  @inlinable package init(_ phase: Phase, seq: UInt64, owner: UInt16 = 0, pins: UInt64 = 0) {
    raw = seq << 20 | UInt64(owner & 0x3fff) << 6 | pins << 2 | phase.rawValue
  }
  @inlinable package var seq: UInt64 { raw >> 20 }
  @inlinable package var owner: UInt16 { UInt16(raw >> 6 & 0x3fff) }
  @inlinable package var pins: UInt64 { raw >> 2 & 0xf }
  @inlinable package var phase: Phase { Phase(rawValue: raw & 3).unsafelyUnwrapped }
  /// OPEN or FULL: holds data a reader may pin.
  @inlinable package var isHeld: Bool { raw & 2 != 0 }
  @inlinable package func with(_ phase: Phase) -> SubbufState {
    SubbufState(phase, seq: seq, owner: 0, pins: pins)
  }
  @inlinable package func with(pins: UInt64) -> SubbufState {
    SubbufState(raw: raw & ~(0xf << 2) | pins << 2)
  }
}

/// One index word: the fate and the end of one record.
@frozen @usableFromInline
package struct Entry: Equatable {
  @inlinable package static var endBits: UInt64 { 26 }
  @inlinable package static var lapBits: UInt64 { 35 }
  @inlinable package static var endMask: UInt64 { 1 << 26 - 1 }
  @inlinable package static var lapMask: UInt64 { 1 << 35 - 1 }

  @usableFromInline
  package enum Tag: UInt64 {
    case empty, busy, committed, cancelled, discarded, seal
  }

  @usableFromInline package let raw: UInt64
  @inlinable package init(raw: UInt64) { self.raw = raw }
  @inlinable package init(_ tag: Tag, seq: UInt64, end: Int) {
    raw =
      tag.rawValue << 61 | (seq & Entry.lapMask) << 26 | UInt64(truncatingIfNeeded: end)
  }
  @inlinable package init(busy owner: UInt16, end: Int) {
    raw = Tag.busy.rawValue << 61 | UInt64(owner) << 26 | UInt64(truncatingIfNeeded: end)
  }
  /// What wrap clearing writes: EMPTY with the full sequence number, a value that never recurs.
  @inlinable package init(clearedFor seq: UInt64) { raw = seq }

  @inlinable package func with(_ tag: Tag) -> Entry {
    Entry(raw: raw & ~(7 << 61) | tag.rawValue << 61)
  }
  /// The same, ending `length` bytes later. The caller keeps the end in its field.
  @inlinable package func extended(by length: Int) -> Entry {
    Entry(raw: raw &+ UInt64(truncatingIfNeeded: length))
  }

  @inlinable package var end: Int { Int(raw & Entry.endMask) }
  @inlinable package var owner: UInt16 { UInt16(raw >> 26 & 0x3fff) }
  /// nil: a tag nobody writes; only hostile memory holds one.
  @inlinable package var tag: Tag? { Tag(rawValue: raw >> 61) }
  /// Tag and lap together: equal to `prefix(tag, seq)` for an entry of that lap.
  @inlinable package var prefix: UInt64 { raw >> 26 }
  @inlinable package static func prefix(_ tag: Tag, _ seq: UInt64) -> UInt64 {
    tag.rawValue << 35 | seq & lapMask
  }
  @inlinable package var isBusy: Bool { raw >> 61 == Tag.busy.rawValue }
  @inlinable package func isSeal(_ seq: UInt64) -> Bool { prefix == Entry.prefix(.seal, seq) }
  /// Not used in this lap yet: the frontier. BUSY carries no lap because it never survives its own.
  @inlinable package func isEmpty(_ seq: UInt64) -> Bool {
    let tag = raw >> 61
    return tag == 0 || (tag != 1 && (raw >> 26) & Entry.lapMask != seq & Entry.lapMask)
  }
  /// `isEmpty` for the lap of `other`, in fewer steps; false for some that are, too.
  @inlinable package func isSurelyEmpty(inLapOf other: Entry) -> Bool {
    raw >> 61 != 1 && (raw ^ other.raw) & Entry.lapMask << 26 != 0
  }
}

/// `hint`: where the frontier probably is. May be stale; always validated.
@frozen @usableFromInline
package struct Hint {
  @usableFromInline package let raw: UInt64
  @inlinable package init(raw: UInt64) { self.raw = raw }
  @inlinable package init(seq: UInt64, count: Int, end: Int) {
    raw =
      seq << 50 | UInt64(truncatingIfNeeded: count) << 26 | UInt64(truncatingIfNeeded: end)
  }
  @inlinable package func isFor(_ seq: UInt64) -> Bool { (raw >> 50 ^ seq) & (1 << 14 - 1) == 0 }
  /// After one more record of `length` bytes.
  @inlinable package func advanced(by length: Int) -> Hint {
    Hint(raw: raw &+ 1 << 26 &+ UInt64(truncatingIfNeeded: length))
  }
  @inlinable package var count: Int { Int(raw >> 26 & 0xff_ffff) }
  @inlinable package var end: Int { Int(raw & Entry.endMask) }
}
