// SPDX-License-Identifier: Apache-2.0
// The sweep's steps, as in Sources/Relay/Recovery.swift.

enum SweeperStep: UInt8 {
  case idle
  // settleClaim().
  case settleLoad, settleCurrent, settle
  // discardBusy().
  case scanLoad, scan, lapLoad, discard
  // Channel.sweep(): takes the reader's wish and signals it.
  case wake
}

extension World {
  mutating func startSweep(_ w: Int) {
    s.sweeper.owner = owner(w)
    s.sweeper.step = .settleLoad
    s.sweeper.k = 0
  }

  private mutating func endSweep() {
    var swept = s.sweeper.swept
    for w in 0..<State.writerCount where s.writers[w].step == .dead && owner(w) == s.sweeper.owner {
      swept |= 1 << UInt8(w)
    }
    s.sweeper = SweeperState(swept: swept)
  }

  mutating func stepSweeper() {
    let k = s.sweeper.k
    switch s.sweeper.step {
    case .settleLoad:
      let state = self[k]
      s.sweeper.step = .scanLoad
      if state.phase == .claimed, state.owner == s.sweeper.owner {
        s.sweeper.state = state
        s.sweeper.step = .settleCurrent
      }
    case .settleCurrent:
      s.sweeper.current = s.memory.current
      s.sweeper.step = .settle
    case .settle: settle(k)
    case .scanLoad:
      let state = self[k]
      guard state.seq != 0, state.phase != .free,
        state.phase != .claimed || broken != .claimNotSearched
      else { return sweepNext() }
      s.sweeper.state = state
      s.sweeper.j = 0
      s.sweeper.step = .scan
    case .scan:
      let found = entry(k, s.sweeper.j)
      let lap = lap(s.sweeper.state.seq)
      if found.tag == .busy {
        if found.lap == s.sweeper.owner, broken != .busyNotSwept {
          s.sweeper.step = .lapLoad
          return
        }
      } else if found.isEmpty(lap) || found.isSeal(lap) {
        return sweepNext()
      }
      scanOn()
    case .lapLoad:
      s.sweeper.current.seq = self[k].seq
      s.sweeper.step = .discard
    case .discard:
      // BUSY does not change any more: its writer is dead.
      let end = entry(k, s.sweeper.j).end
      store(k, s.sweeper.j, Entry(tag: .discarded, lap: lap(s.sweeper.current.seq), end: end))
      noteDiscarded(of: s.sweeper.owner)
      s.sweeper.current = Current()
      s.sweeper.step = .scan
      scanOn()
    case .wake:
      if broken != .sweepWakesNobody {
        s.memory.waiters = false
        if broken == .sweepDropsLook { s.memory.look = false }
        s.memory.event = bounds.sleeps
        wakeWriters()
      }
      endSweep()
    case .idle: preconditionFailure("nothing to sweep")
    }
  }

  private mutating func settle(_ k: UInt8) {
    let state = s.sweeper.state
    let current = s.sweeper.current
    s.sweeper.state = SubbufState()
    s.sweeper.current = Current()
    s.sweeper.step = .scanLoad
    if current.subbuf == k, current.seq == state.seq {
      if broken == .claimNotOpened { return }
      _ = swap(k, state, SubbufState(phase: .open, seq: state.seq))
      if broken == .claimNotSearched { sweepNext() }
    } else {
      if broken == .claimNotFreed { return }
      let seq = broken == .statesRecur ? 0 : state.seq
      let owner = broken == .unpreparedUnmarked || broken == .statesRecur ? 0 : state.owner
      _ = swap(k, state, SubbufState(phase: .free, seq: seq, owner: owner))
    }
  }

  private mutating func scanOn() {
    s.sweeper.j += 1
    if s.sweeper.j == entryCount { sweepNext() }
  }

  private mutating func sweepNext() {
    s.sweeper.state = SubbufState()
    s.sweeper.j = 0
    s.sweeper.k += 1
    s.sweeper.step = s.sweeper.k == subbufCount ? .wake : .settleLoad
  }
}
