// SPDX-License-Identifier: Apache-2.0
// Which process holds which sub-buffers, by records that it reserved and has neither committed nor
// cancelled: found in the index without touching anything, at a bounded cost a look.
//
// 1. A sealed sub-buffer without BUSY stays so for its sequence number: it is looked at once.
// 2. Of any other, only the entries of its lap are read, so that no memory is touched that writers
//    did not touch.
// 3. A look that the budget ends inside a sub-buffer goes on there the next time, as long as the
//    sub-buffer is in the same lap. What it found is shown once it has seen all of it.
// 4. What one look finds may be gone in the next moment: nothing is decided by it but what a person
//    reads.

internal import Synchronization

/// What one process holds of one buffer.
public struct HeldSubbufs: Equatable, Sendable {
  /// Records being written, or left open.
  public var records = 0
  /// Sub-buffers with at least one of these.
  public var subbufs = 0

  public init(records: Int = 0, subbufs: Int = 0) {
    self.records = records
    self.subbufs = subbufs
  }
}

/// One record that is neither committed nor cancelled: no other one is ever equal to it.
public struct OpenRecord: Equatable, Sendable {
  public let owner: UInt16
  public let cpu: Int
  fileprivate let subbuf: Int
  fileprivate let seq: UInt64
  fileprivate let entry: Int
}

/// The looks at one channel.
public final class OpenRecordScan {
  private let channel: Channel
  private var buffers: [Int: Buffer] = [:]
  /// What each process held at the last look, by owner id and CPU.
  public private(set) lazy var held = sumUp()
  // Where the next look begins, in case the budget does not suffice for all.
  private var nextCPU = 0
  private var nextSubbuf = 0
  /// Of that sub-buffer, where the last look ended inside it.
  private var begun: Begun?

  /// A part of a sub-buffer's entries.
  private struct Begun {
    var nextEntry = 0
    var found: Subbuf
  }

  private struct Buffer {
    /// By sub-buffer, the sequence number for which it was found sealed and without BUSY; 0: none.
    var clean: [UInt64]
    var open: [Int: Subbuf] = [:]
  }

  fileprivate struct Subbuf {
    let seq: UInt64
    /// The number of records, and the first of them.
    var byOwner: [UInt16: (records: Int, first: OpenRecord)] = [:]
    var isSealed = false
  }

  public init(_ channel: Channel) { self.channel = channel }

  /// Looks at every sub-buffer that may hold open records, but at no more than about `budget` index
  /// words, however many a sub-buffer has: where that ends a look, the next one goes on there.
  /// Lowers `budget` by what it took.
  public func look(budget: inout Int) {
    let cpus = channel.cpus
    var cpuIndex = cpus.firstIndex { $0 >= nextCPU } ?? 0
    var subbuf = cpus[cpuIndex] == nextCPU ? nextSubbuf : 0
    // CPUs are never taken away, but nothing here relies on it.
    if cpus[cpuIndex] != nextCPU { begun = nil }
    let count = channel.geometry.subbufCount
    defer { held = sumUp() }
    for _ in 0..<(cpus.count * count) {
      guard budget > 0 else { break }
      guard look(cpus[cpuIndex], subbuf, &budget) else { break }
      subbuf += 1
      guard subbuf == count else { continue }
      subbuf = 0
      cpuIndex = (cpuIndex + 1) % cpus.count
    }
    (nextCPU, nextSubbuf) = (cpus[cpuIndex], subbuf)
  }

  private func sumUp() -> [UInt16: [Int: HeldSubbufs]] {
    var held: [UInt16: [Int: HeldSubbufs]] = [:]
    for (cpu, buffer) in buffers {
      for subbuf in buffer.open.values {
        for (owner, found) in subbuf.byOwner {
          held[owner, default: [:]][cpu, default: HeldSubbufs()].records += found.records
          held[owner]![cpu]!.subbufs += 1
        }
      }
    }
    return held
  }

  /// The earliest record of a process that was open at the last look.
  public func oldest(of owner: UInt16) -> OpenRecord? {
    var oldest: OpenRecord?
    for buffer in buffers.values {
      for subbuf in buffer.open.values {
        guard let first = subbuf.byOwner[owner]?.first else { continue }
        if first.seq < oldest?.seq ?? .max { oldest = first }
      }
    }
    return oldest
  }

  /// Whether the record still is neither committed nor cancelled.
  public func isOpen(_ record: OpenRecord) -> Bool {
    let buffer = channel.buffer(cpu: record.cpu)
    let entry = buffer.loadEntry(buffer.index(record.subbuf), record.entry)
    return entry.isBusy && entry.owner == record.owner
      && buffer.loadState(record.subbuf).seq == record.seq
  }

  /// False: the budget ended it inside.
  private func look(_ cpu: Int, _ subbuf: Int, _ budget: inout Int) -> Bool {
    let buffer = channel.buffer(cpu: cpu)
    let begun = self.begun.take()
    // As dear as a few index words: it is on a line of its own.
    budget -= 8
    let state = buffer.loadState(subbuf)
    if buffers[cpu] == nil {
      // Most channels are never written to: those cost nothing.
      guard state.isHeld else { return true }
      let clean = [UInt64](repeating: 0, count: channel.geometry.subbufCount)
      buffers[cpu] = Buffer(clean: clean)
    }
    guard state.isHeld, buffers[cpu]!.clean[subbuf] != state.seq else {
      buffers[cpu]!.open[subbuf] = nil
      return true
    }
    if buffers[cpu]!.open[subbuf]?.seq != state.seq { buffers[cpu]!.open[subbuf] = nil }
    let isSameLap = begun?.found.seq == state.seq
    var look = isSameLap ? begun! : Begun(found: Subbuf(seq: state.seq))
    let isWhole = buffer.findOpenRecords(
      subbuf, from: &look.nextEntry, into: &look.found, &budget)
    // Of the same lap from the first entry to the last; else the next look finds what there is.
    guard buffer.loadState(subbuf).seq == state.seq else { return true }
    guard isWhole else {
      self.begun = look
      return false
    }
    let found = look.found
    buffers[cpu]!.open[subbuf] = found.byOwner.isEmpty ? nil : found
    if found.byOwner.isEmpty, found.isSealed { buffers[cpu]!.clean[subbuf] = state.seq }
    return true
  }
}

extension ChannelBuffer {
  /// Adds the BUSY entries of a sub-buffer from an entry on, up to its frontier or its seal. False:
  /// the budget ended first, and `next` is where to go on.
  fileprivate func findOpenRecords(
    _ subbuf: Int, from next: inout Int, into found: inout OpenRecordScan.Subbuf,
    _ budget: inout Int
  ) -> Bool {
    let seq = found.seq
    let index = index(subbuf)
    let committed = Entry.prefix(.committed, seq)
    while next < layout.entryCount {
      guard budget > 0 else { return false }
      let entry = loadEntry(index, next)
      budget -= 1
      if entry.isBusy {
        let first = OpenRecord(
          owner: entry.owner, cpu: cpu, subbuf: subbuf, seq: seq, entry: next)
        found.byOwner[entry.owner, default: (0, first)].records += 1
      } else if entry.isSeal(seq) {
        found.isSealed = true
        return true
      } else if entry.prefix != committed, entry.isEmpty(seq) {
        return true
      }
      next += 1
    }
    return true
  }
}

extension Channel {
  /// A number that changes when records are reserved; by accident it may not.
  public var activity: UInt64 {
    // Relaxed: a guess about what was written.
    buffers.reduce(0) { $0 &+ $1.loadCurrent().raw &+ $1.hint.pointee.load(ordering: .relaxed) }
  }
}
