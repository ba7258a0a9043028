// SPDX-License-Identifier: Apache-2.0
// Going past a record whose writer lives and does not go on: stopped by a signal, or holding a
// reservation. Its sub-buffer stays as it is until the writer is done, so that it may still be.

internal import Synchronization

/// Keeps the time of one reader's wait for a record that is being written.
struct Stall {
  /// Milliseconds; nil: for ever.
  var timeout: Int?
  private var wait: Wait?
  /// What stands before this has been in the making for longer than the timeout.
  private var limit = Place(seq: 0, entry: 0)
  /// Passed, in sub-buffers that are still there.
  private(set) var passed: [Passed] = []
  /// Which of them is looked at next.
  private var next = 0

  struct Place: Comparable {
    var seq: UInt64
    var entry: Int

    static func < (a: Place, b: Place) -> Bool { (a.seq, a.entry) < (b.seq, b.entry) }
  }

  private struct Wait {
    let place: Place
    /// The frontier at that time: who had not reserved by then gets a time of its own.
    let frontier: Place
    let since: Int
  }

  struct Passed {
    let subbuf: Int
    let place: Place
    /// By a reset: it counts where it is given up later, and only then.
    var isForgotten = false
  }

  /// Milliseconds until the wait at `place` is over; nil: there is none, or it is for ever.
  func timeLeft(at place: Place) -> Int? {
    guard let wait, let timeout, wait.place == place else { return nil }
    return max(0, wait.since + timeout - Clock.milliseconds())
  }

  /// Whether the record at `place`, which somebody is writing, was waited for long enough.
  mutating func isOver(at place: Place, frontier: () -> Place) -> Bool {
    guard let timeout else { return false }
    if place < limit { return true }
    guard let wait, wait.place == place else {
      wait = Wait(place: place, frontier: frontier(), since: Clock.milliseconds())
      return false
    }
    guard Clock.milliseconds() - wait.since >= timeout else { return false }
    limit = wait.frontier
    self.wait = nil
    return place < limit
  }

  /// More than there are stopped writers; in hostile memory every entry may look like one. Those
  /// beyond stay counted as stalled, even if they are discarded later.
  static let passedLimit = 16384

  mutating func note(_ passed: [Passed]) {
    if !passed.isEmpty { self.passed += passed.prefix(Stall.passedLimit - self.passed.count) }
  }

  /// As many are looked at in a turn, so that it costs the same however many there are.
  static let looks = 256

  /// Keeps those of which it is so; looks at `count` of them at most, in turn.
  mutating func filter(_ count: Int, _ isKept: (Passed) -> Bool) {
    for _ in 0..<min(count, passed.count) {
      if next >= passed.count { next = 0 }
      if isKept(passed[next]) {
        next += 1
      } else {
        passed.swapAt(next, passed.count - 1)
        passed.removeLast()
      }
    }
  }

  mutating func forgetAll() {
    wait = nil
    passed = []
  }
}

extension Reader {
  /// How long a record that is being written may hold back what is behind it, in milliseconds;
  /// nil: for ever. Then it is passed and counted in `lostStalled`, completed later or not.
  public var stallTimeout: Int? {
    get { stall.timeout }
    set { stall.timeout = newValue }
  }

  /// Milliseconds after which a reader that waits should look again, since a record may be passed
  /// then; nil: nothing to look for.
  public var stallTimeLeft: Int? {
    stall.timeLeft(at: Stall.Place(seq: position.seq, entry: position.entry))
  }

  /// The same for a reader that waits for bytes: its last look may have come further than the
  /// position.
  public var stallTimeLeftForBytes: Int? {
    guard let end = looked?.position, end.isBehind(position) else { return stallTimeLeft }
    return stall.timeLeft(at: Stall.Place(seq: end.seq, entry: end.entry))
  }

  /// Whether to go past the BUSY entry at the plan's position. Where nothing is behind it, nobody
  /// waits for it.
  func mayPassBusy(_ subbuf: Int) -> Bool {
    let position = plan.position
    guard position.entry + 1 < buffer.layout.entryCount,
      !buffer.loadEntry(buffer.index(subbuf), position.entry + 1).isEmpty(position.seq)
    else { return false }
    return stall.isOver(at: Stall.Place(seq: position.seq, entry: position.entry)) {
      let current = buffer.loadCurrent()
      guard current.subbuf < buffer.layout.subbufCount else { return Stall.Place(seq: 0, entry: 0) }
      switch buffer.frontier(current) {
      case .empty(_, let entry, _), .sealed(let entry, _):
        return Stall.Place(seq: current.seq, entry: entry)
      case .corrupt: return Stall.Place(seq: 0, entry: 0)
      }
    }
  }

  func passBusy(_ subbuf: Int, _ entry: Entry) {
    let position = plan.position
    if plan.passed.count < Stall.passedLimit {
      let place = Stall.Place(seq: position.seq, entry: position.entry)
      plan.passed.append(Stall.Passed(subbuf: subbuf, place: place))
    }
    plan.position.advance(by: 1, to: entry.end)
    walkLeft -= 1
    plan.position.walkedFromStart = false
    plan.totals.stalled &+= 1
    plan.gap.stalled &+= 1
  }

  /// Looks again at some of what was passed, or at all of it. A record that was given up since then
  /// counts as aborted or cancelled, not as stalled.
  public func settlePassed(all: Bool = false) {
    guard !stall.passed.isEmpty else { return }
    settlePassed(atMost: all ? Int.max : Stall.looks) { _ in true }
  }

  /// The same of one sub-buffer, before it is freed: later its records are gone.
  func settlePassed(in subbuf: Int) {
    guard !stall.passed.isEmpty else { return }
    settlePassed(atMost: Int.max) { $0.subbuf == subbuf }
  }

  private func settlePassed(atMost count: Int, _ isMeant: (Stall.Passed) -> Bool) {
    var hasChanged = false
    stall.filter(count) { passed in
      guard isMeant(passed) else { return true }
      let seq = passed.place.seq
      guard buffer.loadState(passed.subbuf).seq == seq else { return false }
      let entry = buffer.loadEntry(buffer.index(passed.subbuf), passed.place.entry)
      if entry.isBusy { return true }
      guard
        entry.prefix == Entry.prefix(.discarded, seq)
          || entry.prefix == Entry.prefix(.cancelled, seq)
      else { return false }
      hasChanged = true
      totals.dead &+= 1
      if passed.isForgotten { origin.records &-= 1 } else { totals.stalled &-= 1 }
      return false
    }
    // Relaxed: a hint for the account.
    if stall.passed.isEmpty { isSettled.store(true, ordering: .relaxed) }
    if hasChanged { save() }
  }

  func notePassed(_ passed: [Stall.Passed]) {
    guard !passed.isEmpty else { return }
    stall.note(passed)
    // Relaxed: as above.
    isSettled.store(false, ordering: .relaxed)
  }

  /// Whether nothing was passed of which `settlePassed` may still change the account; from any
  /// thread.
  // Relaxed: as above.
  public var hasSettled: Bool { isSettled.load(ordering: .relaxed) }

  /// After a reset: the records that somebody is still writing behind the position.
  func noteForgotten() {
    var forgotten: [Stall.Passed] = []
    for subbuf in 0..<buffer.layout.subbufCount {
      let state = buffer.loadState(subbuf)
      guard state.isHeld, state.seq <= position.seq else { continue }
      let end = state.seq == position.seq ? position.entry : buffer.layout.entryCount
      var next = buffer.firstUnfinished(subbuf, seq: state.seq)
      while let entry = next, entry < end, forgotten.count < Stall.passedLimit,
        buffer.loadEntry(buffer.index(subbuf), entry).isBusy
      {
        let place = Stall.Place(seq: state.seq, entry: entry)
        forgotten.append(Stall.Passed(subbuf: subbuf, place: place, isForgotten: true))
        next = buffer.firstUnfinished(subbuf, seq: state.seq, from: entry + 1)
      }
    }
    notePassed(forgotten)
  }
}
