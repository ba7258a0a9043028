// SPDX-License-Identifier: Apache-2.0
// What must hold in every reachable state: writers that stop hold up nobody, and when all are
// killed and swept, everything committed is delivered and the ring goes on.

extension World {
  /// More steps than any operation takes alone.
  private static let patience = 400

  /// This state with the writers stopped for good: what the checks below start from. Many states
  /// have the same one.
  func stopped() -> State {
    var stopped = s
    let isAnyMidway = (0..<State.writerCount).contains { s.writers[$0].isMidway }
    for w in 0..<State.writerCount {
      let isMidway =
        s.writers[w].isMidway || s.writers[w].step == .dead || hasLeftOpen(w)
        || bounds.isOneProcess && isAnyMidway
      stopped.writers[w] = Thread(step: isMidway ? .dead : .finished)
    }
    stopped.kills = 0
    stopped.resets = 0
    return stopped
  }

  /// What `current` names is CLAIMED, OPEN or FULL with its seq; else the reader takes it for
  /// corrupt.
  func checkCurrent() -> String? {
    let current = s.memory.current
    let state = self[current.subbuf]
    guard current.seq != 0, state.seq != current.seq || state.phase == .free else { return nil }
    return "`current` names sub-buffer \(current.subbuf), which is \(state.phase)"
  }

  /// Writer `w` alone: what it is doing comes to an end.
  func checkAlone(_ w: Int) -> String? {
    var world = self
    for _ in 0..<World.patience {
      let next = world.s.writers[w].next
      world.perform(.write(w))
      if let failure = world.failure { return "writer \(w + 1) going on alone: \(failure)" }
      let thread = world.s.writers[w]
      if thread.step == .finished || thread.step == .asleep || thread.next != next { return nil }
    }
    return "writer \(w + 1) gets nowhere alone"
  }

  /// All others are stopped, some in the middle of something: a newcomer is not held up, and gets
  /// through in overwrite mode if there are enough sub-buffers.
  func checkNewcomer() -> String? {
    var world = self
    let fate = world.writeFresh()
    if let failure = world.failure { return "a newcomer among stopped writers: \(failure)" }
    guard let fate else { return "a newcomer is held up by stopped writers" }
    guard bounds.overwrites, !s.memory.current.isClosed else { return nil }
    // Each stopped one holds one, and so does each pin; one is current, and one is left.
    var held = s.hands.isMidway ? 1 : 0
    for w in 0..<State.writerCount where isUnswept(w) { held += 1 }
    for k in 0..<Int(subbufCount) where s.memory.states[k].pins > 0 { held += 1 }
    // Beside what it leaves open, a process may be stopped in a switch.
    if bounds.isBounded { for k in 0..<subbufCount where self[k].phase == .claimed { held += 1 } }
    if held + 2 <= Int(subbufCount), fate != .committed {
      return "a newcomer is refused though only \(held) of \(subbufCount) sub-buffers are held"
    }
    return nil
  }

  /// Everybody is killed, wherever they are: sweep, drain, write anew.
  func checkRecovery() -> String? {
    var world = self
    if let what = world.sweepAll() ?? world.unswept() ?? world.drain() ?? world.leftBehind() {
      return "all killed: \(what)"
    }
    return world.checkGoesOn()
  }

  private mutating func sweepAll() -> String? {
    for _ in 0..<World.patience {
      guard s.sweeper.step != .idle || nextToSweep != nil else { return nil }
      perform(.sweep)
      if let failure { return failure }
    }
    return "the sweep does not end"
  }

  /// Reads until there is nothing.
  private mutating func drain() -> String? {
    // A claim in progress may have passed what was done since.
    var claims = s.reader.step == .idle ? 1 : 2
    for _ in 0..<2 * World.patience {
      guard canRead else { return nil }
      perform(.read)
      if let failure { return failure }
      if hasRested { claims -= 1 }
      if claims == 0 { return nil }
    }
    return "the reader does not come to rest"
  }

  /// What the dead left unfinished. The reader's own claim is in good hands.
  private func unswept() -> String? {
    for k in 0..<subbufCount {
      if self[k].phase == .claimed, self[k].owner != World.handsOwner {
        return "sub-buffer \(k) stays claimed"
      }
      for i in 0..<entryCount where entry(k, i).tag == .busy {
        return "entry \(i) of sub-buffer \(k) stays busy"
      }
    }
    return nil
  }

  private func leftBehind() -> String? {
    for r in 1..<s.records.count {
      let record = s.records[r]
      let isOpen = record.fate == .committed || record.fate == .reserved
      guard isOpen, record.rank >= s.forgotten else { continue }
      return "record \(r) is \(record.fate) and never delivered"
    }
    if s.memory.current.seq != 0, s.reader.position.record != s.reserved {
      return "\(s.reserved) records reserved, \(s.reader.position.record) counted"
    }
    if s.closed, s.reader.step != .atEnd { return "the end of a closed channel is not seen" }
    return nil
  }

  /// Fresh writers go once round the ring, the reader behind them.
  private mutating func checkGoesOn() -> String? {
    let perSubbuf = min(size, entryCount - 1)
    for _ in 0...(subbufCount * perSubbuf) {
      let fate = writeFresh()
      if let failure { return "a fresh writer after recovery: \(failure)" }
      if s.memory.current.isClosed {
        return fate == .refused ? nil : "a fresh record in a closed channel"
      }
      guard fate == .committed else { return "a fresh writer does not get through after recovery" }
      if let what = drain() { return "reading after recovery: \(what)" }
      guard s.records[Int(World.freshRecord)].fate == .delivered else {
        return "a record written after recovery is not delivered"
      }
    }
    return nil
  }

  /// What becomes of one more record, from a new process; nil if it gets nowhere.
  mutating func writeFresh() -> Record.Fate? {
    s.records[Int(World.freshRecord)] = Record()
    var thread = Thread(record: World.freshRecord)
    for _ in 0..<World.patience {
      step(&thread, owner: World.freshOwner)
      if thread.step == .finished { return s.records[Int(World.freshRecord)].fate }
    }
    return nil
  }
}
