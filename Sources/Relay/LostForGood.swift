// SPDX-License-Identifier: Apache-2.0
// How many records are lost with a memory that no daemon serves any more, and the rule by which
// each of them is counted once, whoever counts.
//
// 1. A memory is counted by those who give it up for another one: the first producer that moves to
//    the next daemon's memory, or the daemon that retires it. `orphaned` lets one of them do it.
// 2. Where nobody has the memory any more, nobody can. So a daemon that ends counts what is unread
//    while it still can, leaves the numbers in a file, and marks each reader's store with them. Who
//    gives the memory up later counts what is above the mark, which is what was written after the
//    daemon's end. (A producer of a release before this one does not know the mark, and counts the
//    rest a second time: rather that than a position which an older daemon would go on from.)
// 3. A daemon that is handed a marked memory takes the mark back before it looks at anything else,
//    and does not count what the file says of that memory.

internal import Synchronization

/// What of a buffer is lost if no daemon goes on with its memory.
public struct LossOfBuffer: Equatable, Sendable {
  /// Records that nobody has read, overwritten ones included.
  public var unread: UInt64 = 0
  /// Records lost with earlier memories, which no reader of the stream has seen as a gap yet.
  public var untold: UInt64 = 0
  public var total: UInt64 { unread &+ untold }
}

extension ChannelBuffer {
  /// Records in memory that is given up which nobody has read, or found lost: written since the
  /// stored position, overwritten ones included; and what was lost before it and never told.
  /// - Precondition: the buffer is closed, or its daemon has ended.
  func lossForGood(_ store: ReaderStore?) -> LossOfBuffer {
    // Damaged: as if nobody had read.
    let stored = (try? store?.newest())?.values ?? ReaderStore.Values(repeating: 0)
    // Relaxed, all: statistics.
    let dead =
      cancelled.pointee.load(ordering: .relaxed)
      &+ aborted.pointee.load(ordering: .relaxed)
    // Relaxed: as above.
    let untold =
      lostRestart.pointee.load(ordering: .relaxed).less(stored[.restart]) &+ stored[.pendingRestart]
    let unreadDead = dead.less(stored[.originAborted] &+ stored[.originCancelled] &+ stored[.dead])
    let unread = reservedNow().records.less(stored[.record]).less(unreadDead)
    return LossOfBuffer(
      unread: unread.less(stored[.countedUnread]), untold: untold.less(stored[.countedUntold]))
  }

  func lostForGood(_ store: ReaderStore?) -> UInt64 { lossForGood(store).total }
}

extension ReaderStore {
  /// Notes what was counted, beside the position, which stays as it is.
  func mark(_ loss: LossOfBuffer) {
    guard loss.total > 0, let newest = try? newest() else { return }
    var values = newest.values
    values[.countedUnread] = loss.unread
    values[.countedUntold] = loss.untold
    save(values, generation: newest.generation &+ 1)
  }

  /// Nothing was counted.
  func takeMarkBack() {
    guard let newest = try? newest() else { return }
    var values = newest.values
    guard values[.countedUnread] | values[.countedUntold] != 0 else { return }
    values[.countedUnread] = 0
    values[.countedUntold] = 0
    save(values, generation: newest.generation &+ 1)
  }
}

extension Reader {
  /// What is lost if no daemon goes on with the memory. Nothing may be read after it.
  /// Follow it by `markCounted`, once the number is where the next daemon finds it.
  public func lossAtEnd() -> LossOfBuffer {
    guard let store else { return LossOfBuffer() }
    save()
    return buffer.lossForGood(store)
  }

  /// Who gives the memory up counts from here on what is written after `lossAtEnd`.
  public func markCounted(_ loss: LossOfBuffer) { store?.mark(loss) }
}

extension Channel {
  /// Records that nobody has read, over all buffers, of a channel that no reader serves.
  public var unreadForGood: UInt64 {
    buffers.reduce(0) { $0 &+ $1.lossForGood(readerStore(cpu: $1.cpu)).unread }
  }

  /// Counts records that were lost with an earlier memory of this channel's name.
  public func countLostByRestart(_ records: UInt64, cpu: Int) {
    let heir = bufferIfPresent(cpu: cpu) ?? buffers[0]
    heir.count(heir.lostRestart, records)
  }
}
