// SPDX-License-Identifier: Apache-2.0
// Files that somebody took away from under relayd, by an unmount or an abort: made again, with a
// back-off, and not without end: after that it is the service manager's business.

internal import DeviceHost
internal import LinuxIO

final class FileRestorer: EventHandler {
  private let loop: EventLoop
  private let host: DeviceHost
  private let log: (ChannelTable.Level, String) -> Void
  private let onFailure: (String) -> Void
  private let timer: TimerFD
  private var pace = RestorePace()
  private var isWaiting = false

  /// - Parameter onFailure: told why the files cannot be made again, after the last try.
  init(
    loop: EventLoop, host: DeviceHost, log: @escaping (ChannelTable.Level, String) -> Void,
    onFailure: @escaping (String) -> Void
  ) throws(SystemError) {
    self.loop = loop
    self.host = host
    self.log = log
    self.onFailure = onFailure
    timer = try TimerFD()
    try loop.add(timer.raw, .read, self)
  }

  /// Something changed in the host: files may be gone.
  func look() {
    guard !isWaiting, host.hasLostFiles else { return }
    tryAgain(after: "")
  }

  func handle(_ events: Events, from fd: CInt) {
    timer.drain()
    isWaiting = false
    guard host.hasLostFiles else { return }
    do throws(HostError) {
      try host.restoreFiles()
      pace.noteSuccess(at: ContinuousClock.now)
      log(.warning, "the files that somebody took away are there again; open them anew")
    } catch {
      log(.warning, "the files that somebody took away cannot be made again: \(error)")
      tryAgain(after: "\(error)")
    }
  }

  private func tryAgain(after reason: String) {
    guard let wait = pace.next(at: ContinuousClock.now) else {
      return onFailure(
        "files that somebody took away are still gone after \(RestorePace.waits.count) tries"
          + (reason.isEmpty ? "" : ": \(reason)"))
    }
    isWaiting = true
    timer.arm(onceAfterMilliseconds: wait)
  }
}

/// How soon files are made again, and how often.
struct RestorePace {
  /// Milliseconds before each try.
  static let waits = [1, 250, 500, 1000, 2000, 4000]
  /// After that time without a loss, or with files that are there again, the next one is the first.
  static let memory = Duration.seconds(60)
  static let calm = Duration.seconds(5)
  private var tries = 0
  private var last: ContinuousClock.Instant?
  private var lastSuccess: ContinuousClock.Instant?

  /// Milliseconds to wait before the next try; nil: there was the last one.
  mutating func next(at now: ContinuousClock.Instant) -> Int? {
    if let last, now - last > RestorePace.memory { tries = 0 }
    if let lastSuccess, now - lastSuccess > RestorePace.calm { tries = 0 }
    lastSuccess = nil
    last = now
    guard tries < RestorePace.waits.count else { return nil }
    defer { tries += 1 }
    return RestorePace.waits[tries]
  }

  /// The files are there again.
  mutating func noteSuccess(at now: ContinuousClock.Instant) { lastSuccess = now }
}
