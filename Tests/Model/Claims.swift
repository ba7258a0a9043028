// SPDX-License-Identifier: Apache-2.0
// What becomes of what the reader claimed, and what it does when there is nothing: the second half
// of the reader's steps.

extension World {
  mutating func endClaim() {
    s.reader.current = Current()
    s.reader.subbuf = 0
    s.reader.seq = 0
    s.reader.attempt = 0
    if s.reader.claimed == 0 {
      let (plan, position) = (s.reader.plan, s.reader.position)
      s.reader.hasNothing = (plan.seq, plan.entry) == (position.seq, position.entry)
      s.reader.hasMoved = !s.reader.hasNothing
      if plan.seq > position.seq { s.reader.hasLeft = true }
      s.reader.position = plan
      return nextUnpin()
    }
    s.reader.hasLeft = false
    if broken == .unpinsBeforeSending {
      s.reader.position = s.reader.plan
      nextUnpin()
    } else {
      s.reader.step = s.reader.purpose == .beforeSleep ? .disarm : .send
    }
  }

  mutating func send() {
    noteDelivered()
    if broken != .unpinsBeforeSending { s.reader.position = s.reader.plan }
    s.reader.claimed = 0
    nextUnpin()
  }

  mutating func refuseReply() {
    if broken == .consumesFailedReply {
      s.reader.position = s.reader.plan
    } else {
      s.reader.isFinished = .init(repeating: false)
    }
    s.reader.claimed = 0
    nextUnpin()
  }

  private mutating func nextUnpin() {
    s.reader.plan = Position()
    var next: UInt8?
    for k in 0..<subbufCount where s.reader.pinned[Int(k)] != 0 {
      if let next, s.reader.pinned[Int(next)] < s.reader.pinned[Int(k)] { continue }
      next = k
    }
    if let next {
      s.reader.subbuf = next
      s.reader.step = .unpinLoad
    } else {
      s.reader.subbuf = 0
      if s.reader.hasFreed { s.reader.step = .wakeAfterUnpin } else { claimDone() }
    }
  }

  mutating func noteFreed() {
    s.reader.hasFreed = bounds.waits && broken != .freeWakesNobody
  }

  mutating func wakeAfterUnpin() {
    wakeWriters()
    s.reader.hasFreed = false
    claimDone()
  }

  mutating func unpin() {
    let subbuf = s.reader.subbuf
    if s.reader.step == .unpinLoad {
      let state = self[subbuf]
      guard state.isHeld, state.seq == s.reader.pinned[Int(subbuf)], state.pins > 0 else {
        return fail("a pinned sub-buffer is recycled")
      }
      s.reader.state = state
      s.reader.step = .unpin
      return
    }
    let state = s.reader.state
    s.reader.state = SubbufState()
    let isFinished = s.reader.isFinished[Int(subbuf)]
    let isFreed = isFinished && state.pins == 1
    let free = SubbufState(phase: .free, seq: state.seq)
    guard swap(subbuf, state, isFreed ? free : state.with(pins: state.pins - 1)) else {
      s.reader.step = .unpinLoad
      return
    }
    if isFreed { noteFreed() }
    if isFinished, !isFreed { s.reader.mayReclaim = true }
    s.reader.pinned[Int(subbuf)] = 0
    s.reader.isFinished[Int(subbuf)] = false
    nextUnpin()
  }

  mutating func claimDone() {
    if s.reader.purpose == .reset { return resetUnpinned() }
    if s.reader.claimed != 0 {
      s.reader.step = .send
      return
    }
    if s.reader.hasMoved {
      s.reader.hasMoved = false
      s.reader.plan = s.reader.position
      return enter()
    }
    if s.reader.hasLeft, s.reader.mayReclaim, broken != .claimLeavesUnfreed {
      s.reader.hasLeft = false
      s.reader.isReclaimingLast = true
      return startReclaim()
    }
    s.reader.hasLeft = false
    let hasNothing = s.reader.hasNothing
    s.reader.hasNothing = false
    if !hasNothing {
      rest(.idle)
    } else if s.reader.purpose == .beforeSleep {
      rest(bounds.closes ? .endCurrent : .asleep)
    } else if s.reader.purpose == .end {
      s.reader.purpose = .read
      s.reader.step = .endEntry
    } else if bounds.sleeps {
      rest(.arm)
    } else if bounds.closes {
      rest(.endCurrent)
    } else {
      hasRested = true
      rest(.idle)
    }
  }

  private mutating func rest(_ step: ReaderStep) {
    s.reader.purpose = .read
    s.reader.atEnd = Current()
    s.reader.step = step
  }

  /// Waiting, and the end.
  mutating func stepWaiting() {
    switch s.reader.step {
    case .arm:
      s.memory.waiters = true
      if broken == .armDropsLook { s.memory.look = false }
      if broken == .sleepsWithoutLooking { rest(.asleep) } else { startClaim(.beforeSleep) }
    case .asleep:
      s.memory.event = false
      rest(.idle)
    case .endCurrent:
      s.reader.atEnd = s.memory.current
      if s.reader.atEnd.isClosed { return startClaim(.end) }
      restBeforeEnd()
    case .endEntry:
      let end = s.reader.atEnd
      let position = s.reader.position
      let isSealed =
        position.seq == end.seq && position.entry < entryCount
        && entry(end.subbuf, position.entry).isSeal(lap(end.seq))
      let isEnd = end.seq == 0 || isSealed || broken == .endBeforeSeal
      guard isEnd else { return restBeforeEnd() }
      noteEnd()
      rest(.atEnd)
    default: preconditionFailure("not waiting")
    }
  }

  private mutating func restBeforeEnd() {
    hasRested = !bounds.sleeps
    rest(bounds.sleeps ? .asleep : .idle)
  }

  private mutating func noteEnd() {
    for r in 1..<s.records.count
    where s.records[r].fate == .committed || s.records[r].fate == .reserved {
      fail("end of file before all records")
    }
  }
}

// Reset, and another reader.
extension World {
  /// The reader's process dies; the next one has nothing but the position. Sweeps begin anew.
  mutating func restartReader() {
    s.restarts += 1
    let position = s.reader.position
    s.reader = ReaderState(step: .clearLoad, position: position, mayReclaim: true)
    if broken == .pinsOutliveReader { s.reader.step = .idle }
    s.sweeper = SweeperState(swept: s.sweeper.swept)
  }

  mutating func clearPins() {
    let state = s.reader.state
    s.reader.state = SubbufState()
    if s.reader.step == .clearLoad {
      s.reader.state = self[s.reader.k]
      if s.reader.state.pins != 0 {
        s.reader.step = .clear
        return
      }
    } else if !swap(s.reader.k, state, state.with(pins: 0)) {
      s.reader.step = .clearLoad
      return
    }
    s.reader.state = SubbufState()
    s.reader.k = (s.reader.k + 1) % subbufCount
    s.reader.step = s.reader.k == 0 ? .idle : .clearLoad
  }

  mutating func startReset() {
    if s.reader.step == .idle { s.resets += 1 }
    s.reader.purpose = .reset
    s.reader.current = Current()
    s.reader.subbuf = 0
    s.reader.seq = 0
    s.reader.step = .resetCurrent
  }

  mutating func stepReset() {
    switch s.reader.step {
    case .resetCurrent:
      let current = s.memory.current
      guard current.seq != 0 else { return rested() }
      s.reader.current = current
      s.reader.subbuf = current.subbuf
      s.reader.seq = current.seq
      s.reader.step = .pinLoad
    case .resetBase:
      let base = s.memory.recordBase[Int(s.reader.current.subbuf)]
      s.reader.position = Position(
        seq: s.reader.current.seq, subbuf: s.reader.current.subbuf, entry: s.hands.i,
        offset: s.hands.start, record: base + s.hands.i, walkedFromStart: false)
      s.forgotten = s.reader.position.record
      nextUnpin()
    default:
      var hands = s.hands
      step(&hands, owner: World.handsOwner)
      s.hands = hands
      guard hands.step == .finished else { return }
      if s.reader.step == .resetFlush { return rested() }
      if hands.current.seq == 0 { nextUnpin() } else { s.reader.step = .resetBase }
    }
  }

  /// The current sub-buffer is pinned: now to its end.
  mutating func startSealing() {
    var hands = Thread(operation: .sealEnd, current: s.reader.current)
    lookForFrontier(&hands, .flush)
    s.hands = hands
    s.reader.step = .resetSeal
  }

  private mutating func resetUnpinned() {
    let isSealed = s.hands.current.seq != 0
    s.hands = Thread()
    if isSealed {
      s.reader.current = Current()
      s.reader.seq = 0
      startReclaim()
    } else {
      startReset()
    }
  }

  mutating func startFlush() {
    s.hands = Thread(operation: .flush)
    s.reader.step = .resetFlush
  }

  private mutating func rested() {
    s.hands = Thread()
    s.reader.current = Current()
    s.reader.seq = 0
    s.reader.subbuf = 0
    rest(.idle)
  }
}
