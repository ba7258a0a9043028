// SPDX-License-Identifier: Apache-2.0
// Which process holds which sub-buffers, by records that it reserved and has neither committed nor
// cancelled: found in the index without touching anything, at a bounded cost a look.
//
// 1. A sealed sub-buffer without BUSY stays so for its sequence number: it is looked at once.
// 2. Of any other, only the entries of its lap are read, so that no memory is touched that writers
//    did not touch.
// 3. What one look finds may be gone in the next moment: nothing is decided by it but what a person
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

  private struct Buffer {
    /// By sub-buffer, the sequence number for which it was found sealed and without BUSY; 0: none.
    var clean: [UInt64]
    var open: [Int: Subbuf] = [:]
  }

  fileprivate struct Subbuf {
    /// The number of records, and the first of them.
    var byOwner: [UInt16: (records: Int, first: OpenRecord)] = [:]
    var isSealed = false
    var words = 0
  }

  public init(_ channel: Channel) { self.channel = channel }

  /// Looks at every sub-buffer that may hold open records, but at no more than about `budget` index
  /// words: where that ends a look, the next one goes on there. Lowers `budget` by what it took.
  public func look(budget: inout Int) {
    let cpus = channel.cpus
    var cpuIndex = cpus.firstIndex { $0 >= nextCPU } ?? 0
    var subbuf = cpus[cpuIndex] == nextCPU ? nextSubbuf : 0
    let count = channel.geometry.subbufCount
    defer { held = sumUp() }
    for _ in 0..<(cpus.count * count) {
      guard budget > 0 else { break }
      look(cpus[cpuIndex], subbuf, &budget)
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

  private func look(_ cpu: Int, _ subbuf: Int, _ budget: inout Int) {
    let buffer = channel.buffer(cpu: cpu)
    // As dear as a few index words: it is on a line of its own.
    budget -= 8
    let state = buffer.loadState(subbuf)
    if buffers[cpu] == nil {
      // Most channels are never written to: those cost nothing.
      guard state.isHeld else { return }
      let clean = [UInt64](repeating: 0, count: channel.geometry.subbufCount)
      buffers[cpu] = Buffer(clean: clean)
    }
    guard state.isHeld, buffers[cpu]!.clean[subbuf] != state.seq else {
      buffers[cpu]!.open[subbuf] = nil
      return
    }
    let found = buffer.openRecords(subbuf, seq: state.seq)
    budget -= found.words
    // Of the same lap from the first entry to the last; else the next look finds what there is.
    guard buffer.loadState(subbuf).seq == state.seq else { return }
    buffers[cpu]!.open[subbuf] = found.byOwner.isEmpty ? nil : found
    if found.byOwner.isEmpty, found.isSealed { buffers[cpu]!.clean[subbuf] = state.seq }
  }
}

extension ChannelBuffer {
  /// The BUSY entries of a sub-buffer, up to its frontier or its seal.
  fileprivate func openRecords(_ subbuf: Int, seq: UInt64) -> OpenRecordScan.Subbuf {
    var found = OpenRecordScan.Subbuf()
    let index = index(subbuf)
    let committed = Entry.prefix(.committed, seq)
    for i in 0..<layout.entryCount {
      let entry = loadEntry(index, i)
      found.words += 1
      if entry.prefix == committed { continue }
      if entry.isBusy {
        let first = OpenRecord(
          owner: entry.owner, cpu: cpu, subbuf: subbuf, seq: seq, entry: i)
        found.byOwner[entry.owner, default: (0, first)].records += 1
      } else if entry.isSeal(seq) {
        found.isSealed = true
        break
      } else if entry.isEmpty(seq) {
        break
      }
    }
    return found
  }
}

extension Channel {
  /// A number that changes when records are reserved; by accident it may not.
  public var activity: UInt64 {
    // Relaxed: a guess about what was written.
    buffers.reduce(0) { $0 &+ $1.loadCurrent().raw &+ $1.hint.pointee.load(ordering: .relaxed) }
  }
}
