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
  /// In a buffer of which something was overwritten, with cancelled and aborted ones among them.
  public var recordsUnread: UInt64 = 0
  /// Payload bytes reserved by writers, delivered, and reserved and not passed yet; the first and
  /// the last with those of cancelled and aborted records.
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

  /// What a reader adds to what the shared memory says: all that the counts are made of.
  struct Progress {
    var position = Position()
    var totals = Totals()
    var origin = Origin()
    var backlogMax: UInt64 = 0
    /// Of a record whose beginning was delivered.
    var restBytes: UInt64 = 0
  }

  /// The account. Looks at no record, pins and moves nothing: it costs the same however much is
  /// unread.
  public func statistics() -> Statistics {
    settlePassed(all: true)
    return buffer.statistics(
      Progress(
        position: position, totals: totals, origin: origin, backlogMax: backlogMax,
        restBytes: UInt64(rest.count)),
      isDamaged: isCorrupt)
  }

  /// The same from any thread, as of the last bytes that were consumed.
  /// - Parameter isDamaged: whether this reader has met damage.
  /// - Precondition: the channel has an opener's file, where this reader saves its position.
  public func savedStatistics(isDamaged: Bool) -> Statistics {
    store!.withProgress { buffer.statistics($0, isDamaged: isDamaged) }
  }

  func reservedNow() -> Reserved { buffer.reservedNow() }

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
    noteForgotten()
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
  /// The account of a reader that has come as far as `progress` says.
  ///
  /// Nothing says whether a record that was given up and not passed was overwritten or is still
  /// unread. As long as nothing was overwritten it is unread, and the counts are exact; else it is
  /// taken off `lostOverwritten` first, and the sum of the two is exact.
  func statistics(_ progress: Reader.Progress, isDamaged: Bool) -> Statistics {
    let (totals, origin) = (progress.totals, progress.origin)
    let counters = Reader.Counters(self)
    let reserved = reservedNow()
    let next = oldestUnread(from: progress.position)
    var s = Statistics()
    s.lostFull = counters.full &- origin.counters.full
    s.lostTooBig = counters.tooBig &- origin.counters.tooBig
    s.lostStalled = totals.stalled
    s.lostRestart = counters.restart &- origin.counters.restart
    s.aborted = counters.aborted.less(origin.counters.aborted)
    s.cancelled = counters.cancelled.less(origin.counters.cancelled)
    // The counter stands in the same memory.
    s.corrupt = max(counters.corrupt &- origin.counters.corrupt, isDamaged ? 1 : 0)
    s.recordsRead = totals.records
    s.bytesRead = totals.bytes
    s.bytesUnread = reserved.bytes.less(next.bytes) &+ progress.restBytes
    let ahead = reserved.records.less(next.record)
    // Gone without having been passed: overwritten.
    let gone = (reserved.records &- origin.records)
      .less(totals.records).less(totals.dead).less(totals.stalled).less(ahead)
    let dead = (s.cancelled &+ s.aborted).less(totals.dead)
    s.lostOverwritten = gone.less(dead)
    s.recordsUnread = ahead.less(dead.less(gone))
    s.recordsWritten = s.recordsRead &+ s.recordsUnread &+ s.lostOverwritten &+ s.lostStalled
    s.bytesWritten = reserved.bytes &- origin.bytes
    s.subbufsProduced = reserved.seq &- origin.seq
    s.subbufsConsumed = next.seq.less(origin.seq)
    s.backlogMax = max(progress.backlogMax, backlog(behind: progress.position))
    s.padding = reserved.padding &- origin.padding
    return s
  }

  /// Where a reader at `position` goes on: there, or at the oldest sub-buffer behind it that was
  /// not overwritten.
  private func oldestUnread(
    from position: Reader.Position
  ) -> (seq: UInt64, record: UInt64, bytes: UInt64) {
    for _ in 0..<Reader.searchLimit {
      let current = loadCurrent()
      guard current.seq >= position.seq, current.subbuf < layout.subbufCount else { break }
      let guess = loadState(position.subbuf)
      var (subbuf, seq) = (current.subbuf, current.seq)
      if position.seq < current.seq {
        if guess.isHeld, guess.seq == position.seq {
          (subbuf, seq) = (position.subbuf, position.seq)
        } else if let (held, state) = oldestHeld(after: position.seq - 1, before: current.seq) {
          (subbuf, seq) = (held, state.seq)
        }
      }
      // Relaxed, both: published by OPEN or by the CAS of `current`, which the loads acquired.
      let record = recordBase(subbuf).pointee.load(ordering: .relaxed)
      let bytes = byteBase(subbuf).pointee.load(ordering: .relaxed)
      // Overwritten meanwhile: these are another lap's.
      guard loadState(subbuf).seq == seq else { continue }
      guard seq == position.seq else { return (seq, record, bytes) }
      // Read to its end; one that is empty is passed by the read that goes on behind it.
      let isPassed = seq < current.seq && position.entry > 0 && isAtSeal(subbuf, position)
      return (
        isPassed ? seq + 1 : seq, position.record, bytes &+ UInt64(position.offset)
      )
    }
    // Nothing was written yet; or the memory is damaged.
    return (position.seq, .max, .max)
  }

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
    var current = loadCurrent()
    var reserved = Reader.Reserved()
    // Few: in hostile memory it may change at each look.
    for _ in 0..<8 {
      guard current.seq != 0, current.subbuf < layout.subbufCount else { break }
      reserved = reservedIn(current)
      let now = loadCurrent()
      // Where writers went around the ring meanwhile, the numbers were of two laps.
      if now.seq == current.seq { break }
      current = now
    }
    return reserved
  }

  private func reservedIn(_ current: Current) -> Reader.Reserved {
    // Relaxed, both: published by the CAS of `current`, which its load acquired.
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
