// SPDX-License-Identifier: Apache-2.0
// A buffer's memory taken before anybody writes, so that a memory control group charges it to the
// side that opened the channel. Contents never change: writers may be at work.

internal import CRelayABI
internal import Glibc
public import LinuxIO

extension Geometry {
  /// Up to this size records find all their memory prefaulted; what shorter ones need beyond it of
  /// the index and the times is charged to the process whose record touches it first.
  package static let prefaultedRecordBytes = 64

  /// What of a buffer is prefaulted, in bytes from its base: whole pages, ascending, apart.
  package var prefaultedParts: [Range<Int>] {
    var parts: [Range<Int>] = []
    func add(_ from: Int, _ count: Int) {
      let page = Geometry.pageSize
      let (start, end) = (from / page * page, (from + count + page - 1) / page * page)
      if let last = parts.last, start <= last.upperBound {
        parts[parts.count - 1] = last.lowerBound..<max(last.upperBound, end)
      } else {
        parts.append(start..<end)
      }
    }
    add(
      0,
      MemoryLayout<relay_abi_header>.size
        + subbufCount * MemoryLayout<relay_abi_descriptor>.size)
    // A last record that is shorter, the seal, and what a scan that takes eight at a time looks at.
    let words = min(entryCount, subbufSize / Geometry.prefaultedRecordBytes + 10)
    for first in hasTimestamps ? [indexOffset, timeOffset] : [indexOffset] {
      for subbuf in 0..<subbufCount { add(first + subbuf * entryCount * 8, words * 8) }
    }
    add(payloadOffset, subbufCount * subbufSize)
    return parts
  }

  /// Bytes of memory that prefaulting a buffer takes.
  public var prefaultedBytes: Int { prefaultedParts.reduce(0) { $0 + $1.count } }
}

extension Channel {
  /// Bytes of the ring's memory that are there: somebody touched them.
  public var residentBytes: Int {
    var status = stat()
    guard let descriptors, fstat(descriptors.ring, &status) == 0 else { return 0 }
    return Int(status.st_blocks) * 512
  }

  /// Takes the memory of a CPU's buffer now, whether the CPU has that buffer yet or not.
  /// - Throws: ENOSPC or ENOMEM where there is not so much; what this call took is given back.
  /// - Precondition: this side opened the channel, in memory files.
  public func prefault(cpu: Int) throws(SystemError) {
    precondition(isOpener && (0..<geometry.slotCount).contains(cpu))
    guard let descriptors else { preconditionFailure("private memory has no file") }
    let base = buffer(cpu: cpu).base
    let start = cpu * geometry.stride
    for part in geometry.prefaultedParts {
      try MemoryFile.allocate(descriptors.ring, start + part.lowerBound, count: part.count)
      Mapping.populate(base + part.lowerBound, count: part.count)
    }
  }
}
