// SPDX-License-Identifier: Apache-2.0
// systemd starts relayd again after a second, always, because its own limit would empty its store.
// So the relayd that comes after several that died at once waits by itself, by the law of
// RestartPace, before it does what may have killed them: it has taken what it was handed, and
// touches nothing of it yet.

internal import Glibc
internal import LinuxIO
internal import Logging

final class StartPace {
  private let file: RuntimeFile?
  private let logger: Logger
  private let shortLives: Int
  /// Where there is a file.
  private let timer: Timer?

  init(_ file: RuntimeFile?, _ logger: Logger) throws(SystemError) {
    self.file = file
    self.logger = logger
    timer = file == nil ? nil : Timer(try TimerFD())
    // What cannot be read counts as nothing: a start without a wait harms nobody.
    let bytes = (try? file?.read()) ?? []
    let text = String(decoding: bytes, as: UTF8.self).prefix { $0 != "\n" }
    shortLives = max(0, min(Int(text) ?? 0, 1000))
    do throws(SystemError) {
      try file?.replace("\(shortLives + 1)\n")
    } catch {
      logger.warning("\(error): a relayd that keeps dying is started again each second")
    }
  }

  /// Waits as long as the law says. A signal ends that: which one, where it asks for the end.
  func wait(_ signals: borrowing SignalFD) -> CInt? {
    let seconds = RestartPace(shortLives: shortLives).waitSeconds
    guard file != nil, seconds > 0 else { return nil }
    let why = "the last \(shortLives) ended within a second of their start"
    logger.warning("relayd waits \(seconds) s before it goes on: \(why)")
    // Not ready within its time to start, a service is killed.
    ServiceManager.notify(
      "EXTEND_TIMEOUT_USEC=\((seconds + 60) * 1_000_000)\nSTATUS=waits \(seconds) s: \(why)")
    var descriptor = pollfd(fd: signals.raw, events: Int16(POLLIN), revents: 0)
    poll(&descriptor, 1, CInt(seconds * 1000))
    guard let signal = signals.next(), signal != SIGHUP else { return nil }
    return signal
  }

  /// Readable once this relayd has lived long enough; from `begin` on. nil: nobody counts.
  var descriptor: CInt? { timer?.fd.raw }

  /// The wait is over: from here on it lives.
  func begin() {
    timer?.fd.arm(onceAfterMilliseconds: Int(RestartPace.longLife.components.seconds) * 1000)
  }

  /// This relayd lives, or ends as it was asked to.
  func clear() {
    timer?.fd.disarm()
    timer?.fd.drain()
    file?.remove()
  }

  /// A timer that may not be there.
  private final class Timer {
    let fd: TimerFD
    init(_ fd: consuming TimerFD) { self.fd = fd }
  }
}
