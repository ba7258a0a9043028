// SPDX-License-Identifier: Apache-2.0
// Brings devices up through one of the two front ends and keeps their readers awake.

internal import CFuse
internal import Glibc
public import LinuxIO
internal import Relay
internal import Synchronization

/// Which kernel interface serves the files.
public enum HostBackend: String, Sendable {
  /// CUSE when /dev/cuse opens, else relayfs. Never what a host ends up with.
  case auto
  case cuse
  case fuse
}

/// Why devices cannot be served: which one, and what to do.
public struct HostError: Error, CustomStringConvertible {
  public let description: String
}

/// What the two front ends have in common.
protocol FrontEnd: AnyObject {
  /// Brings all devices up, or throws and leaves none.
  func serve(_ devices: [Device]) throws
  func stop()
}

/// Serves devices on one event loop.
public final class DeviceHost: EventHandler {
  /// `.cuse` or `.fuse`.
  public let backend: HostBackend
  /// The path of a device without its name.
  public let pathPrefix: String
  private let loop: EventLoop
  private let frontEnd: any FrontEnd
  private let tick: TimerFD
  private var isTicking = false
  private var devices: [Device] = []

  // Bounds what a signal costs that a writer was stopped before sending: while nothing comes the
  // pause doubles, so that a reader waits at most twice as long as it had to, and an idle
  // daemon sleeps.
  private static let firstTickMilliseconds = 250
  private static let lastTickMilliseconds = 3_600_000
  private var tickMilliseconds = DeviceHost.firstTickMilliseconds

  /// - Parameters:
  ///   - mountPoint: for relayfs; an existing directory.
  ///   - log: gets notices worth a warning.
  public init(
    backend: HostBackend, mountPoint: String, loop: EventLoop, log: @escaping (String) -> Void
  ) throws {
    self.loop = loop
    tick = try TimerFD()
    LibraryLog.forward(to: log)
    let takesCUSE =
      switch backend {
      case .auto: CuseFrontEnd.isAvailable
      case .cuse: true
      case .fuse: false
      }
    if takesCUSE {
      self.backend = .cuse
      pathPrefix = "/dev/"
      frontEnd = CuseFrontEnd(loop: loop, log: log)
    } else {
      self.backend = .fuse
      pathPrefix = mountPoint + "/"
      frontEnd = RelayfsFrontEnd(mountPoint: mountPoint, loop: loop, log: log)
    }
  }

  /// Brings all devices up and serves them from then on; throws `HostError` naming the one that
  /// fails, and leaves none.
  public func serve(_ devices: [Device]) throws {
    for device in devices { device.onAwaited = { [unowned self] in startTicking() } }
    try frontEnd.serve(devices)
    self.devices = devices
    do {
      for fd in wakeDescriptors { try loop.add(fd, .read, self) }
      try loop.add(tick.raw, .read, self)
    } catch {
      stop()
      throw error
    }
  }

  /// Takes everything down; readers that have a device open get errors from then on.
  public func stop() {
    for fd in wakeDescriptors { loop.remove(fd) }
    loop.remove(tick.raw)
    frontEnd.stop()
    devices = []
  }

  /// Serves on while readers have devices open, at most `milliseconds`: after the channels were
  /// closed, so that who waits is told and who reads gets what is left.
  public func linger(milliseconds: Int) throws(SystemError) {
    wakeAll()
    for _ in 0..<max(1, milliseconds / 10) where devices.contains(where: \.isOpen) {
      try loop.runOnce(timeoutMilliseconds: 10)
    }
  }

  /// Tells all waiting readers what their devices' state is.
  private func wakeAll() { for device in devices { device.wake() } }

  private var wakeDescriptors: Set<CInt> { Set(devices.map(\.reader.channel.wakeDescriptor)) }

  public func handle(_ events: Events, from fd: CInt) {
    if fd == tick.raw {
      tick.drain()
      wakeAll()
      tickAgain()
      return
    }
    EventFD.drain(fd)
    for device in devices where device.reader.channel.wakeDescriptor == fd { device.wake() }
  }

  /// A reader begins to wait.
  private func startTicking() {
    guard tickMilliseconds != DeviceHost.firstTickMilliseconds || !isTicking else { return }
    isTicking = true
    tickMilliseconds = DeviceHost.firstTickMilliseconds
    tick.arm(onceAfterMilliseconds: tickMilliseconds)
  }

  private func tickAgain() {
    isTicking = devices.contains(where: \.isAwaited)
    guard isTicking else { return }
    tickMilliseconds = min(2 * tickMilliseconds, DeviceHost.lastTickMilliseconds)
    tick.arm(onceAfterMilliseconds: tickMilliseconds)
  }
}

/// libfuse's own messages.
enum LibraryLog {
  // Unchecked: a process has one host, whose thread is the one that libfuse logs on.
  private struct Sink: @unchecked Sendable {
    var log: (String) -> Void = { _ in }
  }

  // Global, as libfuse's log function is.
  private static let sink = Mutex(Sink())

  static func forward(to log: @escaping (String) -> Void) {
    let sink = Sink(log: log)
    LibraryLog.sink.withLock { $0 = sink }
    cfuse_set_log { message in
      guard let message else { return }
      LibraryLog.sink.withLock { $0 }.log("libfuse: " + String(cString: message))
    }
  }
}
