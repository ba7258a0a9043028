// SPDX-License-Identifier: Apache-2.0
// How soon writers notice that relayd is gone. The writer of each 512th record looks; where those
// take longer than a second, the look bit beside the reader's wish makes every commit look.
//
// relayd sets the bit in new memory, and where it finds fewer than 512 records a second; so does
// a writer whose last look by number is more than a second ago. A writer that finds 512 records in
// a second clears it: then the number bounds the time.

internal import Synchronization

extension ChannelBuffer {
  /// Records between two looks by number.
  private static var recordsBetweenLooks: UInt64 { UInt64(lookMask) + 1 }

  /// Records reserved so far, but for a few; in hostile memory, any number.
  private var roughlyReserved: UInt64 {
    let current = loadCurrent()
    guard current.seq != 0, current.subbuf < layout.subbufCount else { return 0 }
    // Relaxed, both: an estimate.
    let hint = Hint(raw: hint.pointee.load(ordering: .relaxed))
    let base = recordBase(current.subbuf).pointee.load(ordering: .relaxed)
    return base &+ (hint.isFor(current.seq) ? UInt64(hint.count) : 0)
  }

  /// Has every commit look whether relayd lives.
  func askForLooks() {
    // Relaxed: it orders nothing, and the wish beside it stays as it is.
    guard waiters.pointee.load(ordering: .relaxed) & Wish.look == 0 else { return }
    waiters.pointee.bitwiseOr(Wish.look, ordering: .relaxed)
  }

  /// A number of records at some moment.
  struct PaceSample {
    var milliseconds = Int.min / 2
    var records: UInt64 = 0

    /// Once a second: whether fewer came since than are looked at by number.
    mutating func isSlow(_ buffer: ChannelBuffer) -> Bool {
      let now = Clock.coarseMilliseconds()
      let passed = now &- milliseconds
      guard passed >= 1000 else { return false }
      let records = buffer.roughlyReserved
      let came = records &- self.records
      self.records = records
      milliseconds = now
      // Of the first sample nothing is known.
      guard passed < 1 << 40 else { return false }
      return came / recordsBetweenLooks < UInt64(passed) / 1000
    }
  }

  /// What one process knows of the pace of one buffer: estimates; a race of two threads costs some
  /// looks.
  struct Pace: ~Copyable {
    private let milliseconds = RelaxedInt(.min / 2)
    private let records = RelaxedInt(0)
    private let lookedByNumber = RelaxedInt(.min / 2)

    /// After a look that the bit led to: clears it where the number of records bounds the time.
    func settle(_ buffer: ChannelBuffer, _ waiters: SharedWord) {
      let now = Clock.coarseMilliseconds()
      let reserved = Int(truncatingIfNeeded: buffer.roughlyReserved)
      if now &- milliseconds.value >= 1000 {
        records.value = reserved
        milliseconds.value = now
      } else if reserved &- records.value >= Int(recordsBetweenLooks) {
        // Relaxed: it orders nothing, and the wish beside it stays as it is.
        waiters.pointee.bitwiseAnd(~Wish.look, ordering: .relaxed)
        lookedByNumber.value = now
      }
    }

    /// At a look by number.
    func noteLook(_ buffer: ChannelBuffer) {
      let now = Clock.coarseMilliseconds()
      if now &- lookedByNumber.exchange(now) > 1000 { buffer.askForLooks() }
    }
  }
}

extension Reader {
  /// At each way over the buffer, and before each sleep: has slow writers look.
  func keepPace() {
    // Without a store nobody else writes there.
    if store != nil, !isPeeking, paceSample.isSlow(buffer) { buffer.askForLooks() }
  }
}

extension Lifeline {
  /// nil: a buffer of an era that is over.
  private func pace(of buffer: ChannelBuffer) -> UnsafeMutablePointer<ChannelBuffer.Pace>? {
    let layout = era.pointee.layout
    let offset = buffer.base - layout.memory
    guard offset >= 0, offset < slots.count * layout.stride else { return nil }
    return paces + offset / layout.stride
  }

  /// At a commit whose buffer has a wish, or asks for looks. False: no daemon serves the memory.
  func look(at waiters: SharedWord) -> Bool {
    guard look() else { return false }
    // Relaxed: an estimate follows.
    guard waiters.pointee.load(ordering: .relaxed) & Wish.look != 0 else { return true }
    // The words of a wish lie in the buffer's first page.
    let base = UnsafeMutableRawPointer(bitPattern: UInt(bitPattern: waiters) & ~4095)
    let buffer = ChannelBuffer(
      base: base.unsafelyUnwrapped,
      layout: UnsafeRawPointer(era).assumingMemoryBound(to: ChannelBuffer.Layout.self))
    if LiveWords(page: era.pointee.page).knowsLooks {
      pace(of: buffer)?.pointee.settle(buffer, waiters)
    } else {
      // Relaxed: as there.
      waiters.pointee.bitwiseAnd(~Wish.look, ordering: .relaxed)
    }
    return true
  }

  /// At a look by number, which found a daemon.
  func noteLook(by buffer: ChannelBuffer) {
    // Relaxed: as in `look`. The next outage begins anew.
    if outage.began.load(ordering: .relaxed) != 0 { _ = look() }
    guard LiveWords(page: era.pointee.page).knowsLooks else { return }
    pace(of: buffer)?.pointee.noteLook(buffer)
  }
}
