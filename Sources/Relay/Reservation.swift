// SPDX-License-Identifier: Apache-2.0
// A record between its reservation and its end.

public import CRelayABI
public import Synchronization

/// Space for one record, invisible to readers until `commit()`. End it by `commit()` or `cancel()`:
/// readers wait at a record that is neither, until its process exits or they stall for too long.
@frozen
public struct Reservation: ~Copyable {
  /// Where the record's bytes go.
  public let bytes: UnsafeMutableRawBufferPointer
  @usableFromInline let entry: SharedWord
  @usableFromInline let committed: Entry
  @usableFromInline let base: UnsafeMutableRawPointer
  @usableFromInline let wakeFD: WakeTarget

  @inlinable
  init(
    bytes: UnsafeMutableRawBufferPointer, entry: SharedWord, committed: Entry,
    base: UnsafeMutableRawPointer, wakeFD: WakeTarget
  ) {
    self.bytes = bytes
    self.entry = entry
    self.committed = committed
    self.base = base
    self.wakeFD = wakeFD
  }
}

/// How a reservation ended: with space, or with a `WriteResult` that is not `.written`.
@frozen
public enum ReserveResult: ~Copyable {
  case reserved(Reservation)
  case refused(WriteResult)
}

extension Reservation {
  /// Makes the record visible to readers.
  @inlinable
  public consuming func commit() { _ = commit(NoTestPoints.self) }

  @inlinable @inline(__always)
  package consuming func commit<P: TestPoints>(_ points: P.Type) -> Bool {
    // Release: pairs with the reader's and the claim scan's acquiring entry loads, so who sees
    // COMMITTED sees the payload.
    entry.pointee.store(committed.raw, ordering: .releasing)
    guard P.reached(.committed) else { return false }
    wakeReader()
    return true
  }

  /// Gives the record up: readers skip its space.
  public consuming func cancel() {
    // Relaxed: a statistic.
    SharedWord((base + ChannelBuffer.cancelledOffset).assumingMemoryBound(to: Atomic<UInt64>.self))
      .pointee.wrappingAdd(1, ordering: .relaxed)
    // Release: as in commit.
    entry.pointee.store(committed.with(.cancelled).raw, ordering: .releasing)
    wakeReader()
  }

  @inlinable @inline(__always)
  func wakeReader() {
    // The compiler keeps commit and load in order; the CPU is made to by the membarrier that the
    // reader issues between its store to `waiters` and its last look at the data.
    relay_compiler_barrier()
    let waiters = SharedWord((base + 8).assumingMemoryBound(to: Atomic<UInt64>.self))
    // Relaxed: see above.
    if waiters.pointee.load(ordering: .relaxed) != 0 {
      Wake.reader(waiters, wakeFD)
    }
  }
}
