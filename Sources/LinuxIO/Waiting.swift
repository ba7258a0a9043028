// SPDX-License-Identifier: Apache-2.0
// Waiting on a word of shared memory, on a descriptor, and the barrier that lets a writer's fast
// path go without one.

import CLinux
import Glibc

/// Waits on 32-bit words in memory shared between processes.
public enum Futex {
  public enum Outcome: Sendable {
    /// Woken, or interrupted: look at the word again either way.
    case woken
    /// The word did not hold the expected value.
    case changed
    case timedOut
  }

  /// Sleeps while `word` (aligned to 4) holds `expected`, at most `timeoutMilliseconds`
  /// (negative: without limit).
  @discardableResult
  public static func wait(
    _ word: UnsafeRawPointer, expected: UInt32, timeoutMilliseconds: Int
  ) -> Outcome {
    switch clinux_futex_wait(word, expected, Int64(timeoutMilliseconds)) {
    case -EAGAIN: .changed
    case -ETIMEDOUT: .timedOut
    default: .woken
    }
  }

  /// Wakes up to `count` waiters and returns how many.
  @discardableResult
  public static func wake(_ word: UnsafeRawPointer, count: Int) -> Int {
    max(0, Int(clinux_futex_wake(word, CInt(clamping: count))))
  }
}

/// The expensive half of an asymmetric barrier: GLOBAL_EXPEDITED.
public enum Membarrier {
  /// Lets this process take part; every producer calls it before its first write.
  /// False where the kernel lacks it.
  public static func register() -> Bool { clinux_membarrier_register() >= 0 }

  /// A full barrier on every running thread of all registered processes.
  /// False where the kernel lacks it.
  public static func issue() -> Bool { clinux_membarrier_issue() >= 0 }
}

/// One descriptor's readiness, for those that have no loop.
public enum Readiness {
  /// Waits until `fd` reports something asked for, a hang-up or an error; empty on time-out.
  /// A negative time-out waits without limit. No descriptor is an error, too.
  public static func wait(_ fd: CInt, _ interest: Events, timeoutMilliseconds: Int) -> Events {
    // poll(2) passes it over.
    guard fd >= 0 else { return .error }
    let bits = clinux_poll(
      fd, Int16(truncatingIfNeeded: interest.epoll), CInt(clamping: timeoutMilliseconds))
    // The low poll bits have epoll's values; POLLNVAL (a closed descriptor) is an error.
    if bits < 0 { return .error }
    let invalid = bits & CInt(POLLNVAL) != 0
    return Events(epoll: UInt32(bits)).union(invalid ? .error : [])
  }
}
