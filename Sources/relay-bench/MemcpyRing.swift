// SPDX-License-Identifier: Apache-2.0
// The cheapest conceivable writer: memcpy into a private ring of the channel's size. No index, no
// other writers, nobody can read it: the price of moving the bytes alone.

import Glibc

// Sendable: each thread has its own.
final class MemcpyRing: @unchecked Sendable {
  private let memory: UnsafeMutableRawBufferPointer
  private var offset = 0

  init(byteCount: Int) { memory = .allocate(byteCount: byteCount, alignment: 4096) }

  deinit { memory.deallocate() }

  @inline(never)
  func writeRecords(_ count: Int, _ record: UnsafeRawBufferPointer) {
    guard let base = memory.baseAddress, let source = record.baseAddress else { return }
    var at = offset
    for _ in 0..<count {
      if at &+ record.count > memory.count { at = 0 }
      memcpy(base + at, source, record.count)
      at &+= record.count
    }
    offset = at
  }
}
