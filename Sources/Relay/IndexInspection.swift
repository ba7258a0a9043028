// SPDX-License-Identifier: Apache-2.0
// Whether the index of a channel's buffers holds only what writers write there. In short steps, on
// any thread, while writers and readers are at work.

internal import Glibc
internal import LinuxIO

/// Looks at each entry of a channel's buffers once. Reads the file, because a look at memory that
/// was never used would take it; what is not in memory costs nothing.
public struct IndexInspection {
  public enum Result: Equatable, Sendable {
    /// Take another step.
    case unfinished
    case sound
    case damaged(String)
    /// An entry is wrong unless its owner attached after `owners` was looked up: call `confirm`.
    case suspect
  }

  /// Of a buffer with a longer index it is not found out.
  private static let longestIndexBytes = 256 << 20
  private static let chunkBytes = 64 << 10
  private static let bytesPerStep = 1 << 20
  /// Attaching processes make a few. More make whoever confirms them busy, on purpose.
  private static let mostSuspects = 1000

  private let channel: Channel
  private let buffers: [ChannelBuffer]
  /// Owner ids that living processes write with.
  private var owners: Set<UInt16>
  // The next entry to look at.
  private var buffer = 0
  private var subbuf = 0
  private var entry = 0
  private var suspect: Suspect?
  private var suspectCount = 0

  private struct Suspect {
    let check: IndexCheck
    let entry: Int
  }

  /// - Precondition: this side opened the channel, in memory files.
  public init(_ channel: Channel, owners: Set<UInt16>) {
    precondition(channel.descriptors != nil, "private memory has no file")
    self.channel = channel
    buffers = channel.buffers
    self.owners = owners
  }

  /// Takes about a quarter of a millisecond.
  public mutating func step() -> Result {
    var left = IndexInspection.bytesPerStep
    return withUnsafeTemporaryAllocation(
      byteCount: IndexInspection.chunkBytes, alignment: 8
    ) { chunk in
      while buffer < buffers.count {
        guard left > 0 else { return .unfinished }
        let result = lookAtChunk(chunk)
        guard result == .unfinished else { return result }
        left -= chunk.count
      }
      return .sound
    }
  }

  /// Whether the suspect is damage, now that `owners` write; if not, steps go on behind it.
  public mutating func confirm(owners: Set<UInt16>) -> Result {
    self.owners = owners
    guard let suspect = suspect.take() else { return .unfinished }
    suspectCount += 1
    guard suspectCount <= IndexInspection.mostSuspects else {
      return .damaged("its index changes while it is checked")
    }
    let check = IndexCheck(
      buffer: suspect.check.buffer, subbuf: suspect.check.subbuf, state: suspect.check.state,
      owners: owners)
    return check.isStillDamaged(suspect.entry)
      ? .damaged("its index holds what no writer wrote") : .unfinished
  }

  private mutating func lookAtChunk(_ chunk: UnsafeMutableRawBufferPointer) -> Result {
    let buffer = buffers[buffer]
    let layout = buffer.layout
    guard layout.subbufCount * layout.entryCount * 8 <= IndexInspection.longestIndexBytes else {
      return .damaged("its index is too long to be checked")
    }
    let first = UnsafeRawPointer(buffer.index(subbuf)) - UnsafeRawPointer(layout.memory)
    let file = channel.descriptors!.ring
    do throws(SystemError) {
      let there = try MemoryFile.firstByteThere(file, from: first + entry * 8)
      // Where nothing is in memory all entries are empty.
      entry = min(max(entry, ((there ?? .max) - first) / 8), layout.entryCount)
    } catch { return .damaged("its index cannot be read") }
    let check = IndexCheck(
      buffer: buffer, subbuf: subbuf, state: buffer.loadState(subbuf), owners: owners)
    let count = min(layout.entryCount - entry, chunk.count / 8)
    let bytes = pread(file, chunk.baseAddress!, count * 8, off_t(first + entry * 8))
    guard bytes == count * 8 else { return .damaged("its index cannot be read") }
    for i in 0..<count {
      let raw = chunk.load(fromByteOffset: i * 8, as: UInt64.self)
      // Looked at again: the kernel may have copied half of a word that just changed.
      guard raw != 0, check.isDamaged(Entry(raw: raw), entry + i),
        check.isStillDamaged(entry + i)
      else { continue }
      suspect = Suspect(check: check, entry: entry + i)
      advance(i + 1, layout)
      return .suspect
    }
    advance(count, layout)
    return .unfinished
  }

  private mutating func advance(_ count: Int, _ layout: ChannelBuffer.Layout) {
    entry += count
    guard entry == layout.entryCount else { return }
    entry = 0
    subbuf += 1
    guard subbuf == layout.subbufCount else { return }
    subbuf = 0
    buffer += 1
  }
}

/// One sub-buffer's entries, in their order.
private struct IndexCheck {
  let buffer: ChannelBuffer
  let subbuf: Int
  let state: SubbufState
  let owners: Set<UInt16>

  func isDamaged(_ entry: Entry, _ i: Int) -> Bool {
    switch entry.tag {
    case nil: return true
    case .empty: return false
    case .busy:
      if state.phase == .free { return true }
      if owners.contains(entry.owner) || entry.owner == Channel.openerOwner { return isAhead(i) }
      return true
    default:
      let current = buffer.loadCurrent().seq
      // Laps that came round say nothing.
      if current <= Entry.lapMask, entry.raw >> 26 & Entry.lapMask > current { return true }
      return !entry.isEmpty(state.seq) && isAhead(i)
    }
  }

  /// Whether the entry before is not used: records are reserved one behind the other. Loaded only
  /// now: it may have been reserved after it was read.
  private func isAhead(_ i: Int) -> Bool {
    guard i > 0, state.seq != 0 else { return false }
    let before = buffer.loadEntry(buffer.index(subbuf), i - 1)
    return before.isEmpty(state.seq) || before.isSeal(state.seq)
  }

  /// The same of what stands there now, in the lap that the check is of.
  func isStillDamaged(_ i: Int) -> Bool {
    isDamaged(buffer.loadEntry(buffer.index(subbuf), i), i) && buffer.loadState(subbuf) == state
  }
}
