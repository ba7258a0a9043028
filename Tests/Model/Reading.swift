// SPDX-License-Identifier: Apache-2.0
// The reader's steps, as in Sources/Relay/Reader.swift and Walk.swift; reset() as in
// Statistics.swift.

enum ReaderStep: UInt8 {
  case idle
  // A new reader in the place of one that died.
  case clearLoad, clear
  // reclaim().
  case reclaimLoad, reclaimScan, reclaimFree, wakeAfterReclaim
  // enterSubbuf(), openIfClaimed(), locate().
  case loadCurrent, openLoad, open, guessLoad, locate
  // pin(), arrive().
  case pinLoad, pin, loadBase
  // walk(), finish().
  case walk, finish
  // mayPassBusy(), passBusy().
  case passBusy
  // What the caller does with the claim; consume() or giveBack(), both by unpin().
  case send, unpinLoad, unpin, wakeAfterUnpin
  // arm() and disarm(), sleeping.
  case arm, disarm, asleep
  // isDrained, end of file.
  case endCurrent, endEntry, atEnd
  // reset().
  case resetCurrent, resetSeal, resetBase, resetFlush

  /// Between two accesses where it may stay for long.
  var isResting: Bool { self == .idle || self == .send || self == .asleep || self == .atEnd }
}

extension World {
  mutating func stepReader() {
    switch s.reader.step {
    case .idle:
      startClaim(.read)
      stepReader()
    case .reclaimLoad, .reclaimScan, .reclaimFree: stepReclaim()
    case .clearLoad, .clear: clearPins()
    case .wakeAfterReclaim:
      wakeWriters()
      s.reader.hasFreed = false
      reclaimed()
    case .loadCurrent: readerLoadsCurrent()
    case .openLoad:
      let state = self[s.reader.current.subbuf]
      guard state.phase == .claimed, state.seq == s.reader.current.seq else { return locate() }
      s.reader.state = state
      s.reader.step = .open
    case .open:
      let state = s.reader.state
      _ = swap(s.reader.current.subbuf, state, SubbufState(phase: .open, seq: state.seq))
      s.reader.state = SubbufState()
      locate()
    case .guessLoad:
      let state = self[s.reader.plan.subbuf]
      if state.isHeld, state.seq == s.reader.plan.seq {
        return target(s.reader.plan.subbuf, state.seq)
      }
      s.reader.k = 0
      s.reader.step = .locate
    case .locate: scanHeld()
    case .pinLoad:
      let state = self[s.reader.subbuf]
      guard state.isHeld, state.seq == s.reader.seq else { return pinFailed() }
      s.reader.state = state
      s.reader.step = .pin
    case .pin: pin()
    case .loadBase: arrive()
    case .walk: walk()
    case .passBusy: passBusy()
    case .finish: finishSubbuf()
    case .send: send()
    case .wakeAfterUnpin: wakeAfterUnpin()
    case .unpinLoad, .unpin: unpin()
    case .disarm:
      s.memory.waiters = false
      if broken == .disarmDropsLook { s.memory.look = false }
      s.reader.step = .send
    case .arm, .asleep, .endCurrent, .endEntry, .atEnd: stepWaiting()
    case .resetCurrent, .resetSeal, .resetBase, .resetFlush: stepReset()
    }
  }

  mutating func startClaim(_ purpose: ReaderState.Purpose) {
    s.reader.purpose = purpose
    s.reader.plan = s.reader.position
    s.reader.hasNothing = false
    s.reader.hasLeft = false
    if s.reader.mayReclaim, broken != .noReclaim { startReclaim() } else { enter() }
  }

  mutating func startReclaim() {
    s.reader.mayReclaim = false
    s.reader.k = 0
    s.reader.step = .reclaimLoad
  }

  private mutating func stepReclaim() {
    let k = s.reader.k
    switch s.reader.step {
    case .reclaimLoad:
      let state = self[k]
      guard state.isHeld, state.seq < s.reader.position.seq else { return reclaimNext() }
      guard state.pins == 0 else { return reclaimNext(later: true) }
      s.reader.state = state
      s.reader.step = broken == .freesDespiteBusy ? .reclaimFree : .reclaimScan
    case .reclaimScan:
      let lap = lap(s.reader.state.seq)
      let found = entry(k, s.reader.j)
      s.reader.j += 1
      if found.isSeal(lap) {
        s.reader.step = .reclaimFree
      } else if found.tag == .busy || found.isEmpty(lap) || s.reader.j == entryCount {
        reclaimNext(later: true)
      }
    default:
      let state = s.reader.state
      let isFreed = swap(k, state, SubbufState(phase: .free, seq: state.seq))
      if isFreed { noteFreed() }
      reclaimNext(later: !isFreed)
    }
  }

  private mutating func reclaimNext(later: Bool = false) {
    if later { s.reader.mayReclaim = true }
    s.reader.state = SubbufState()
    s.reader.j = 0
    s.reader.k += 1
    s.reader.step = .reclaimLoad
    guard s.reader.k == subbufCount else { return }
    s.reader.k = 0
    if s.reader.hasFreed { s.reader.step = .wakeAfterReclaim } else { reclaimed() }
  }

  private mutating func reclaimed() {
    if s.reader.isReclaimingLast {
      s.reader.isReclaimingLast = false
      claimDone()
    } else if s.reader.purpose == .reset {
      startFlush()
    } else {
      enter()
    }
  }

  // Sub-buffer by sub-buffer.

  mutating func enter() {
    s.reader.attempt = 0
    tryToEnter()
  }

  private mutating func tryToEnter() {
    s.reader.current = Current()
    s.reader.subbuf = 0
    s.reader.seq = 0
    s.reader.k = 0
    s.reader.step = broken == .descriptorsBeforeCurrent ? .locate : .loadCurrent
  }

  private mutating func readerLoadsCurrent() {
    let current = s.memory.current
    guard current.seq >= s.reader.plan.seq, current.seq != 0 else {
      if s.reader.plan.seq > 1 { fail("the reader takes `current` for corrupt") }
      return endClaim()
    }
    s.reader.current = Current(seq: current.seq, subbuf: current.subbuf)
    s.reader.step = .openLoad
  }

  private mutating func locate() {
    let current = s.reader.current
    let wanted = s.reader.plan.seq
    if s.reader.purpose == .reset { return startReset() }
    if wanted == current.seq || s.reader.attempt >= bounds.patience {
      target(current.subbuf, current.seq)
    } else if broken == .descriptorsBeforeCurrent {
      if s.reader.seq == 0 { target(current.subbuf, current.seq) } else { s.reader.step = .pinLoad }
    } else {
      s.reader.step = .guessLoad
    }
  }

  private mutating func scanHeld() {
    let state = self[s.reader.k]
    let isUnlimited = broken == .jumpsAhead || broken == .descriptorsBeforeCurrent
    if state.isHeld, state.seq >= s.reader.plan.seq,
      state.seq < s.reader.current.seq || isUnlimited,
      s.reader.seq == 0 || state.seq < s.reader.seq
    {
      s.reader.subbuf = s.reader.k
      s.reader.seq = state.seq
    }
    s.reader.k += 1
    guard s.reader.k == subbufCount else { return }
    s.reader.k = 0
    if broken == .descriptorsBeforeCurrent {
      s.reader.step = .loadCurrent
    } else if s.reader.seq == 0 {
      target(s.reader.current.subbuf, s.reader.current.seq)
    } else {
      target(s.reader.subbuf, s.reader.seq)
    }
  }

  private mutating func target(_ subbuf: UInt8, _ seq: UInt8) {
    s.reader.subbuf = subbuf
    s.reader.seq = seq
    s.reader.step = .pinLoad
  }

  private mutating func pinFailed() {
    s.reader.state = SubbufState()
    if s.reader.purpose == .reset {
      s.reader.step = .openLoad
      return
    }
    if s.reader.attempt < bounds.patience { s.reader.attempt += 1 }
    tryToEnter()
  }

  private mutating func pin() {
    let state = s.reader.state
    s.reader.state = SubbufState()
    guard swap(s.reader.subbuf, state, state.with(pins: state.pins + 1)) else {
      s.reader.step = .pinLoad
      return
    }
    s.reader.pinned[Int(s.reader.subbuf)] = state.seq
    if s.reader.purpose == .reset { return startSealing() }
    let plan = s.reader.plan
    let isKnown = state.seq == plan.seq && (plan.entry > 0 || plan.seq == 1)
    s.reader.step = isKnown ? .walk : .loadBase
    if isKnown { arrived(plan) }
  }

  private mutating func arrive() {
    let record = s.memory.recordBase[Int(s.reader.subbuf)]
    let plan = s.reader.plan
    if record < plan.record { return fail("records are counted twice") }
    guard record == plan.record || s.reader.claimed == 0 else { return endClaim() }
    // It went past what it could not get hold of.
    if s.reader.attempt >= bounds.patience { s.forgotten = max(s.forgotten, record) }
    arrived(Position(seq: s.reader.seq, subbuf: s.reader.subbuf, record: record))
  }

  private mutating func arrived(_ position: Position) {
    s.reader.plan = position
    s.reader.plan.subbuf = s.reader.subbuf
    s.reader.current = Current()
    s.reader.subbuf = 0
    s.reader.seq = 0
    s.reader.attempt = 0
    s.reader.step = .walk
  }

  // Entry by entry.

  private mutating func walk() {
    let plan = s.reader.plan
    guard plan.entry < entryCount else { return fail("the reader finds corrupt entries") }
    let found = entry(plan.subbuf, plan.entry)
    if found.tag == .busy || found.isEmpty(lap(plan.seq)) { return endClaim() }
    guard found.end >= plan.offset, found.end <= size else {
      return fail("the reader finds corrupt entries")
    }
    if found.tag == .seal {
      s.reader.step = .finish
      return
    }
    if found.tag == .committed { noteTaken(plan.subbuf, plan.offset, found.end) }
    s.reader.plan.entry += 1
    s.reader.plan.offset = found.end
    s.reader.plan.record += 1
  }

  /// Whether the record at hand may be passed: when its time is over is not for the model to say.
  var canPass: Bool {
    let plan = s.reader.plan
    guard s.reader.step == .walk, s.passes < bounds.passes, s.reader.claimed == 0,
      s.reader.purpose != .reset
    else { return false }
    return entry(plan.subbuf, plan.entry).tag == .busy
  }

  mutating func seeBusy() {
    s.passes += 1
    s.reader.j = entry(s.reader.plan.subbuf, s.reader.plan.entry).end
    s.reader.step = .passBusy
  }

  private mutating func passBusy() {
    let plan = s.reader.plan
    let end = s.reader.j
    s.reader.j = 0
    guard plan.entry + 1 < entryCount,
      !entry(plan.subbuf, plan.entry + 1).isEmpty(lap(plan.seq))
    else { return endClaim() }
    notePassed()
    s.reader.plan.entry += 1
    s.reader.plan.offset = end
    s.reader.plan.record += 1
    s.reader.plan.walkedFromStart = false
    s.reader.step = .walk
  }

  private mutating func finishSubbuf() {
    let old = s.reader.plan
    guard s.memory.current.seq > old.seq || broken == .leavesCurrent else { return endClaim() }
    let isFinished = old.walkedFromStart || broken == .freesUnwalked
    s.reader.isFinished[Int(old.subbuf)] = isFinished
    if !isFinished { s.reader.mayReclaim = true }
    s.reader.plan = Position(
      seq: old.seq + 1, subbuf: (old.subbuf + 1) % subbufCount, record: old.record)
    let pinned = (0..<Int(subbufCount)).count { s.reader.pinned[$0] != 0 }
    if pinned < pinLimit { enter() } else { endClaim() }
  }
}
