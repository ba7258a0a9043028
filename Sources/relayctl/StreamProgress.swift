// SPDX-License-Identifier: Apache-2.0
// Where in the stream of one buffer a reader of frames is, so that it takes nothing twice.

import CRelayIoctl

final class StreamProgress {
  let incarnation: UInt64
  /// The record that comes next.
  private(set) var next: UInt64 = 0
  /// How much of it was taken already.
  private(set) var offset = 0

  init(incarnation: UInt64) { self.incarnation = incarnation }

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
