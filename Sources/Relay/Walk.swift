// SPDX-License-Identifier: Apache-2.0
// How a reader moves over the ring: from sub-buffer to sub-buffer, skipping what was overwritten,
// and from entry to entry, trusting none of the words.

internal import Glibc
internal import Synchronization

extension Reader {
  /// Pins the sub-buffer the plan goes on in; skips to the oldest one still there if that one is
  /// gone. False: nothing to read yet, or a gap that the next claim has to start with.
  func enterSubbuf() -> Bool {
    for attempt in 0..<16 where searchesLeft > 0 && walkLeft > 0 {
      // Before the descriptors: never skip further than what was current before the scan.
      let current = buffer.loadCurrent()
      let wanted = plan.position.seq
      guard current.seq >= wanted, current.seq != 0 else {
        // Nothing was written yet; or `current` went back, which it never does.
        if wanted > 1 { markCorrupt() }
        return false
      }
      guard current.subbuf < buffer.layout.subbufCount else {
        markCorrupt()
        return false
      }
      buffer.openIfClaimed(current)
      // After many lost races with overwriting writers, take the one they cannot reach yet.
      let (subbuf, seq) = attempt < 12 ? locate(wanted, current) : (current.subbuf, current.seq)
      guard pin(subbuf, seq: seq) else { continue }
      return seq == wanted && plan.position.isInside || arrive(subbuf, seq)
    }
    checkCurrent()
    return false
  }

  /// What `current` names is CLAIMED, OPEN or FULL with its number for as long as it does.
  func checkCurrent() {
    let current = buffer.loadCurrent()
    guard current.subbuf < buffer.layout.subbufCount else { return markCorrupt() }
    let state = buffer.loadState(current.subbuf)
    let isRight = state.seq == current.seq && state.phase != .free && state.pins < 15
    if !isRight, buffer.loadCurrent() == current { markCorrupt() }
  }

  /// The sub-buffer with the lowest sequence number from `wanted` up to the current one.
  private func locate(_ wanted: UInt64, _ current: Current) -> (Int, UInt64) {
    if wanted == current.seq { return (current.subbuf, current.seq) }
    let guess = plan.position.subbuf
    let state = buffer.loadState(guess)
    if state.isHeld, state.seq == wanted { return (guess, wanted) }
    searchesLeft -= 1
    if let (subbuf, state) = buffer.oldestHeld(after: wanted - 1, before: current.seq) {
      return (subbuf, state.seq)
    }
    return (current.subbuf, current.seq)
  }

  /// Goes on at the start of a sub-buffer just pinned, noting what was lost before it. False, and
  /// nothing done, if a gap would end up inside the claim.
  private func arrive(_ subbuf: Int, _ seq: UInt64) -> Bool {
    // Relaxed, both: published by OPEN, which the pin's CAS acquired.
    let record = buffer.recordBase(subbuf).pointee.load(ordering: .relaxed)
    let lost = buffer.lostBase(subbuf).pointee.load(ordering: .relaxed)
    // Saturating: a reset within this sub-buffer starts from losses later than its start.
    var gap = Gap()
    gap.overwritten = record.less(plan.position.record)
    gap.full = lost.less(plan.position.lostBase)
    guard gap.isEmpty || plan.bytes == 0 || plan.isFramed else { return false }
    plan.gap.overwritten &+= gap.overwritten
    plan.lapped &+= gap.overwritten
    plan.gap.full &+= gap.full
    plan.position = Position(
      seq: seq, subbuf: subbuf, record: record, lostBase: max(lost, plan.position.lostBase))
    return true
  }

  /// Takes committed entries of the pinned sub-buffer until `room` or the claim's share of entries
  /// is used up, or one is not finished. True: at its end, and the next one is there.
  func walk(_ room: inout Int) -> Bool {
    let subbuf = pinned[pinCount - 1].subbuf
    let payload = UnsafeRawPointer(buffer.payload(subbuf))
    plan.position.subbuf = subbuf
    while vectorCount < Reader.vectorLimit {
      let position = plan.position
      let run = committedRun(subbuf, position, room)
      append(payload + position.offset, run.end - position.offset)
      if run.entries > 0, plan.firstRecord == nil { plan.firstRecord = position.record }
      room -= run.end - position.offset
      plan.position.advance(by: run.entries, to: run.end)
      plan.totals.records &+= UInt64(run.entries)
      // Others are bounded by the room.
      walkLeft -= max(0, run.entries - (run.end - position.offset))
      guard plan.position.entry < buffer.layout.entryCount else { break }
      guard walkLeft > 0 else { return false }
      let entry = run.stoppedAt
      if entry.isEmpty(position.seq) || entry.isBusy && !mayPassBusy(subbuf) { return false }
      // Checked before use: another process can write anything here.
      guard entry.end >= run.end, entry.end <= buffer.layout.subbufSize else { break }
      switch entry.tag {
      case .committed:
        if room > 0, vectorCount < Reader.vectorLimit {
          append(payload + plan.position.offset, room)
          cut(payload, entry, take: room)
        }
        room = 0
        return false
      case .cancelled, .discarded: passDead(subbuf, entry)
      case .busy:
        // A gap stands before a claim's bytes, never among them.
        guard plan.bytes == 0 else { return false }
        passBusy(subbuf, entry)
      case .seal: return finish()
      default:
        markCorrupt()
        return false
      }
    }
    if vectorCount < Reader.vectorLimit { markCorrupt() }
    return false
  }

  /// Passes records in a row that were given up, of which `first` is the first.
  func passDead(_ subbuf: Int, _ first: Entry) {
    let position = plan.position
    let index = buffer.index(subbuf) + position.entry
    let cancelled = Entry.prefix(.cancelled, position.seq)
    let discarded = Entry.prefix(.discarded, position.seq)
    let limit = buffer.layout.subbufSize
    let count = min(buffer.layout.entryCount - position.entry, walkLeft)
    var entries = 1
    var end = first.end
    while entries < count {
      let entry = buffer.loadEntry(index, entries)
      let isDead = entry.prefix == cancelled || entry.prefix == discarded
      guard isDead, entry.end >= end, entry.end <= limit else { break }
      end = entry.end
      entries += 1
    }
    plan.position.advance(by: entries, to: end)
    plan.totals.dead &+= UInt64(entries)
    // What comes between such rows costs as much as some entries.
    walkLeft -= entries + 16
  }

  /// Committed entries in a row.
  private struct Run {
    var entries = 0
    /// Where the last of them ends.
    var end: Int
    /// The first entry that does not belong: another kind, out of room, or out of bounds.
    var stoppedAt = Entry(raw: 0)
  }

  /// The committed entries from `position` on that fit into `room` bytes. The inner loop of all
  /// reading: locals only.
  private func committedRun(_ subbuf: Int, _ position: Position, _ room: Int) -> Run {
    let index = buffer.index(subbuf) + position.entry
    let committed = Entry.prefix(.committed, position.seq)
    let limit = min(position.offset + room, buffer.layout.subbufSize)
    let count = min(buffer.layout.entryCount - position.entry, walkLeft)
    var run = Run(end: position.offset)
    while run.entries < count {
      let entry = buffer.loadEntry(index, run.entries)
      guard entry.prefix == committed, entry.end >= run.end, entry.end <= limit else {
        run.stoppedAt = entry
        return run
      }
      run.end = entry.end
      run.entries += 1
    }
    return run
  }

  /// Of a record the next `take` bytes, and not the last, were taken: keeps the rest for the next
  /// claim. Who peeks keeps nothing, and may find it overwritten.
  func cut(_ payload: UnsafeRawPointer, _ entry: Entry, take: Int) {
    let position = plan.position
    guard !isPeeking else {
      plan.position.offset += take
      plan.position.skipped += take
      return
    }
    let next = position.offset + take
    plan.cut = UnsafeRawBufferPointer(start: payload + next, count: entry.end - next)
    plan.cutRecord = CutRecord(
      number: position.record, length: entry.end - position.offset,
      time: recordTime(subbuf: position.subbuf, entry: position.entry))
    plan.position.advance(by: 1, to: entry.end)
    plan.totals.records &+= 1
  }

  /// At the SEAL: moves on to the next sub-buffer once writers have.
  func finish() -> Bool {
    guard buffer.loadCurrent().seq > plan.position.seq else { return false }
    // A sub-buffer costs as much as some entries, also one that holds none.
    walkLeft -= 64
    pinned[pinCount - 1].isFinished = plan.position.walkedFromStart
    if !plan.position.walkedFromStart, !isPeeking { mayReclaim = true }
    plan.totals.padding &+= UInt64(buffer.layout.subbufSize - plan.position.offset)
    plan.totals.subbufs &+= 1
    let old = plan.position
    plan.position = Position(
      seq: old.seq + 1, subbuf: (old.subbuf + 1) % buffer.layout.subbufCount,
      record: old.record, lostBase: old.lostBase)
    return true
  }
}

/// When a reader that waits is told.
public enum Wakeup: String, CaseIterable, Sendable {
  /// As soon as a read would return data.
  case data
  /// When a sub-buffer is full or was flushed, as in relay.
  case subbuffer
}

extension Reader {
  /// Whether a read would return at least one byte now, or an empty record.
  public var hasData: Bool {
    if isRecordwise { return hasRecord }
    guard keepsEmptyRecords else {
      guard claim(limit: 1).byteCount > 0 else { return false }
      giveBack()
      return true
    }
    guard hasFrames else { return false }
    return hasBytes
  }

  /// A look that passes nothing: records without any bytes are for the reader of whole records.
  private var hasBytes: Bool {
    walkLeft = walkLimit
    hasMoreToWalk = false
    beginClaim()
    defer { giveBack() }
    var room = 1
    guard rest.isEmpty else { return true }
    var passed: [Stall.Passed] = []
    if let looked, looked.position.isBehind(position), looked.passed.allSatisfy(isStillBusy) {
      plan.position = looked.position
      passed = looked.passed
    }
    let checked = passed.count
    var subbufsLeft = Reader.vectorLimit
    var isAtNext = true
    while isAtNext, subbufsLeft > 0, !isCorrupt, enterSubbuf() {
      isAtNext = walk(&room) && plan.bytes == 0
      if isAtNext { letGo() }
      subbufsLeft -= 1
    }
    guard plan.bytes == 0 else { return true }
    hasMoreToWalk = walkLeft <= 0 || isAtNext && subbufsLeft == 0
    passed += plan.passed.prefix(Stall.passedLimit - checked)
    looked = Looked(position: plan.position, passed: passed)
    // After the decision: the next look checks them again, however far it comes.
    walkLeft -= checked
    return false
  }

  func isStillBusy(_ passed: Stall.Passed) -> Bool {
    buffer.loadState(passed.subbuf).seq == passed.place.seq
      && buffer.loadEntry(buffer.index(passed.subbuf), passed.place.entry).isBusy
  }

  /// How far there are no bytes.
  struct Looked {
    var position: Position
    /// Records before it whose writers had stopped. Once one of them is finished, its bytes are
    /// there, and the next look has to begin at the reader's position.
    var passed: [Stall.Passed]
  }

  /// Whether the channel takes no more records.
  public var isClosed: Bool { buffer.loadCurrent().isClosed }

  /// Whether the channel is closed and everything committed has been read: end of file.
  public var isDrained: Bool {
    let current = buffer.loadCurrent()
    guard current.isClosed || isCorrupt, !hasData else { return false }
    guard current.seq != 0, !isCorrupt else { return true }
    // hasData moved the position as far as it goes.
    guard position.seq == current.seq, current.subbuf < buffer.layout.subbufCount,
      position.entry < buffer.layout.entryCount
    else { return false }
    return buffer.loadEntry(buffer.index(current.subbuf), position.entry).isSeal(current.seq)
  }

  /// Whether writers have left the sub-buffer that a read would start in: relay's rule for poll.
  public var hasFinishedSubbuf: Bool { hasData && isBehindWriters }

  /// Whether writers have left the sub-buffer at the position: exact after a look for data.
  public var isBehindWriters: Bool { position.seq < buffer.loadCurrent().seq }

  /// Asks writers for one signal of `wakeDescriptor`, at the next commit or the next switch.
  /// False, and nothing asked, when what is waited for, or the end, is there already.
  public func arm(_ wakeup: Wakeup = .data) -> Bool {
    arm(wakeup) { wakeup == .data ? hasData : hasFinishedSubbuf }
  }

  /// - Parameter isThere: whether what is waited for is there, but for the end.
  public func arm(_ wakeup: Wakeup, unless isThere: () -> Bool) -> Bool {
    armToLook(wakeup)
    guard isThere() || isDrained else { return true }
    disarm(wakeup)
    return false
  }

  /// Asks writers as `arm` does, and has the caller look afterwards.
  public func armToLook(_ wakeup: Wakeup) {
    keepPace()
    // Sequentially consistent, then the membarrier: a writer either sees the wish after its commit
    // (or after its CAS of `current`), or what it did is seen by a look from here on.
    wish(wakeup).pointee.bitwiseOr(Wish.wake, ordering: .sequentiallyConsistent)
    Wake.barrier()
  }

  /// Takes the wish back.
  public func disarm(_ wakeup: Wakeup = .data) {
    // Relaxed: a late signal is a spurious wake, which everybody tolerates.
    wish(wakeup).pointee.bitwiseAnd(~Wish.wake, ordering: .relaxed)
  }

  /// Whether no writer has taken the wish yet.
  public func isArmed(_ wakeup: Wakeup = .data) -> Bool {
    // Relaxed: the signal orders; without one the coarse tick looks again.
    wish(wakeup).pointee.load(ordering: .relaxed) & Wish.wake != 0
  }

  private func wish(_ wakeup: Wakeup) -> SharedWord {
    wakeup == .data ? buffer.waiters : buffer.switchWaiters
  }
}
