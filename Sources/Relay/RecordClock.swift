// SPDX-License-Identifier: Apache-2.0
// The clocks that a channel's records can carry the time of, how each is read on the write path,
// and where a writer's way parts for channels that have one.

internal import CRelayABI
internal import LinuxIO
internal import Synchronization

/// What the records' times of a channel are taken from.
@usableFromInline
package enum RecordClock: UInt8, CaseIterable, Sendable {
  /// CLOCK_MONOTONIC, in nanoseconds.
  case monotonic
  /// The processor's time stamp counter.
  case tsc

  var flags: UInt32 {
    self == .tsc ? RELAY_ABI_TIMESTAMPS | RELAY_ABI_TSC : RELAY_ABI_TIMESTAMPS
  }

  /// The fastest one that is the same on all processors.
  static let best: RecordClock = isTSCTrusted ? .tsc : .monotonic

  /// Even by the processor's word, and compared by the kernel, which drops it where the processors'
  /// counters differ.
  private static var isTSCTrusted: Bool {
    let path = "/sys/devices/system/clocksource/clocksource0/available_clocksource"
    guard crelay_tsc_is_invariant() != 0,
      let names = try? Files.contents(of: path, atMost: 4096)
    else { return false }
    return names.split { $0 <= UInt8(ascii: " ") }.contains { $0.elementsEqual("tsc".utf8) }
  }

  func now() -> UInt64 { self == .tsc ? relay_tsc() : crelay_monotonic() }
}

/// How the write path comes by a record's time.
@usableFromInline
package protocol Stamps {
  static var areTaken: Bool { get }
  static func now() -> UInt64
}

/// Records without times.
@frozen @usableFromInline
package enum NoStamps: Stamps {
  @inlinable @inline(__always) package static var areTaken: Bool { false }
  @inlinable @inline(__always) package static func now() -> UInt64 { 0 }
}

private enum MonotonicStamps: Stamps {
  static var areTaken: Bool { true }
  static func now() -> UInt64 { crelay_monotonic() }
}

private enum TSCStamps: Stamps {
  static var areTaken: Bool { true }
  @inline(__always) static func now() -> UInt64 { relay_tsc() }
}

extension Channel {
  /// Where every record goes that the fast path has not taken, all those with times among them: one
  /// more try at the place the hint names, where that was not one; then the long way.
  @usableFromInline @inline(never)
  func reserveOffPath(
    _ length: Int, in buffer: ChannelBuffer, owner: UInt16
  ) -> ChannelBuffer.Reserved {
    if case .tsc = buffer.layout.clock,
      let reserved = buffer.reserveAtHint(
        length, owner: owner, wakeFD: wakeTarget, NoTestPoints.self, TSCStamps.self)
    {
      return reserved
    }
    return reserveSlowly(length)
  }
}

extension ChannelBuffer {
  /// The same for who knows the buffer, with the long way in the right one.
  /// - Parameter era: as for `walkAndReserve`.
  func reserveOffPath<P: TestPoints>(
    _ length: Int, owner: UInt16, wakeFD: WakeTarget, _ era: UnsafeMutablePointer<Era>?,
    _ points: P.Type
  ) -> Reserved {
    switch layout.clock {
    case .tsc:
      if let reserved = reserveAtHint(
        length, owner: owner, wakeFD: wakeFD, points, TSCStamps.self)
      {
        return reserved
      }
      return home.walkAndReserve(
        length, owner: owner, wakeFD: wakeFD, era, points, TSCStamps.self)
    case .monotonic:
      // The clock costs more than the walk.
      return home.walkAndReserve(
        length, owner: owner, wakeFD: wakeFD, era, points, MonotonicStamps.self)
    case nil:
      return home.walkAndReserve(
        length, owner: owner, wakeFD: wakeFD, era, points, NoStamps.self)
    }
  }

  @usableFromInline
  func reserveOffPath<P: TestPoints>(
    _ length: Int, owner: UInt16, wakeFD: WakeTarget, _ points: P.Type
  ) -> Reserved {
    reserveOffPath(length, owner: owner, wakeFD: wakeFD, nil, points)
  }

  /// `take` for who does not know what kind of channel it is.
  func takeStamped(
    _ place: Place, _ length: Int, _ current: Current, _ seen: Entry, _ owner: UInt16,
    _ wakeFD: WakeTarget
  ) -> Reserved? {
    func take<S: Stamps>(_ stamps: S.Type) -> Reserved? {
      self.take(place, length, current, seen, owner, wakeFD, NoTestPoints.self, stamps)
    }
    return switch layout.clock {
    case .tsc: take(TSCStamps.self)
    case .monotonic: take(MonotonicStamps.self)
    case nil: take(NoStamps.self)
    }
  }
}
