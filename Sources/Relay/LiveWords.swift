// SPDX-License-Identifier: Apache-2.0
// The words of a geometry page that say whose memory this is, who serves it, and how late it was
// when it began.

internal import Synchronization

/// A view of the page, which must outlive it. Stores trap where it is mapped read-only.
struct LiveWords {
  private let base: UnsafeRawPointer

  init(page: UnsafeRawPointer) { base = page }

  // relay_abi.h asserts these offsets.
  private func word(_ offset: Int) -> SharedWord {
    SharedWord((base + offset).assumingMemoryBound(to: Atomic<UInt64>.self))
  }

  /// Relaxed: stored once, before anybody else has the page.
  var incarnation: UInt64 { word(544).pointee.load(ordering: .relaxed) }

  func setIncarnation(_ value: UInt64) {
    // Relaxed: as its load.
    word(544).pointee.store(value, ordering: .relaxed)
  }

  /// Acquire: pairs with `setGeneration`, so who sees it sees the memory put right.
  var generation: UInt64 { word(552).pointee.load(ordering: .acquiring) }

  func setGeneration(_ value: UInt64) {
    // Relaxed: the store behind it publishes it.
    word(1096).pointee.store(value, ordering: .relaxed)
    word(552).pointee.store(value, ordering: .releasing)
  }

  /// Whether the daemon that serves it knows the look bit. One of an earlier release takes the bit
  /// for the reader's wish.
  var knowsLooks: Bool {
    let generation = generation
    // Relaxed: the load before it acquired it.
    return word(1096).pointee.load(ordering: .relaxed) == generation
  }

  /// Whether the reader of a slot has ever stored its position: then there must be one.
  func isSaved(_ slot: Int) -> Bool {
    // Acquire: pairs with `setSaved`.
    word(584 + slot / 64 * 8).pointee.load(ordering: .acquiring) & 1 << UInt64(slot % 64) != 0
  }

  func setSaved(_ slot: Int) {
    // Release: after the first store of a position.
    word(584 + slot / 64 * 8).pointee.bitwiseOr(1 << UInt64(slot % 64), ordering: .releasing)
  }

  /// Closed for good. Acquire: pairs with `setEnded`.
  var isEnded: Bool { word(560).pointee.load(ordering: .acquiring) != 0 }

  /// When the channel was opened.
  var clockBase: ClockSample {
    // Relaxed, both: as `incarnation`.
    ClockSample(
      ticks: word(568).pointee.load(ordering: .relaxed),
      nanoseconds: word(576).pointee.load(ordering: .relaxed))
  }

  func setClockBase(_ sample: ClockSample) {
    // Relaxed, both: as `incarnation`.
    word(568).pointee.store(sample.ticks, ordering: .relaxed)
    word(576).pointee.store(sample.nanoseconds, ordering: .relaxed)
  }

  func setEnded() { word(560).pointee.store(1, ordering: .releasing) }
}
