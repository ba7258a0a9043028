// SPDX-License-Identifier: Apache-2.0
// The write path as it is compiled here: the loop that is timed, and one record in a function of
// its own, whose instructions FastPathTests looks at.

import Relay

/// Writes one record of `count` bytes at `record` through the `Writer` at `writer`; true if it was
/// written.
@c(relay_bench_write)
@inline(never)
public func writeOneRecord(
  _ writer: UnsafeRawPointer, _ record: UnsafeRawPointer, _ count: Int
) -> Bool {
  let bytes = UnsafeRawBufferPointer(start: record, count: count)
  return writer.assumingMemoryBound(to: Writer.self).pointee.write(bytes) == .written
}

/// Writes `record` `count` times; returns how often that was refused.
@inline(never)
func writeRecords(
  _ count: Int, _ record: UnsafeRawBufferPointer, _ writer: borrowing Writer
) -> Int {
  var refused = 0
  for _ in 0..<count where writer.write(record) != .written { refused &+= 1 }
  return refused
}
