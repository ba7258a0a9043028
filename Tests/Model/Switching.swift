// SPDX-License-Identifier: Apache-2.0
// The switch's steps, flush's and close's, as in Sources/Relay/Switch.swift.

extension World {
  mutating func stepSwitch(_ t: inout Thread, owner: UInt8) {
    let c = t.current
    switch t.step {
    case .sealReread:
      guard s.memory.current == c || broken == .noRereadBeforeSeal else { return moved(&t) }
      t.step = .seal
    case .seal:
      if entry(c.subbuf, t.i) == t.seen {
        if t.i == 0, !c.isClosed { fail("an empty sub-buffer is sealed") }
        store(c.subbuf, t.i, Entry(tag: .seal, lap: lap(c.seq), end: t.start))
      }
      t.seen = Entry()
      lookForFrontier(&t, .seal)
    case .openLoad:
      let state = self[c.subbuf]
      guard state.phase == .claimed, state.seq == c.seq else { return opened(&t) }
      t.state = state
      t.step = .open
    case .open:
      _ = swap(c.subbuf, t.state, SubbufState(phase: .open, seq: c.seq))
      opened(&t)
    case .chooseFree, .chooseOldest, .busyScan: choose(&t)
    case .confirmFull: if s.memory.current == c { refuse(&t) } else { moved(&t) }
    case .lookAgain: if s.memory.current == c { t.step = .claim } else { moved(&t) }
    case .claim:
      let claim = SubbufState(phase: .claimed, seq: c.seq + 1, owner: owner)
      guard swap(t.subbuf, t.state, claim) else { return moved(&t) }
      if t.state.isHeld { noteOverwritten(t.state.seq) }
      // Only the old seq still matters; of what the dead did not prepare, not even that.
      let isUnprepared = t.state.phase == .free && t.state.owner != 0
      t.state = SubbufState(seq: isUnprepared ? 0 : t.state.seq)
      if broken == .lateRecordBase { prepared(&t) } else { t.step = .loadBase }
    case .flushCheck:
      let current = s.memory.current
      if broken == .unboundFlush { t.current = current }
      if t.current == current { leave(&t) } else { finish(&t) }
    case .wishForSpace, .spaceCurrent, .spaceFree, .sleep: wait(&t)
    default: publish(&t, SubbufState(phase: .claimed, seq: c.seq + 1, owner: owner))
    }
  }

  /// The record doesn't fit, or this is a flush: seal the sub-buffer that `current` names.
  mutating func leave(_ t: inout Thread) {
    if t.current.isClosed, t.operation == .flush { return finish(&t) }
    if broken == .noSeal { return afterSeal(&t) }
    lookForFrontier(&t, .seal)
  }

  mutating func afterSeal(_ t: inout Thread) {
    // A reset takes nothing but the end from here.
    if t.operation == .sealEnd {
      t.step = .finished
      return
    }
    t.entries = t.i
    t.i = 0
    t.start = 0
    if broken == .leftUnopened { opened(&t) } else { t.step = .openLoad }
  }

  private mutating func opened(_ t: inout Thread) {
    t.state = SubbufState()
    if t.operation == .close { switched(&t) } else { chooseNext(&t) }
  }

  mutating func chooseNext(_ t: inout Thread) {
    t.k = 0
    t.step = .chooseFree
  }

  private mutating func choose(_ t: inout Thread) {
    let c = t.current
    switch t.step {
    case .chooseFree:
      let subbuf = ((c.seq == 0 ? 0 : c.subbuf + 1) + t.k) % subbufCount
      let state = self[subbuf]
      t.k += 1
      if state.phase == .free { return chose(&t, subbuf, state) }
      if t.k == subbufCount { bounds.overwrites ? search(&t, after: 0) : full(&t) }
    case .chooseOldest:
      let state = self[t.k]
      let below = broken == .claimsCurrent ? c.seq + 1 : c.seq
      let isPinned = state.pins != 0 && broken != .claimsPinned
      if state.isHeld, !isPinned, state.seq > t.newerThan, state.seq < below,
        t.state.seq == 0 || t.state.seq > state.seq
      {
        t.subbuf = t.k
        t.state = state
      }
      t.k += 1
      guard t.k == subbufCount else { return }
      if t.state.seq == 0 { return full(&t) }
      if broken == .noBusyScan { return chose(&t, t.subbuf, t.state) }
      t.k = 0
      t.step = .busyScan
    default:
      let lap = lap(t.state.seq)
      let found = entry(t.subbuf, t.k)
      if found.isSeal(lap) { return chose(&t, t.subbuf, t.state) }
      t.k += 1
      guard found.tag == .busy || found.isEmpty(lap) || t.k == entryCount else { return }
      if broken == .quarantineEndsSearch { return full(&t) }
      search(&t, after: t.state.seq)
    }
  }

  private mutating func search(_ t: inout Thread, after seq: UInt8) {
    t.newerThan = seq
    t.subbuf = 0
    t.state = SubbufState()
    t.k = 0
    t.step = .chooseOldest
  }

  private mutating func chose(_ t: inout Thread, _ subbuf: UInt8, _ state: SubbufState) {
    t.subbuf = subbuf
    t.state = state
    t.k = 0
    t.newerThan = 0
    t.looks = 0
    t.step = broken == .noLookBeforeClaim ? .claim : .lookAgain
  }

  /// This look found none.
  private mutating func full(_ t: inout Thread) {
    search(&t, after: 0)
    t.looks += 1
    if bounds.overwrites, t.looks < World.looks, broken != .refusesAtFirstLook {
      return chooseNext(&t)
    }
    t.looks = 0
    t.entries = 0
    t.step = .confirmFull
  }

  /// From a claim to what follows a switch.
  private mutating func publish(_ t: inout Thread, _ claim: SubbufState) {
    let c = t.current
    switch t.step {
    case .loadBase:
      t.entries += c.seq == 0 ? 0 : s.memory.recordBase[Int(c.subbuf)]
      t.step = .storeBase
    case .storeBase:
      s.memory.recordBase[Int(t.subbuf)] = t.entries
      t.entries = 0
      if broken == .lateRecordBase { openedNext(&t) } else { prepared(&t) }
    case .clear:
      let cleared = Entry(tag: .empty, lap: broken == .clearedToZero ? 0 : claim.seq)
      store(t.subbuf, t.k, cleared)
      t.k += 1
      if t.k == entryCount { cleanedUp(&t) }
    case .publish:
      guard s.memory.current == c else {
        if broken == .noGiveBack { return moved(&t) }
        t.step = .giveBack
        return
      }
      s.memory.current = Current(seq: claim.seq, subbuf: t.subbuf)
      t.step = bounds.isBounded && broken == .namedLate ? .bound : .openNext
    case .bound:
      boundHolders(leaving: c)
      t.step = broken == .namedLate ? .openNext : .publish
    case .giveBack:
      let seq = broken == .statesRecur ? 0 : claim.seq
      _ = swap(t.subbuf, claim, SubbufState(phase: .free, seq: seq))
      moved(&t)
    case .openNext:
      _ = swap(t.subbuf, claim, SubbufState(phase: .open, seq: claim.seq))
      if broken == .lateRecordBase { t.step = .loadBase } else { openedNext(&t) }
    case .fillLoad:
      let state = self[c.subbuf]
      guard state.phase == .open, state.seq == c.seq else { return switched(&t) }
      t.state = state
      t.step = .fill
    case .fill:
      let full = t.state.with(.full)
      if broken == .filledBlindly { s.memory.states[Int(c.subbuf)] = full }
      if swap(c.subbuf, t.state, broken == .pinsDropped ? full.with(pins: 0) : full)
        || broken == .filledBlindly
      {
        return switched(&t)
      }
      t.state = SubbufState()
      t.step = .fillLoad
    case .switchWakeLoad: if s.memory.waiters { t.step = .switchWakeTake } else { woken(&t) }
    case .switchWakeTake:
      let isOurs = s.memory.waiters
      takeWish()
      if isOurs { t.step = .switchWakeSignal } else { woken(&t) }
    case .switchWakeSignal:
      s.memory.event = true
      woken(&t)
    default: preconditionFailure("not a step of a switch")
    }
  }

  private mutating func prepared(_ t: inout Thread) {
    let isDue = t.state.seq >> lapBits != (t.current.seq + 1) >> lapBits
    if isDue, broken != .noWrapClearing { t.step = .clear } else { cleanedUp(&t) }
  }

  private mutating func cleanedUp(_ t: inout Thread) {
    t.k = 0
    t.state = SubbufState()
    t.step = bounds.isBounded && broken != .namedLate ? .bound : .publish
  }

  private mutating func openedNext(_ t: inout Thread) {
    t.subbuf = 0
    if t.current.seq == 0 { switched(&t) } else { t.step = .fillLoad }
  }

  private mutating func switched(_ t: inout Thread) {
    t.state = SubbufState()
    let isClosing = t.operation == .close
    if broken != (isClosing ? .closeWakesNobody : .switchWakesNobody) { wakeWriters() }
    let wakesReader = bounds.sleeps && !(isClosing && broken == .closeWakesNobody)
    if wakesReader { t.step = .switchWakeLoad } else { woken(&t) }
  }

  private mutating func woken(_ t: inout Thread) {
    if t.operation == .close { finish(&t) } else { moved(&t) }
  }

  /// The switch is over, here or elsewhere: once more from the start.
  private mutating func moved(_ t: inout Thread) {
    let current = t.current
    t.forget()
    switch t.operation {
    case .write, .writeTwo, .cancel, .leave: t.step = .loadCurrent
    case .flush:
      t.current = current
      t.step = .flushCheck
    case .close: fail("a switch after the close")
    // Nothing was sealed, which the reset sees by the missing seq.
    case .sealEnd: t.step = .finished
    }
  }

  mutating func afterClosing(_ t: inout Thread) {
    if t.current.seq == 0 || broken == .closeWithoutSeal { return switched(&t) }
    lookForFrontier(&t, .seal)
  }
}
