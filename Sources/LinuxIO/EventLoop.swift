// SPDX-License-Identifier: Apache-2.0
// A level-triggered epoll loop for one thread. Not an executor: no timers, no tasks, no queue
// but of what handlers put off until the events at hand are served; other threads reach it by
// signalling an EventFD that was added to it.

import CLinux
import Glibc

/// What a descriptor is asked for, and what it reported.
public struct Events: OptionSet, Sendable {
  public let rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  public static let read = Events(rawValue: 1)
  public static let write = Events(rawValue: 2)
  /// The other side is gone. Complete hang-ups are reported whether asked for or not; asking
  /// adds the half-closed case of a socket.
  public static let hangup = Events(rawValue: 4)
  /// Always reported.
  public static let error = Events(rawValue: 8)

  var epoll: UInt32 {
    var bits: UInt32 = 0
    if contains(.read) { bits |= EPOLLIN.rawValue }
    if contains(.write) { bits |= EPOLLOUT.rawValue }
    if contains(.hangup) { bits |= EPOLLRDHUP.rawValue }
    return bits
  }

  init(epoll bits: UInt32) {
    var events: Events = []
    if bits & EPOLLIN.rawValue != 0 { events.insert(.read) }
    if bits & EPOLLOUT.rawValue != 0 { events.insert(.write) }
    if bits & (EPOLLHUP.rawValue | EPOLLRDHUP.rawValue) != 0 { events.insert(.hangup) }
    if bits & EPOLLERR.rawValue != 0 { events.insert(.error) }
    self = events
  }
}

/// Receives the events of the descriptors it was added for, on the loop's thread.
public protocol EventHandler: AnyObject {
  func handle(_ events: Events, from fd: CInt)
}

/// Hands events to handlers. Keeps a handler alive as long as its descriptor is registered.
/// A handler may add, modify and remove any descriptor, its own too, while it runs.
public final class EventLoop {
  private struct Registration {
    // Changes at each add, so that an event of an earlier user of the same number is dropped.
    var generation: UInt32 = 0
    var isLast = false
    var handler: (any EventHandler)?
  }

  // More than there are connections to a server with the usual limits: one wait finds all that is
  // ready, whatever number that is.
  private static let batch = 8192

  private let epoll: FileDescriptor
  private let ready: UnsafeMutablePointer<epoll_event>
  // Indexed by descriptor number: numbers are small and reused.
  private var registrations: [Registration] = []
  private var isStopped = false
  /// How often it has waited for events.
  public private(set) var waitCount: UInt64 = 0
  private var deferred: [() -> Void] = []

  public init() throws(SystemError) {
    epoll = FileDescriptor(owning: try check(clinux_epoll(), "create epoll"))
    ready = .allocate(capacity: EventLoop.batch)
  }

  deinit { ready.deallocate() }

  /// Starts to watch `fd`, which stays the caller's. EEXIST if it is watched already, EPERM if
  /// it cannot be polled (a regular file).
  /// - Parameter isLast: of what comes at once, it is served after all that is not.
  public func add(
    _ fd: CInt, _ interest: Events, _ handler: any EventHandler, isLast: Bool = false
  ) throws(SystemError) {
    precondition(fd >= 0, "not a descriptor")
    while registrations.count <= Int(fd) { registrations.append(Registration()) }
    let generation = registrations[Int(fd)].generation &+ 1
    try check(
      clinux_epoll_add(epoll.raw, fd, interest.epoll, token(fd, generation)),
      "watch descriptor \(fd)")
    registrations[Int(fd)] = Registration(
      generation: generation, isLast: isLast, handler: handler)
  }

  /// Changes what a watched descriptor is asked for.
  public func modify(_ fd: CInt, _ interest: Events) throws(SystemError) {
    guard fd >= 0, Int(fd) < registrations.count, registrations[Int(fd)].handler != nil else {
      throw SystemError(code: ENOENT, operation: "change watched descriptor \(fd)")
    }
    try check(
      clinux_epoll_modify(
        epoll.raw, fd, interest.epoll, token(fd, registrations[Int(fd)].generation)),
      "change watched descriptor \(fd)")
  }

  /// Ends the watch; call it before closing `fd`. Events already collected are dropped.
  public func remove(_ fd: CInt) {
    guard fd >= 0, Int(fd) < registrations.count, registrations[Int(fd)].handler != nil else {
      return
    }
    _ = clinux_epoll_remove(epoll.raw, fd)
    registrations[Int(fd)].handler = nil
    registrations[Int(fd)].generation &+= 1
  }

  /// Serves events until `stop`.
  public func run() throws(SystemError) {
    isStopped = false
    while !isStopped { try runOnce(timeoutMilliseconds: -1) }
  }

  /// Waits once, at most `timeoutMilliseconds` (negative: without limit), and serves what came.
  /// Returns how many events that were, the dropped ones included.
  @discardableResult
  public func runOnce(timeoutMilliseconds: Int) throws(SystemError) -> Int {
    waitCount &+= 1
    let count = clinux_epoll_wait(
      epoll.raw, ready, CInt(EventLoop.batch), CInt(clamping: timeoutMilliseconds))
    if count == -EINTR { return 0 }
    try check(count, "wait for events")
    for isLast in [false, true] {
      for index in 0..<Int(count) { serve(ready[index], ifLast: isLast) }
    }
    while !deferred.isEmpty {
      let bodies = deferred
      deferred = []
      for body in bodies { body() }
    }
    return Int(count)
  }

  /// Has `body` run once after the events at hand. Only while a handler runs.
  public func afterEvents(_ body: @escaping () -> Void) { deferred.append(body) }

  private func serve(_ event: epoll_event, ifLast isLast: Bool) {
    let fd = CInt(truncatingIfNeeded: event.data.u64 & 0xffff_ffff)
    let registration = registrations[Int(fd)]
    guard registration.isLast == isLast,
      registration.generation == UInt32(truncatingIfNeeded: event.data.u64 >> 32),
      let handler = registration.handler
    else { return }
    handler.handle(Events(epoll: event.events), from: fd)
  }

  /// Ends `run` after the events at hand. On the loop's thread only.
  public func stop() { isStopped = true }

  private func token(_ fd: CInt, _ generation: UInt32) -> UInt64 {
    UInt64(generation) << 32 | UInt64(UInt32(fd))
  }
}
