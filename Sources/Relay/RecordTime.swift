// SPDX-License-Identifier: Apache-2.0
// When a record was written, as its reader tells it: whatever stands in the memory, a time that is
// over, and not before the previous record's. How ticks become nanoseconds is in Timebase.swift.

internal import Synchronization

extension ChannelBuffer {
  /// What stands beside a committed entry of a channel with times: a value of its clock.
  func time(_ subbuf: Int, _ entry: Int) -> UInt64 {
    // Relaxed: published by the commit, which the load of the entry acquired.
    (index(subbuf) + layout.timeDistance + entry).pointee.load(ordering: .relaxed)
  }
}

/// What a reader keeps to tell times quickly.
struct TimeTeller {
  /// Of the last record that was told, in nanoseconds.
  private(set) var last: UInt64 = 0
  /// The records' clock when it was looked at last.
  private var now: UInt64 = 0
  private var segment = Timebase.Segment()

  /// The nanoseconds of CLOCK_MONOTONIC that a record's value stands for.
  mutating func tell(_ value: UInt64, of clock: RecordClock) -> UInt64 {
    // Records are read later than they were written, most of them much later.
    if value > now { now = clock.now() }
    let value = min(value, now)
    last = max(last, clock == .tsc ? nanoseconds(value) : value)
    return last
  }

  private mutating func nanoseconds(_ ticks: UInt64) -> UInt64 {
    if !segment.contains(ticks) {
      segment = Timebase.shared.withLock { $0.segment(of: ticks) }
    }
    return segment.time(of: ticks)
  }

  /// Forgets the records that come again.
  mutating func goBack(to last: UInt64) { self.last = last }
}

extension Reader {
  /// When the record was reserved, in nanoseconds of CLOCK_MONOTONIC; 0 where the channel's records
  /// carry no time. At most now, and never less than for the records that this claim passed before,
  /// or consumed ones: ask in their order. What is given back is forgotten.
  /// - Parameter entry: of a sub-buffer that is pinned, COMMITTED when it was loaded last.
  func recordTime(subbuf: Int, entry: Int) -> UInt64 {
    guard let clock = buffer.layout.clock else { return 0 }
    return teller.tell(buffer.time(subbuf, entry), of: clock)
  }
}
