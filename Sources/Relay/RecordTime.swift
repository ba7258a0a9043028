// SPDX-License-Identifier: Apache-2.0
// When a record was written, as its reader tells it. What clock it was and how its values become
// nanoseconds is in Timebase.swift.

extension Reader {
  /// When the record was reserved, in nanoseconds of CLOCK_MONOTONIC; 0 where the channel's records
  /// carry no time. At most now, and never less than for the records that this claim passed before,
  /// or consumed ones: ask in their order. What is given back is forgotten.
  /// - Parameter entry: of a sub-buffer that is pinned, COMMITTED when it was loaded last.
  func recordTime(subbuf: Int, entry: Int) -> UInt64 { 0 }
}
