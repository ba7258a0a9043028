// SPDX-License-Identifier: Apache-2.0
// Descriptors that stand for an event: a wake, a timer, a signal. None of them ever blocks.

import CLinux
import Glibc

/// A counter that wakes whoever polls it. Any thread of this process may signal it; for other
/// processes there is `Doorbell`.
public struct EventFD: ~Copyable, Sendable {
  private let descriptor: FileDescriptor

  public init() throws(SystemError) {
    descriptor = FileDescriptor(owning: try check(clinux_eventfd(), "create eventfd"))
  }

  public var raw: CInt { descriptor.raw }

  /// A counter that is full is signalled already.
  public func signal() { EventFD.signal(raw) }

  public static func signal(_ raw: CInt) { _ = clinux_eventfd_signal(raw) }

  /// Back to unsignalled.
  public func drain() { EventFD.drain(raw) }

  public static func drain(_ raw: CInt) { _ = clinux_eventfd_drain(raw) }

  public consuming func take() -> FileDescriptor { descriptor }
}

/// A periodic timer on the monotonic clock, disarmed at first.
public struct TimerFD: ~Copyable, Sendable {
  private let descriptor: FileDescriptor

  public init() throws(SystemError) {
    descriptor = FileDescriptor(owning: try check(clinux_timerfd(), "create timerfd"))
  }

  public var raw: CInt { descriptor.raw }

  /// Fires once, after `milliseconds` (at least 1).
  public func arm(onceAfterMilliseconds milliseconds: Int) {
    set(UInt64(max(1, milliseconds)) * 1_000_000)
  }

  public func disarm() { set(0) }

  /// Forgets the expirations so far.
  public func drain() { _ = clinux_timerfd_drain(raw) }

  // A valid descriptor and valid times cannot fail.
  private func set(_ nanoseconds: UInt64) {
    let result = clinux_timerfd_set(raw, nanoseconds)
    precondition(result == 0, "timerfd_settime failed")
  }
}

/// Receives signals as events. They stay blocked in the creating thread and those it starts.
public struct SignalFD: ~Copyable, Sendable {
  private let descriptor: FileDescriptor

  /// Create it before any thread, or another thread gets the signal's default action.
  public init(_ signals: [CInt]) throws(SystemError) {
    descriptor = FileDescriptor(
      owning: try check(clinux_signalfd(signals, signals.count), "create signalfd"))
  }

  public var raw: CInt { descriptor.raw }

  /// The next pending signal; nil when there is none.
  public func next() -> CInt? {
    let signal = clinux_signalfd_next(raw)
    return signal > 0 ? signal : nil
  }
}
