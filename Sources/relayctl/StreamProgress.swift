// SPDX-License-Identifier: Apache-2.0
// Where in the stream of one buffer a reader of frames is, so that it takes nothing twice.

import CRelayIoctl

final class StreamProgress {
  let incarnation: UInt64
  /// The record that comes next.
  private(set) var next: UInt64 = 0
  /// How much of it was taken already.
  private(set) var offset = 0

  /// Of all losses of their cause that the buffer ever told, up to where this reader was told.
  private var fullTold: UInt64 = 0
  private var restartTold: UInt64 = 0

  init(incarnation: UInt64) { self.incarnation = incarnation }

  /// Takes a loss's frame. Returns what of it was not told before.
  func take(_ frame: relay_frame, _ loss: relay_loss) -> relay_loss {
    guard frame.length >= MemoryLayout<relay_loss>.size else {
      return frame.sequence >= next ? loss : relay_loss()
    }
    // These have numbers, as those that were read have.
    let missing = frame.sequence >= next ? frame.sequence - next : 0
    var new = relay_loss()
    new.overwritten = min(loss.overwritten, missing)
    new.stalled = min(loss.stalled, missing - new.overwritten)
    new.full = StreamProgress.count(loss.full, after: loss.full_before, &fullTold)
    new.restart = StreamProgress.count(loss.restart, after: loss.restart_before, &restartTold)
    if missing > 0 { (next, offset) = (frame.sequence, 0) }
    return new
  }

  /// Of `count` that come behind `before`, those behind `told`, which then includes them.
  private static func count(
    _ count: UInt64, after before: UInt64, _ told: inout UInt64
  ) -> UInt64 {
    // The numbers come from memory that others write.
    let end = before &+ count
    let new = end > told ? min(end - told, count) : 0
    told = max(told, end)
    return new
  }

  /// Takes a record's frame. Returns how many bytes of its payload were taken before; nil: the
  /// whole record was.
  func take(_ frame: relay_frame) -> Int? {
    guard frame.sequence >= next else { return nil }
    let before = frame.sequence == next ? offset : 0
    let end = Int(frame.offset) + Int(frame.length)
    let isWhole = max(end, before) >= Int(frame.record_length)
    next = isWhole ? frame.sequence &+ 1 : frame.sequence
    offset = isWhole ? 0 : max(end, before)
    return min(max(before - Int(frame.offset), 0), Int(frame.length))
  }
}
