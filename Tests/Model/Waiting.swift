// SPDX-License-Identifier: Apache-2.0
// Writers that wait for space, as in Sources/Relay/Wake.swift. Taking the wish and waking those who
// sleep is one step here, and nobody looks again after a while by himself: what a kill in between
// can cost is a tick, in the code.

extension World {
  /// No sub-buffer can be had.
  mutating func refuse(_ t: inout Thread) {
    if bounds.refusesNothing, t.record != World.freshRecord {
      return fail("a writer that overwrites is refused")
    }
    if bounds.waits, t.operation.isRecord, t.record != World.freshRecord {
      t.step = .wishForSpace
    } else {
      finish(&t, .refused)
    }
  }

  mutating func wait(_ t: inout Thread) {
    switch t.step {
    case .wishForSpace:
      s.memory.spaceWaiters = true
      t.k = 0
      t.step = broken == .waitsWithoutLooking ? .sleep : .spaceCurrent
    case .spaceCurrent:
      if s.memory.current == t.current { t.step = .spaceFree } else { again(&t) }
    case .spaceFree:
      if self[t.k].phase == .free { return again(&t) }
      t.k += 1
      if t.k == subbufCount { t.step = .sleep }
    default:
      again(&t)
      if s.memory.spaceWaiters { t.step = .asleep }
    }
  }

  mutating func wakeWriters() {
    guard s.memory.spaceWaiters else { return }
    s.memory.spaceWaiters = false
    for w in 0..<State.writerCount where s.writers[w].step == .asleep {
      var thread = s.writers[w]
      again(&thread)
      s.writers[w] = thread
    }
  }

  /// The bit that makes slow writers look for relayd goes only by a writer that is not slow.
  func checkLook() -> String? {
    guard bounds.looks, !s.memory.look, !s.lookCleared else { return nil }
    return "slow writers no longer look whether relayd lives"
  }

  /// Nobody is in the middle of anything, and some writers sleep: not while there is space.
  func checkWaiting() -> String? {
    guard s.reader.step.isResting, s.sweeper.step == .idle, nextToSweep == nil else { return nil }
    var sleeps = false
    for w in 0..<State.writerCount {
      if s.writers[w].step == .asleep { sleeps = true } else if s.writers[w].isMidway { return nil }
    }
    guard sleeps else { return nil }
    if s.memory.current.isClosed { return "a writer sleeps in a closed channel" }
    var world = self
    return world.writeFresh() == .committed ? "a writer sleeps though there is space" : nil
  }
}
