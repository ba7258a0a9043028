// SPDX-License-Identifier: Apache-2.0
// A lock that lies where its user says.

import Synchronization

/// A lock in four bytes of memory, zero at first; a wiped one is free.
package struct Lock {
  /// 0 free, 1 held, 2 held and somebody may sleep.
  private let word: UnsafePointer<Atomic<UInt32>>

  package init(_ address: UnsafeMutableRawPointer) {
    word = UnsafePointer(address.assumingMemoryBound(to: Atomic<UInt32>.self))
  }

  package func locked<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    // Acquire, twice, with the release at the end: a holder sees what the one before did.
    if !word.pointee.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged {
      while word.pointee.exchange(2, ordering: .acquiring) != 0 {
        Futex.wait(UnsafeRawPointer(word), expected: 2, timeoutMilliseconds: -1)
      }
    }
    defer { unlock() }
    return try body()
  }

  /// nil, without waiting, where somebody holds it.
  package func lockedIfFree<R>(_ body: () -> R) -> R? {
    // Acquire: as above.
    guard word.pointee.compareExchange(expected: 0, desired: 1, ordering: .acquiring).exchanged
    else { return nil }
    defer { unlock() }
    return body()
  }

  private func unlock() {
    // Release: pairs with the acquires of who comes next.
    if word.pointee.exchange(0, ordering: .releasing) == 2 {
      Futex.wake(UnsafeRawPointer(word), count: 1)
    }
  }
}
