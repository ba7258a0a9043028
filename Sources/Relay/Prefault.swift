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

  /// Takes this channel's pages out of this process's page tables, from `offset` on, as much as
  /// takes a few milliseconds; their contents stay. Returns where to go on, nil at the end.
  public func leavePages(from offset: Int) -> Int? {
    let end = min(offset + Channel.bytesLeftAtOnce, geometry.totalBytes)
    Mapping.leave(buffer(cpu: 0).base + offset, count: end - offset)
    return end < geometry.totalBytes ? end : nil
  }

  private static var bytesLeftAtOnce: Int { 32 << 20 }

  /// Takes the memory of a CPU's buffer now, whether the CPU has that buffer yet or not.
  /// - Throws: ENOSPC or ENOMEM where there is not so much.
  /// - Precondition: this side opened the channel, in memory files.
  public func prefault(cpu: Int) throws(SystemError) {
    var prefaulting = Prefaulting(self, cpus: [cpu])
    while try prefaulting.step() > 0 {}
  }
}

/// Takes the memory of some CPUs' buffers in short steps, on any thread.
public struct Prefaulting {
  private static let bytesPerStep = 2 << 20

  private let channel: Channel
  private let cpus: [Int]
  private let parts: [Range<Int>]
  // What comes next.
  private var cpu = 0
  private var part = 0
  private var offset = 0

  /// - Parameter cpus: whether they have that buffer yet or not.
  /// - Precondition: this side opened the channel, in memory files.
  public init(_ channel: Channel, cpus: [Int]) {
    precondition(channel.isOpener && channel.descriptors != nil, "private memory has no file")
    precondition(cpus.allSatisfy((0..<channel.geometry.slotCount).contains))
    self.channel = channel
    self.cpus = cpus
    parts = channel.geometry.prefaultedParts
  }

  /// Bytes in all.
  public var byteCount: Int { cpus.count * channel.geometry.prefaultedBytes }

  /// Takes about a millisecond. Returns the bytes that are taken now; 0: all are.
  /// - Throws: ENOSPC or ENOMEM where there is not so much.
  public mutating func step() throws(SystemError) -> Int {
    var taken = 0
    while cpu < cpus.count, taken < Prefaulting.bytesPerStep {
      let range = parts[part]
      let count = min(range.count - offset, Prefaulting.bytesPerStep - taken)
      let start = range.lowerBound + offset
      try MemoryFile.allocate(
        channel.descriptors!.ring, cpus[cpu] * channel.geometry.stride + start, count: count)
      Mapping.populate(channel.buffer(cpu: cpus[cpu]).base + start, count: count)
      taken += count
      advance(count)
    }
    return taken
  }

  private mutating func advance(_ count: Int) {
    offset += count
    guard offset == parts[part].count else { return }
    offset = 0
    part += 1
    guard part == parts.count else { return }
    part = 0
    cpu += 1
  }
}
