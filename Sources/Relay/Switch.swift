// SPDX-License-Identifier: Apache-2.0
// The slow path: leaving a sub-buffer for the next one. Any writer can finish what another left
// half done, so a writer that stops anywhere in here holds up nobody.

internal import Synchronization

extension ChannelBuffer {
  /// Seals the sub-buffer that `current` names and makes another one current.
  /// nil: try again from the start; the switch happened, here or elsewhere.
  func switchSubbuf<P: TestPoints>(
    from current: Current, owner: UInt16, wakeFD: WakeTarget, _ patience: inout Patience,
    _ points: P.Type
  ) -> Stop? {
    guard !current.isClosed else { return .closed }
    var sealed = Sealed(entries: 0, bytes: 0)
    // All-zero memory: nothing to leave.
    if current.seq != 0 {
      guard current.subbuf < layout.subbufCount else { return .corrupt }
      switch seal(current, &patience, points) {
      case .sealed(let totals): sealed = totals
      case .moved: return nil
      case .stopped(let stop): return stop
      }
      openIfClaimed(current)
      guard P.reached(.opened) else { return .killed }
    }

    guard let (next, state) = chooseNext(after: current, &patience) else {
      return loadCurrent() == current ? .full : nil
    }
    guard P.reached(.choseNext) else { return .killed }
    guard loadCurrent() == current else { return nil }
    let seq = current.seq &+ 1
    let claim = SubbufState(.claimed, seq: seq, owner: owner)
    guard exchangeState(next, state, claim) else { return nil }
    guard P.reached(.claimed) else { return .killed }
    return publish(next, claim, over: state, after: current, sealed, wakeFD, points)
  }

  /// Makes a claimed sub-buffer the current one. nil: done, or somebody else was faster.
  func publish<P: TestPoints>(
    _ next: Int, _ claim: SubbufState, over state: SubbufState, after current: Current,
    _ sealed: Sealed, _ wakeFD: WakeTarget, _ points: P.Type
  ) -> Stop? {
    let seq = claim.seq
    // An owner in FREE: it died before it had prepared it. Entries of any lap may stand in it.
    let oldSeq = state.phase == .free && state.owner != 0 ? 0 : state.seq
    prepare(next, seq: seq, oldSeq: oldSeq, after: current, sealed)
    guard P.reached(.preparedNext) else { return .killed }
    boundHolders(leaving: current, entries: sealed.entries)
    // Acquire-release: publishes the preparation to every load of `current`.
    let published = currentWord.pointee.compareExchange(
      expected: current.raw, desired: Current(seq: seq, subbuf: next).raw,
      ordering: .acquiringAndReleasing
    ).exchanged
    guard published else {
      // FREE never takes an earlier seq: a state must not recur, or a writer that chose this
      // sub-buffer long ago could still claim it, for a seq that was used since.
      _ = exchangeState(next, claim, SubbufState(.free, seq: seq))
      return P.reached(.gaveBack) ? nil : .killed
    }
    guard P.reached(.published) else { return .killed }
    _ = exchangeState(next, claim, SubbufState(.open, seq: seq))
    guard P.reached(.openedNext) else { return .killed }
    if current.seq != 0 { fill(current) }
    guard P.reached(.filledPrevious) else { return .killed }
    wakeReaderIfWaiting(wakeFD)
    // Some may have found nothing free because this one was claimed; now there is room in it.
    Wake.writers(self)
    return nil
  }

  /// What a sealed sub-buffer holds.
  struct Sealed {
    let entries: Int
    let bytes: Int
  }

  enum SealResult {
    case sealed(Sealed)
    case moved
    case stopped(Stop)
  }

  /// Frontier EMPTY → SEAL: nobody can reserve in this lap any more.
  func seal<P: TestPoints>(
    _ current: Current, _ patience: inout Patience, _ points: P.Type
  ) -> SealResult {
    while patience.lasts() {
      switch frontier(current) {
      case .corrupt: return .stopped(.corrupt)
      case .sealed(let i, let end): return .sealed(Sealed(entries: i, bytes: end))
      case .empty(let seen, let i, let start):
        // Relaxed: ordered by the acquire of the frontier entry, as in reserve.
        guard currentWord.pointee.load(ordering: .relaxed) == current.raw else { return .moved }
        guard P.reached(.rereadBeforeSeal) else { return .stopped(.killed) }
        // Acquire-release: pairs with every frontier load.
        _ = (index(current.subbuf) + i).pointee.compareExchange(
          expected: seen.raw, desired: Entry(.seal, seq: current.seq, end: start).raw,
          ordering: .acquiringAndReleasing)
        guard P.reached(.sealed) else { return .stopped(.killed) }
      }
    }
    return .stopped(.corrupt)
  }

  func seal(_ current: Current) -> SealResult {
    var patience = Patience()
    return seal(current, &patience, NoTestPoints.self)
  }

  /// A FREE sub-buffer, next in turn; else, in overwrite mode, the oldest one that nobody has
  /// pinned and nobody is still writing to.
  func chooseNext(after current: Current, _ patience: inout Patience) -> (Int, SubbufState)? {
    for _ in 0..<ChannelBuffer.looksForRoom {
      if let free = nextFree(after: current) { return free }
      guard layout.overwrites else { return nil }
      if let oldest = oldestToOverwrite(before: current, &patience) { return oldest }
    }
    return nil
  }

  /// How often a writer that overwrites looks at all states before it is refused. One look reads
  /// them one after the other, so it can miss a sub-buffer although at each moment one may be
  /// taken: while the writer is between two states, the reader frees those that were pinned and
  /// pins those that were not. What was freed stays free, so the next look finds it; the other
  /// looks are for several cursors, whose pins come and go without anything becoming free. In
  /// discard mode one look is enough: FREE is all that counts, and ends only by a switch.
  static var looksForRoom: Int { 4 }

  private func nextFree(after current: Current) -> (Int, SubbufState)? {
    let first = current.seq == 0 ? 0 : current.subbuf + 1
    for i in 0..<layout.subbufCount {
      let subbuf = (first + i) % layout.subbufCount
      let state = loadState(subbuf)
      if state.phase == .free { return (subbuf, state) }
    }
    return nil
  }

  private func oldestToOverwrite(
    before current: Current, _ patience: inout Patience
  ) -> (Int, SubbufState)? {
    var newerThan: UInt64 = 0
    // Each stopped writer costs a look at all states.
    while patience.lasts(),
      let (subbuf, state) = oldestHeld(after: newerThan, before: current.seq, ifUnpinned: true)
    {
      // Scanned before the claim: a stopped writer's sub-buffer stays as it is (quarantine).
      if !holdsBusy(subbuf, seq: state.seq) { return (subbuf, state) }
      newerThan = state.seq
    }
    return nil
  }

  /// The OPEN or FULL sub-buffer with the lowest sequence number in between, both ends excluded.
  func oldestHeld(
    after low: UInt64, before high: UInt64, ifUnpinned: Bool = false
  ) -> (Int, SubbufState)? {
    var oldest: (Int, SubbufState)?
    for subbuf in 0..<layout.subbufCount {
      let state = loadState(subbuf)
      guard state.isHeld, state.seq > low, state.seq < high else { continue }
      guard !ifUnpinned || state.pins == 0 else { continue }
      if let (_, best) = oldest, best.seq <= state.seq { continue }
      oldest = (subbuf, state)
    }
    return oldest
  }

  /// Whether a writer is still inside; also true for what is not a sealed sub-buffer of `seq`.
  func holdsBusy(_ subbuf: Int, seq: UInt64) -> Bool { firstUnfinished(subbuf, seq: seq) != nil }

  /// The first record from `start` on that somebody is still writing, or the end of what is not a
  /// sealed sub-buffer of `seq`; nil: neither.
  func firstUnfinished(_ subbuf: Int, seq: UInt64, from start: Int = 0) -> Int? {
    let index = index(subbuf)
    let seal = Entry.prefix(.seal, seq)
    let committed = Entry(.committed, seq: seq, end: 0)
    let count = layout.entryCount
    var i = start
    while i < count {
      // Eight committed entries at a time, which is nearly all of them: in overwrite mode this
      // scan is a tenth of the cost of a short record.
      if i + 8 <= count {
        var different: UInt64 = 0
        for j in 0..<8 { different |= loadEntry(index, i + j).raw ^ committed.raw }
        if Entry(raw: different).prefix == 0 {
          i += 8
          continue
        }
      }
      let entry = loadEntry(index, i)
      if entry.prefix == seal { return nil }
      if entry.isBusy || entry.isEmpty(seq) { return i }
      i += 1
    }
    return count
  }

  /// Sets up a claimed sub-buffer before it is published.
  private func prepare(
    _ next: Int, seq: UInt64, oldSeq: UInt64, after current: Current, _ sealed: Sealed
  ) {
    var records: UInt64 = 0
    var bytes: UInt64 = 0
    if current.seq != 0 {
      // Relaxed, both: the load of `current` acquired what its publisher stored.
      records = recordBase(current.subbuf).pointee.load(ordering: .relaxed)
      bytes = byteBase(current.subbuf).pointee.load(ordering: .relaxed)
      records &+= UInt64(truncatingIfNeeded: sealed.entries)
      bytes &+= UInt64(truncatingIfNeeded: sealed.bytes)
    }
    // Relaxed: a statistic as it is now.
    let lost = lostFull.pointee.load(ordering: .relaxed)
    // Relaxed, all three: published by the CAS of `current` and by OPEN; read after them.
    recordBase(next).pointee.store(records, ordering: .relaxed)
    byteBase(next).pointee.store(bytes, ordering: .relaxed)
    lostBase(next).pointee.store(lost, ordering: .relaxed)
    // The lap field came round since the last use: old entries would look like this lap's.
    guard oldSeq >> Entry.lapBits != seq >> Entry.lapBits else { return }
    for i in 0..<layout.entryCount {
      // Release: pairs with the frontier loads.
      (index(next) + i).pointee.store(Entry(clearedFor: seq).raw, ordering: .releasing)
    }
  }

  /// OPEN → FULL for the sub-buffer just left, keeping its pins.
  private func fill(_ previous: Current) {
    for _ in 0..<ChannelBuffer.stateAttempts {
      let state = loadState(previous.subbuf)
      guard state.phase == .open, state.seq == previous.seq else { return }
      if exchangeState(previous.subbuf, state, state.with(.full)) { return }
    }
  }

  /// Far more than there are others that change the state of one sub-buffer in one lap.
  static var stateAttempts: Int { 1000 }

  func wakeReaderIfWaiting(_ wakeFD: WakeTarget) {
    // Relaxed, both: as after commit; the CAS of `current` before it is the barrier here.
    if waiters.pointee.load(ordering: .relaxed) != 0 { Wake.reader(waiters, wakeFD) }
    if switchWaiters.pointee.load(ordering: .relaxed) != 0 { Wake.reader(switchWaiters, wakeFD) }
  }

  var hasFreeSubbuf: Bool {
    (0..<layout.subbufCount).contains { loadState($0).phase == .free }
  }
}

/// What a flush did.
public enum FlushResult: Sendable, Equatable {
  /// The data is in a sub-buffer of its own, or there was none.
  case flushed
  /// The sub-buffer is closed to writers, but there is no free one to move to.
  case full
  case closed
  case corrupt
}

extension ChannelBuffer {
  /// Switches if the current sub-buffer holds anything. Bound to the sub-buffer it first saw: if a
  /// writer switches meanwhile, that was the flush.
  func flush(owner: UInt16, wakeFD: WakeTarget) -> FlushResult {
    let current = loadCurrent()
    guard current.seq != 0 else { return .flushed }
    guard current.subbuf < layout.subbufCount else { return .corrupt }
    if case .empty(_, at: 0, _) = frontier(current) { return .flushed }
    return leave(current, owner: owner, wakeFD: wakeFD)
  }

  /// Leaves the sub-buffer that `current` names, even if it is empty, unless another writer does.
  func leave(_ current: Current, owner: UInt16, wakeFD: WakeTarget) -> FlushResult {
    var patience = Patience()
    while patience.lasts() {
      switch switchSubbuf(
        from: current, owner: owner, wakeFD: wakeFD, &patience, NoTestPoints.self)
      {
      case nil: if loadCurrent() != current { return .flushed }
      case .full: return .full
      case .closed: return .closed
      default: return .corrupt
      }
    }
    return .corrupt
  }

  /// No record can be reserved after this returns; what was reserved before can still be
  /// committed, and everything committed can be read.
  func close(wakeFD: WakeTarget) {
    // Acquire-release: every switch loses its CAS of `current` from here on.
    currentWord.pointee.bitwiseOr(Current.closedBit, ordering: .acquiringAndReleasing)
    let current = loadCurrent()
    if current.seq != 0 {
      if current.subbuf < layout.subbufCount, case .sealed = seal(current) {
        openIfClaimed(current)
      } else {
        count(corrupt)
      }
    }
    wakeReaderIfWaiting(wakeFD)
    Wake.writers(self)
  }
}
