// SPDX-License-Identifier: Apache-2.0
// What was written, read and lost, by cause. Counted without a counter on the write path: from
// the entries themselves and from what each sub-buffer says came before it.

internal import Synchronization

/// The account of one channel buffer since its start or the last reset. Exact while no writer is
/// in the middle of a record:
/// `recordsWritten == recordsRead + recordsUnread + lostOverwritten + lostStalled`.
public struct Statistics: Equatable, Sendable {
  /// Sub-buffers left by writers, and by the reader (overwritten ones are passed too).
  public var subbufsProduced: UInt64 = 0
  public var subbufsConsumed: UInt64 = 0
  /// The most sub-buffers that writers had left and the reader had not passed at one moment; as
  /// many as there are: the buffer was full.
  public var backlogMax: UInt64 = 0
  /// Records committed or being written; those refused are in the losses.
  public var recordsWritten: UInt64 = 0
  public var recordsRead: UInt64 = 0
  public var recordsUnread: UInt64 = 0
  /// Payload bytes reserved by writers (cancelled records included), delivered, and waiting.
  public var bytesWritten: UInt64 = 0
  public var bytesRead: UInt64 = 0
  public var bytesUnread: UInt64 = 0
  /// Bytes left empty at the ends of produced sub-buffers.
  public var padding: UInt64 = 0
  /// Refused: no free sub-buffer.
  public var lostFull: UInt64 = 0
  /// Refused: longer than a sub-buffer.
  public var lostTooBig: UInt64 = 0
  /// Overwritten before they were read.
  public var lostOverwritten: UInt64 = 0
  /// Passed because their writer had stopped.
  public var lostStalled: UInt64 = 0
  /// Written into memory that a restarted daemon did not go on with; not in `recordsWritten`.
  public var lostRestart: UInt64 = 0
  /// Being written when their writer died.
  public var aborted: UInt64 = 0
  /// Given up by their writer.
  public var cancelled: UInt64 = 0
  /// Damage found in the shared memory.
  public var corrupt: UInt64 = 0
  public init() {}
}

extension Reader {
  /// What this reader passed.
  struct Totals {
    var records: UInt64 = 0
    /// Cancelled and discarded entries.
    var dead: UInt64 = 0
    /// Entries that somebody was still writing.
    var stalled: UInt64 = 0
    var bytes: UInt64 = 0
    var padding: UInt64 = 0
    var subbufs: UInt64 = 0
    /// Told as lost by a restart.
    var restart: UInt64 = 0

    mutating func add(_ other: Totals) {
      records &+= other.records
      dead &+= other.dead
      stalled &+= other.stalled
      bytes &+= other.bytes
      padding &+= other.padding
      subbufs &+= other.subbufs
      restart &+= other.restart
    }
  }

  /// The shared numbers at the last reset; they themselves never go back.
  struct Origin {
    var records: UInt64 = 0
    var bytes: UInt64 = 0
    var seq: UInt64 = 1
    var padding: UInt64 = 0
    var counters = Counters()
  }

  struct Counters {
    var full: UInt64 = 0
    var tooBig: UInt64 = 0
    var aborted: UInt64 = 0
    var cancelled: UInt64 = 0
    var corrupt: UInt64 = 0
    var restart: UInt64 = 0

    init() {}
    init(_ buffer: ChannelBuffer) {
      // Relaxed: statistics.
      full = buffer.lostFull.pointee.load(ordering: .relaxed)
      tooBig = buffer.lostTooBig.pointee.load(ordering: .relaxed)
      // Relaxed: statistics.
      aborted = buffer.aborted.pointee.load(ordering: .relaxed)
      cancelled = buffer.cancelled.pointee.load(ordering: .relaxed)
      corrupt = buffer.corrupt.pointee.load(ordering: .relaxed)
      restart = Counters.restart(buffer)
    }

    // Relaxed: a statistic.
    static func restart(_ buffer: ChannelBuffer) -> UInt64 {
      buffer.lostRestart.pointee.load(ordering: .relaxed)
    }
  }

  /// Records that were overwritten before this reader came to them, found so far; counted while it
  /// goes on in this process.
  public var lapped: UInt64 { lappedRecords }

  /// As `Statistics.lostStalled`, since the start of the buffer.
  public var stalled: UInt64 { totals.stalled }

  /// How far writers are: entries and bytes reserved over the buffer's life.
  struct Reserved {
    var seq: UInt64 = 1
    var records: UInt64 = 0
    var bytes: UInt64 = 0
    /// Bytes left empty in the sub-buffers before this one.
    var padding: UInt64 = 0
  }

  /// What stands in the buffer between the position and the frontier.
  private struct Held {
    var entries: UInt64 = 0
    var dead: UInt64 = 0
    var bytes: UInt64 = 0
  }

  /// - Precondition: no claim is pending.
  public func statistics() -> Statistics {
    _ = hasData  // moves the position past what was overwritten
    let counters = Counters(buffer)
    let reserved = reservedNow()
    let held = held()
    var s = Statistics()
    s.lostFull = counters.full &- origin.counters.full
    s.lostTooBig = counters.tooBig &- origin.counters.tooBig
    s.lostStalled = totals.stalled
    s.lostRestart = counters.restart &- origin.counters.restart
    s.aborted = counters.aborted &- origin.counters.aborted
    s.cancelled = counters.cancelled &- origin.counters.cancelled
    // The counter stands in the same memory.
    s.corrupt = max(counters.corrupt &- origin.counters.corrupt, isCorrupt ? 1 : 0)
    s.recordsRead = totals.records
    s.recordsUnread = held.entries &- held.dead
    s.bytesRead = totals.bytes
    s.bytesUnread = held.bytes &+ UInt64(rest.count)
    // Gone without having been passed: overwritten, but for the dead ones among them.
    let gone = (reserved.records &- origin.records)
      .less(totals.records).less(totals.dead).less(totals.stalled).less(held.entries)
    let dead = (s.cancelled &+ s.aborted).less(totals.dead).less(held.dead)
    s.lostOverwritten = gone.less(dead)
    s.recordsWritten = s.recordsRead &+ s.recordsUnread &+ s.lostOverwritten &+ s.lostStalled
    s.bytesWritten = reserved.bytes &- origin.bytes
    s.subbufsProduced = reserved.seq &- origin.seq
    s.subbufsConsumed = position.seq.less(origin.seq)
    s.backlogMax = max(backlogMax, backlogNow)
    s.padding = reserved.padding &- origin.padding
    return s
  }

  func reservedNow() -> Reserved { buffer.reservedNow() }

  /// Counts the entries from the position on, in every sub-buffer still there.
  private func held() -> Held {
    var held = Held()
    for subbuf in 0..<buffer.layout.subbufCount {
      let state = buffer.loadState(subbuf)
      guard state.isHeld, state.seq >= position.seq, pin(subbuf, seq: state.seq) else { continue }
      defer { unpinLast() }
      let isHere = state.seq == position.seq
      var start = isHere ? position.offset : 0
      for i in (isHere ? position.entry : 0)..<buffer.layout.entryCount {
        let entry = buffer.loadEntry(buffer.index(subbuf), i)
        if entry.isEmpty(state.seq) || entry.isSeal(state.seq) || entry.end < start { break }
        held.entries += 1
        if entry.tag == .cancelled || entry.tag == .discarded {
          held.dead += 1
        } else {
          held.bytes += UInt64(entry.end - start)
        }
        start = entry.end
      }
    }
    return held
  }

  /// Forgets all data and counts: what is written from here on is all there ever was. Safe while
  /// writers run; a record being written at this moment is forgotten, too. What was lent is taken
  /// back.
  public func reset() {
    takeBackUnread()
    var patience = Patience()
    while patience.lasts() {
      let current = buffer.loadCurrent()
      guard current.seq != 0, current.subbuf < buffer.layout.subbufCount, !isCorrupt else { break }
      guard pin(current.subbuf, seq: current.seq) else {
        buffer.openIfClaimed(current)
        checkCurrent()
        continue
      }
      let end = sealedEnd(current)
      unpinLast()
      guard let end else { continue }
      jump(to: end)
      break
    }
    // The sealed sub-buffer is left at once where another one is free, and freed then.
    _ = channel.flush(buffer)
    _ = hasData
    if mayReclaim { reclaim() }
    let reserved = reservedNow()
    totals = Totals()
    // Not told any more.
    totals.restart = Counters.restart(buffer)
    backlogMax = 0
    origin = Origin(
      records: position.record, bytes: bytesBefore(position), seq: reserved.seq,
      padding: reserved.padding, counters: Counters(buffer))
    save()
  }

  /// Closes the pinned current sub-buffer to writers and returns the position at its end; nil when
  /// writers moved on meanwhile, or the memory is corrupt.
  private func sealedEnd(_ current: Current) -> Position? {
    var entries = 0
    var end = 0
    switch buffer.frontier(current) {
    case .empty(_, at: 0, _): break
    default:
      switch buffer.seal(current) {
      case .sealed(let sealed): (entries, end) = (sealed.entries, sealed.bytes)
      case .moved: return nil
      case .stopped:
        markCorrupt()
        return nil
      }
    }
    // Relaxed: published by the CAS of `current`.
    let record = buffer.recordBase(current.subbuf).pointee.load(ordering: .relaxed)
    let lost = buffer.lostFull.pointee.load(ordering: .relaxed)
    return Position(
      seq: current.seq, subbuf: current.subbuf, entry: entries, offset: end,
      record: record &+ UInt64(entries), lostBase: lost, walkedFromStart: false)
  }

  private func bytesBefore(_ position: Position) -> UInt64 {
    // Relaxed: the position's sub-buffer was published to this thread before.
    buffer.byteBase(position.subbuf).pointee.load(ordering: .relaxed) &+ UInt64(position.offset)
  }
}

extension ChannelBuffer {
  /// What writers see by themselves, since the memory began: nothing of what was read, and of what
  /// was lost only what stands in the counters.
  package func writersStatistics() -> Statistics {
    let counters = Reader.Counters(self)
    let reserved = reservedNow()
    var s = Statistics()
    s.subbufsProduced = reserved.seq &- 1
    s.recordsWritten = reserved.records.less(counters.cancelled).less(counters.aborted)
    s.bytesWritten = reserved.bytes
    s.padding = reserved.padding
    s.lostFull = counters.full
    s.lostTooBig = counters.tooBig
    s.lostRestart = counters.restart
    s.aborted = counters.aborted
    s.cancelled = counters.cancelled
    s.corrupt = counters.corrupt
    return s
  }

  func reservedNow() -> Reader.Reserved {
    let current = loadCurrent()
    guard current.seq != 0, current.subbuf < layout.subbufCount else { return Reader.Reserved() }
    // Relaxed, both: published by the CAS of `current` that the load above acquired.
    var records = recordBase(current.subbuf).pointee.load(ordering: .relaxed)
    var bytes = byteBase(current.subbuf).pointee.load(ordering: .relaxed)
    let padding = (current.seq &- 1) &* UInt64(layout.subbufSize) &- bytes
    switch frontier(current) {
    case .empty(_, let i, let end), .sealed(let i, let end):
      records &+= UInt64(i)
      bytes &+= UInt64(end)
    case .corrupt: break
    }
    return Reader.Reserved(seq: current.seq, records: records, bytes: bytes, padding: padding)
  }
}

/// The counters of losses in a buffer's memory, over its whole life. Anybody who writes into the
/// memory can change them.
public struct LossCounts: Equatable, Sendable {
  public var full: UInt64
  public var tooBig: UInt64
  public var restart: UInt64
  public var aborted: UInt64
  public var corrupt: UInt64
}

extension ChannelBuffer {
  public var lossCounts: LossCounts {
    let counters = Reader.Counters(self)
    return LossCounts(
      full: counters.full, tooBig: counters.tooBig, restart: counters.restart,
      aborted: counters.aborted, corrupt: counters.corrupt)
  }
}

extension UInt64 {
  /// Never below zero: the numbers come from memory that others write while we count.
  func less(_ other: UInt64) -> UInt64 { self > other ? self - other : 0 }
}
