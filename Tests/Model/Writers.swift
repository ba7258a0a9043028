// SPDX-License-Identifier: Apache-2.0
// The writers' steps, as in Sources/Relay/Writer.swift: reserve, commit, cancel. The switch is in
// Switching.swift.

/// The next access of a writer to shared memory. In the comments: the code's test point that is
/// reached right after it.
enum WriterStep: UInt8 {
  case start  // loadedCurrent
  // ChannelBuffer.reserve, the fast path.
  case fastHint, fastBefore
  case fastFrontier  // sawFrontier
  // walkAndReserve.
  case loadCurrent  // loadedCurrent
  // isRefused().
  case refusal
  // frontier(), called by walkAndReserve, seal() and flush().
  case frontierHint, frontierBefore
  case frontierWalk  // sawFrontier, if for walkAndReserve
  // take().
  case reread  // rereadCurrent
  case reserve  // reserved
  case storeHint  // hinted
  case copy
  case commit  // committed
  case wakeLoad, lookClear, wakeTake, wakeSignal
  // seal().
  case sealReread  // rereadBeforeSeal
  case seal  // sealed
  // openIfClaimed().
  case openLoad
  case open  // opened
  // chooseNext().
  case chooseFree, chooseOldest
  case busyScan  // choseNext, as after chooseFree
  case confirmFull
  // switchSubbuf(), prepare(), fill().
  case lookAgain
  case claim  // claimed
  case loadBase, storeBase
  case clear  // preparedNext
  case bound
  case publish  // published
  case giveBack  // gaveBack
  case openNext  // openedNext
  case fillLoad
  case fill  // filledPrevious
  case switchWakeLoad, switchWakeTake, switchWakeSignal
  // flush().
  case flushCheck
  // Wake.waitForSpace().
  case wishForSpace, spaceCurrent, spaceFree, sleep, asleep
  case finished
  /// Killed.
  case dead
}

extension World {
  /// One access to shared memory, and what follows from it up to the next one.
  mutating func step(_ t: inout Thread, owner: UInt8) {
    let lap = lap(t.current.seq)
    switch t.step {
    case .start: begin(&t)

    case .fastHint, .fastBefore, .fastFrontier: fast(&t, lap)
    case .loadCurrent:
      t.current = s.memory.current
      if t.current.isClosed { return finish(&t, .refused) }
      if t.current.seq == 0, broken != .zeroIsASubbuf { return chooseNext(&t) }
      if bounds.isBounded { t.step = .refusal } else { lookForFrontier(&t, .reserve) }
    case .refusal:
      if isRefused(owner) { return finish(&t, .refused) }
      lookForFrontier(&t, .reserve)

    case .frontierHint, .frontierBefore, .frontierWalk: frontier(&t, lap)
    case .reread:
      guard s.memory.current == t.current || broken == .noRereadBeforeReserving else {
        return again(&t)
      }
      t.step = .reserve
    case .reserve:
      let found = entry(t.current.subbuf, t.i)
      guard found == t.seen || broken == .inexactSwap && found.isEmpty(lap) else {
        return again(&t)
      }
      store(t.current.subbuf, t.i, Entry(tag: .busy, lap: owner, end: t.start + t.operation.length))
      noteReserved(t)
      t.seen = Entry()
      t.step = .storeHint
    case .storeHint:
      s.memory.hint = Hint(
        seq: hintBits(t.current.seq), count: t.i + 1,
        end: t.hintsEnd ? .max / 2 : t.start + t.operation.length)
      if t.operation == .leave { return finish(&t) }
      t.step = broken == .committedBeforeCopied ? .commit : .copy
    case .copy:
      copyPayload(t)
      if broken == .committedBeforeCopied { return afterCommit(&t) }
      t.step = .commit
    case .commit: commit(&t, lap)
    case .wakeLoad, .lookClear, .wakeTake, .wakeSignal: wakeReader(&t)
    case .finished, .dead, .asleep: preconditionFailure("a writer that does nothing any more")
    default: stepSwitch(&t, owner: owner)
    }
  }

  private mutating func fast(_ t: inout Thread, _ lap: UInt8) {
    switch t.step {
    case .fastHint:
      let hint = s.memory.hint
      guard !t.current.isClosed, hint.seq == hintBits(t.current.seq), hint.count > 0,
        hint.count < entryCount - 1, hint.end + t.operation.length <= size
      else { return again(&t) }
      t.i = hint.count
      t.start = hint.end
      t.step = broken == .hintTrusted ? .fastFrontier : .fastBefore
    case .fastBefore:
      let before = Entry(tag: .committed, lap: lap, end: t.start)
      guard entry(t.current.subbuf, t.i - 1) == before else { return again(&t) }
      t.step = .fastFrontier
    default:
      t.seen = entry(t.current.subbuf, t.i)
      guard t.seen.isEmpty(lap) else { return again(&t) }
      t.step = .reread
    }
  }

  private mutating func begin(_ t: inout Thread) {
    t.current = s.memory.current
    switch t.operation {
    case .write, .writeTwo, .cancel, .leave: t.step = .fastHint
    case .flush, .sealEnd:
      if t.current.seq == 0 { return finish(&t) }
      lookForFrontier(&t, .flush)
    case .close:
      s.memory.current.isClosed = true
      t.current.isClosed = true
      afterClosing(&t)
    }
  }

  mutating func lookForFrontier(_ t: inout Thread, _ purpose: Thread.Purpose) {
    t.purpose = purpose
    t.i = 0
    t.start = 0
    t.step = .frontierHint
  }

  private mutating func frontier(_ t: inout Thread, _ lap: UInt8) {
    switch t.step {
    case .frontierHint:
      let hint = s.memory.hint
      t.step = .frontierWalk
      if hint.seq == hintBits(t.current.seq), hint.count > 0, hint.count <= entryCount - 1 {
        t.i = hint.count
        t.start = hint.end
        if broken != .hintTrusted { t.step = .frontierBefore }
      }
    case .frontierBefore:
      let before = entry(t.current.subbuf, t.i - 1)
      let isThisLap = !before.isEmpty(lap) && !before.isSeal(lap)
      t.start = isThisLap ? before.end : 0
      if !isThisLap { t.i = 0 }
      t.step = .frontierWalk
    default:
      guard t.start <= size, t.i < entryCount else { return fail("a writer finds corrupt entries") }
      let found = entry(t.current.subbuf, t.i)
      if found.isEmpty(lap) { return atFrontier(&t, found) }
      if found.isSeal(lap) { return atSeal(&t) }
      guard t.i < entryCount - 1 else { return fail("a writer finds corrupt entries") }
      t.start = found.end
      t.i += 1
    }
  }

  private mutating func atFrontier(_ t: inout Thread, _ seen: Entry) {
    let last = broken == .recordInLastEntry ? entryCount : entryCount - 1
    switch t.purpose {
    case .reserve:
      guard t.i < last, t.start + t.operation.length <= size else { return leave(&t) }
      if bounds.isBounded {
        if t.i > 0 { noteIfOpen(t.current, t.i - 1) }
        t.hintsEnd = s.memory.named != 0 && broken != .hintsGoodWhileNamed
      }
      t.seen = seen
      t.step = .reread
    case .seal:
      t.seen = seen
      t.step = .sealReread
    case .flush:
      if t.i != 0 { return leave(&t) }
      if t.operation == .sealEnd { t.step = .finished } else { finish(&t) }
    }
  }

  private mutating func atSeal(_ t: inout Thread) {
    if t.purpose == .seal { afterSeal(&t) } else { leave(&t) }
  }

  /// The short way did not work, or a race was lost: once more from the start, the long way.
  mutating func again(_ t: inout Thread) {
    t.forget()
    t.step = .loadCurrent
  }

  private mutating func commit(_ t: inout Thread, _ lap: UInt8) {
    let isCancelled = t.operation == .cancel
    let committed = Entry(
      tag: isCancelled ? .cancelled : .committed, lap: lap, end: t.start + t.operation.length)
    store(t.current.subbuf, t.i, committed)
    noteCommitted(t, isCancelled)
    if broken == .committedBeforeCopied { t.step = .copy } else { afterCommit(&t) }
  }

  /// After a commit.
  private mutating func wakeReader(_ t: inout Thread) {
    switch t.step {
    case .wakeLoad:
      let isWanted = s.memory.waiters
      if s.memory.look, t.record % 2 == 0 {
        t.k = isWanted ? 1 : 0
        t.step = .lookClear
      } else if isWanted {
        t.step = .wakeTake
      } else {
        finish(&t)
      }
    case .lookClear:
      s.memory.look = false
      s.lookCleared = true
      if broken == .lookClearTakesWish { s.memory.waiters = false }
      if t.k == 1 { t.step = .wakeTake } else { finish(&t) }
    case .wakeTake:
      let isOurs = s.memory.waiters
      takeWish()
      if isOurs { t.step = .wakeSignal } else { finish(&t) }
    default:
      s.memory.event = true
      finish(&t)
    }
  }

  /// Takes the reader's wish, and leaves the other bit of its word alone.
  mutating func takeWish() {
    s.memory.waiters = false
    if broken == .wishTakenWithLook { s.memory.look = false }
  }

  private mutating func afterCommit(_ t: inout Thread) {
    if bounds.sleeps { t.step = .wakeLoad } else { finish(&t) }
  }

  /// The operation is done; the next one, if any, begins.
  mutating func finish(_ t: inout Thread, _ fate: Record.Fate? = nil) {
    if let fate, t.operation.isRecord { s.records[Int(t.record)].fate = fate }
    if t.operation == .close { s.closed = true }
    t.forget()
    t.step = .finished
    t.record = 0
  }

  private mutating func copyPayload(_ t: Thread) {
    for cell in t.start..<t.start + t.operation.length {
      let at = t.current.subbuf * size + cell
      if s.reader.claimed & 1 << at != 0 { fail("what the reader is sending is overwritten") }
      s.memory.payload[Int(at)] = t.record
    }
  }
}

extension Thread {
  /// Nothing it saw matters any more.
  mutating func forget() {
    self = Thread(step: step, operation: operation, record: record, next: next)
  }
}
