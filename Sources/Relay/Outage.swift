// SPDX-License-Identifier: Apache-2.0
// What a producer does while no relayd serves its memory. Records still go there for a while,
// because the next relayd may adopt it. After that, or where the next relayd refuses this process,
// writes are refused and counted until there is one that takes them. Safe in signal handlers.

internal import CLinux
internal import Glibc
internal import LinuxIO
internal import Synchronization

/// How soon the next try may come.
enum Urgency: Int {
  /// Writing goes on anyway, or is refused: a try costs some 10 us where nobody listens.
  case none = 100
  /// The daemon has closed the buffer at its end, as far as is known.
  case closed = 50
  /// The caller asked for it.
  case asked = 20
  /// The buffer is closed because another process found the next daemon: worth waiting for.
  case left = 0
  /// The process leaves the channel: its last chance to have counted what nobody reads.
  case leaving = -1
}

/// A producer's view of the time without a daemon.
struct Outage: ~Copyable {
  /// For so long after it began records still go into the memory.
  static var defaultGraceMilliseconds: Int { 10_000 }

  let graceMilliseconds = RelaxedInt(defaultGraceMilliseconds)
  /// When a look first found no daemon, by the monotonic clock; 0: the last look found one.
  let began = Atomic<Int>(0)
  /// Writes are refused.
  let isSuspended = Atomic<Bool>(false)
  /// Records refused, and not yet counted in memory that a daemon serves.
  let refused = Atomic<UInt64>(0)
  /// Records refused for other reasons while no daemon served the memory, which counts them, too:
  /// if it is left for another one, its counts are gone.
  let full = Atomic<UInt64>(0)
  let tooBig = Atomic<UInt64>(0)
  /// The last try met a daemon, which refused.
  let wasRefused = Atomic<Bool>(false)
  /// The next daemon has a channel of this name with another geometry: it closed this one for good.
  let isReplaced = Atomic<Bool>(false)
  /// When the last try was.
  let lastTry = RelaxedInt(.min / 2)
  /// No try before this: the last one had to wait, and in vain.
  let pausedUntil = RelaxedInt(.min / 2)
  let pauseMilliseconds = RelaxedInt(0)
  /// The thread that tries; 0: none does.
  let holder = Atomic<UInt32>(0)

  func isTooEarly(_ urgency: Urgency) -> Bool {
    let now = Clock.milliseconds()
    if now < lastTry.value + urgency.rawValue { return true }
    return urgency != .asked && urgency != .leaving && now < pausedUntil.value
  }

  /// After a try that waited in vain: the next ones come after 250, 500, then each 1000 ms, so that
  /// a daemon that answers again is found within a second.
  func backOff() {
    let now = Clock.milliseconds()
    guard now >= pausedUntil.value else { return }
    let pause = min(max(250, 2 * pauseMilliseconds.value), 1000)
    pauseMilliseconds.value = pause
    pausedUntil.value = now + pause
  }

  func forgetPause() {
    pauseMilliseconds.value = 0
    pausedUntil.value = .min / 2
  }

  /// Whether it has lasted for so long that the memory takes no more records.
  func isOverGrace() -> Bool {
    // Relaxed: whichever thread noticed first.
    let began = began.load(ordering: .relaxed)
    return began != 0
      && Clock.milliseconds() >= began + graceMilliseconds.value
  }
}

extension Lifeline {
  /// Whether a daemon serves the memory; where none does, looks for the next one's.
  func look(_ urgency: Urgency = .none) -> Bool {
    let seen = era
    guard seen.pointee.isOrphaned else {
      // Relaxed: what begins or ends beside this is seen by the next look.
      if outage.began.load(ordering: .relaxed) != 0 || isSuspended { endOutage() }
      return true
    }
    // Relaxed: as above.
    _ = outage.began.compareExchange(
      expected: 0, desired: max(1, Clock.milliseconds()), ordering: .relaxed)
    if rejoin(from: seen, urgency) { return true }
    // It may have been adopted meanwhile.
    guard seen.pointee.isOrphaned else {
      endOutage()
      return true
    }
    // Relaxed, both: set by this thread, or by one that will suspend writing itself.
    guard !outage.isReplaced.load(ordering: .relaxed) else { return false }
    if outage.wasRefused.load(ordering: .relaxed) || outage.isOverGrace() || urgency == .closed
      || urgency == .left
    {
      suspend(seen)
    }
    return false
  }

  /// Whether writes are refused.
  // Relaxed: the slow path looks once more before it refuses.
  var isSuspended: Bool { outage.isSuspended.load(ordering: .relaxed) }

  /// Runs `body` as the only thread that changes where the fast path writes; false, and nothing
  /// done, where another one is at it, or this one, further out.
  private func asHolder(_ body: () -> Void) -> Bool {
    let thread = UInt32(truncatingIfNeeded: clinux_thread())
    // Acquire, with the release at the end: a holder sees what the one before did.
    guard
      outage.holder.compareExchange(expected: 0, desired: thread, ordering: .acquiring).exchanged
    else { return false }
    defer { outage.holder.store(0, ordering: .releasing) }
    body()
    return true
  }

  /// From now on every record takes the slow path, which refuses it.
  private func suspend(_ seen: UnsafeMutablePointer<Era>) {
    _ = asHolder {
      // Relaxed: the slow path looks at the memory's words itself.
      guard era == seen, !outage.isSuspended.exchange(true, ordering: .relaxed) else { return }
      for cpu in 0..<slots.count {
        // Release: as in `begin`. The words there are zero: nobody finds a place for a record.
        slots.first[cpu].base.store(UInt(bitPattern: noBuffer), ordering: .releasing)
      }
    }
  }

  /// A daemon serves the memory. What cannot be done now, the next look does.
  private func endOutage() { _ = asHolder { endOutageHeld() } }

  /// The same for this memory or another, by the holder.
  func endOutageHeld() {
    // Relaxed, all: as above. The memory that is served has counted these two.
    outage.full.store(0, ordering: .relaxed)
    outage.tooBig.store(0, ordering: .relaxed)
    outage.began.store(0, ordering: .relaxed)
    outage.forgetPause()
    // Relaxed: as above.
    if outage.isSuspended.exchange(false, ordering: .relaxed) { direct(to: era) }
    countRefused()
  }

  /// Notes a record that was refused because no daemon would have read it.
  func noteRefused() {
    // Relaxed: a statistic.
    outage.refused.wrappingAdd(1, ordering: .relaxed)
    // Others may have left memory that nobody serves, and counted what is lost in it.
    if !outage.isSuspended.load(ordering: .relaxed), !era.pointee.isOrphaned { countRefused() }
  }

  /// Notes a record that was refused and counted in the memory of `era`.
  func noteRefused(_ result: WriteResult, in era: UnsafeMutablePointer<Era>) {
    guard era.pointee.isOrphaned else { return }
    // Relaxed, both: statistics.
    switch result {
    case .full, .holding: outage.full.wrappingAdd(1, ordering: .relaxed)
    case .tooBig: outage.tooBig.wrappingAdd(1, ordering: .relaxed)
    case .corrupt, .unserved, .closed, .written: break
    }
  }

  /// Counts in the memory that comes next what was refused in one that nobody served.
  func countRefused(in heir: ChannelBuffer) {
    // Relaxed, both: statistics.
    let full = outage.full.exchange(0, ordering: .relaxed)
    let tooBig = outage.tooBig.exchange(0, ordering: .relaxed)
    if full > 0 { heir.count(heir.lostFull, full) }
    if tooBig > 0 { heir.count(heir.lostTooBig, tooBig) }
  }

  /// Counts what was refused where readers see it.
  private func countRefused() {
    // Relaxed: as above.
    let count = outage.refused.exchange(0, ordering: .relaxed)
    guard count > 0 else { return }
    let heir = era.heir(0)
    heir.count(heir.lostRestart, count)
  }
}

extension Channel {
  /// Counts records of this process that were refused before it was attached.
  package func count(refusedElsewhere count: UInt64) {
    if count > 0 { home.count(home.lostRestart, count) }
  }

  /// Records that this process was refused because no relayd serves the channel, and that no
  /// relayd knows of yet: the next one counts them as lost by a restart.
  public var refusedUnserved: UInt64 {
    // Relaxed: a statistic.
    lifeline?.pointee.outage.refused.load(ordering: .relaxed) ?? 0
  }
}
