// SPDX-License-Identifier: Apache-2.0
// Waking whoever sleeps: the reader through the channel's doorbell, or its buffer's own, writers
// through a futex.

internal import CLinux
internal import Glibc
internal import LinuxIO
internal import Synchronization

@usableFromInline
enum Wake {
  /// Instead of a channel's doorbell: each buffer has its own bell, or none, to which its header
  /// points. For private memory only: another process could store any address there.
  static let eachBuffer: CInt = -2

  /// Takes the reader's wish and signals it: one system call per sleep, however many records. Where
  /// relayd wants writers to look whether it lives, looks.
  @usableFromInline
  static func reader(_ waiters: SharedWord, _ target: WakeTarget) {
    // The wish stays where nobody serves the memory, so that every commit comes here: one of them
    // finds the next daemon.
    if let lifeline = target.lifeline, !lifeline.pointee.look(at: waiters) { return }
    // Relaxed: as the load that led here.
    guard waiters.pointee.load(ordering: .relaxed) & Wish.wake != 0 else { return }
    // Acquire-release: only one writer gets the bit; the reader's loads after its wake see all that
    // this writer committed before.
    let taken = waiters.pointee.bitwiseAnd(~Wish.wake, ordering: .acquiringAndReleasing).oldValue
    guard taken & Wish.wake != 0 else { return }
    guard target.isEachBuffer else { return target.ring() }
    if let button = ownButton(waiters) { clinux_guarded_ring(button) }
  }

  private static func ownButton(_ waiters: SharedWord) -> UnsafeMutablePointer<clinux_guarded>? {
    // The words of a wish lie in the buffer's first page, which begins with the header.
    let base = UnsafeRawPointer(bitPattern: UInt(bitPattern: waiters) & ~4095).unsafelyUnwrapped
    let word = SharedWord((base + 32).assumingMemoryBound(to: Atomic<UInt64>.self))
    // Relaxed: stored before the wish was, and taking that acquired it.
    return UnsafeMutablePointer(bitPattern: UInt(word.pointee.load(ordering: .relaxed)))
  }

  /// Orders this thread's store before every other process's next load of it; where the kernel
  /// lacks the membarrier, the reader's coarse tick bounds what a missed wish costs.
  static func barrier() { _ = Membarrier.issue() }

  /// Wakes the writers that sleep until a sub-buffer is free.
  static func writers(_ buffer: ChannelBuffer) {
    // Sequentially consistent: between the FREE before it and this load no reordering; pairs with
    // the waiting writer's store of 1 followed by its look at the states.
    guard buffer.spaceWaiters.pointee.exchange(0, ordering: .sequentiallyConsistent) != 0 else {
      return
    }
    Futex.wake(buffer.spaceWaiters, count: .max)
  }

  /// Sleeps until a sub-buffer is freed, `current` moves on from `seen`, or the time is over.
  static func waitForSpace(in buffer: ChannelBuffer, unless seen: Current, milliseconds: Int) {
    // Sequentially consistent: pairs with the exchange in `writers`.
    buffer.spaceWaiters.pointee.store(1, ordering: .sequentiallyConsistent)
    guard buffer.loadCurrent() == seen, !buffer.hasFreeSubbuf else { return }
    // The tick bounds what a freeing process that was killed before its wake can cost.
    Futex.wait(buffer.spaceWaiters, expected: 1, timeoutMilliseconds: min(milliseconds, 250))
  }
}

package enum Clock {
  package static func milliseconds() -> Int { milliseconds(CLOCK_MONOTONIC) }

  /// The same to some milliseconds, at a tenth of the cost.
  static func coarseMilliseconds() -> Int { milliseconds(CLOCK_MONOTONIC_COARSE) }

  /// That the calling thread has run.
  static func threadMilliseconds() -> Int { milliseconds(CLOCK_THREAD_CPUTIME_ID) }

  /// The same, for turns of less than a millisecond.
  package static func threadNanoseconds() -> Int {
    var ran = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ran)
    return ran.tv_sec * 1_000_000_000 + ran.tv_nsec
  }

  package static func nanoseconds() -> Int {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1_000_000_000 + now.tv_nsec
  }

  private static func milliseconds(_ clock: clockid_t) -> Int {
    var now = timespec()
    clock_gettime(clock, &now)
    return now.tv_sec * 1000 + now.tv_nsec / 1_000_000
  }
}

extension Channel {
  /// Makes the bell that the writers of a buffer ring; there as long as the channel is.
  /// - Precondition: the channel wakes each buffer, and was not asked for this one's before.
  func makeBell(of buffer: ChannelBuffer) throws(SystemError) -> GuardedBell {
    let bell = try GuardedBell()
    wakeBells.withLock { $0.append(bell) }
    // Relaxed: the wish that is stored after it publishes it.
    buffer.ownButtonWord.pointee.store(
      UInt64(UInt(bitPattern: bell.buttonWords)), ordering: .relaxed)
    return bell
  }
}
