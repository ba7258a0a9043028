// SPDX-License-Identifier: Apache-2.0
// Says in the log that records are lost. The counters stand in memory that writers change without
// relayd: it looks at them while processes are attached, once a second while something is lost, at
// last every eight seconds; and at each moment after which there is nothing to look at any more.

internal import DeviceHost
internal import LinuxIO
internal import Relay

enum LossCause: Int, CaseIterable {
  case full, tooBig, overwritten, stalled, restart, aborted

  /// What is behind "N records lost:".
  /// - Parameter isBounded: a process was refused that holds all sub-buffers but two.
  func reason(_ subbufSize: Int, isBounded: Bool) -> String {
    switch self {
    case .full where isBounded:
      "the buffer is full, or a process that holds all its sub-buffers but two by records it has "
        + "not ended is refused"
    case .full: "the buffer is full"
    case .tooBig: "longer than a sub-buffer, which is \(subbufSize) bytes"
    case .overwritten: "overwritten before their reader came to them"
    case .stalled: "passed, because their writers stopped in the middle of them (stall_timeout)"
    case .restart: "written into memory that a restarted relayd did not go on with"
    case .aborted: "their writers died in the middle of them"
    }
  }

  /// What can be done about it.
  func remedy(isBounded: Bool) -> String {
    switch self {
    case .full where isBounded: "; `relayctl producers` shows who holds how many"
    case .full, .overwritten:
      "; read it faster, or make its n_subbufs or subbuf_size larger"
    case .tooBig: "; make its subbuf_size larger"
    case .stalled, .restart, .aborted: ""
    }
  }
}

/// What is known of the losses in a channel's buffers.
final class ChannelLosses {
  fileprivate var episodes: [ObjectIdentifier: [LossEpisode]] = [:]
  /// The damage counters at the last look.
  fileprivate var damage: [ObjectIdentifier: UInt64] = [:]
  /// Devices of whose refused records some were a process's that held too much.
  fileprivate var bounded: Set<ObjectIdentifier> = []
  /// CPUs whose buffers are damaged, and those of them of which the log has not said so yet.
  var damagedCPUs: Set<Int> = []
  var overdueDamage: Set<Int> = []

  fileprivate var isActive: Bool { episodes.values.contains { $0.contains(where: \.isActive) } }

  /// Counts from here on.
  func begin(_ device: Device) {
    let counts = counters(device)
    episodes[ObjectIdentifier(device)] = counts.map(LossEpisode.init)
    damage[ObjectIdentifier(device)] = device.buffer.lossCounts.corrupt
  }

  func forget() {
    episodes = [:]
    damage = [:]
    bounded = []
    damagedCPUs = []
    overdueDamage = []
  }
}

/// In the order of `LossCause`.
private func counters(_ device: Device) -> [UInt64] {
  let memory = device.buffer.lossCounts
  let readers = device.lossesOfReaders
  return LossCause.allCases.map {
    switch $0 {
    case .full: memory.full
    case .tooBig: memory.tooBig
    case .overwritten: readers.overwritten
    case .stalled: readers.stalled
    case .restart: memory.restart
    case .aborted: memory.aborted
    }
  }
}

final class LossLog: EventHandler {
  private let table: ChannelTable
  private let limiter: LogLimiter
  /// Channels that somebody writes into.
  private let written: () -> Set<ObjectIdentifier>
  private let timer: TimerFD
  private var pauseMilliseconds = 0
  /// Readers have met losses, whether somebody still writes or not.
  private var looksAtAll = false

  private static let shortestPause = 1000
  private static let longestPause = 8000

  init(
    loop: EventLoop, table: ChannelTable, written: @escaping () -> Set<ObjectIdentifier>,
    limiter: LogLimiter
  ) throws(SystemError) {
    self.table = table
    self.written = written
    self.limiter = limiter
    timer = try TimerFD()
    try loop.add(timer.raw, .read, self)
  }

  /// Something may be lost from now on.
  func expect() {
    guard pauseMilliseconds != LossLog.shortestPause else { return }
    pauseMilliseconds = LossLog.shortestPause
    timer.arm(onceAfterMilliseconds: pauseMilliseconds)
  }

  /// A reader has met losses, in some channel.
  func expectAnywhere() {
    looksAtAll = true
    expect()
  }

  func handle(_ events: Events, from fd: CInt) {
    timer.drain()
    let written = written()
    let all = looksAtAll
    looksAtAll = false
    var isActive = false
    for served in table.channels
    where all || served.losses.isActive || written.contains(ObjectIdentifier(served.channel)) {
      look(served)
      if served.losses.isActive { isActive = true }
    }
    guard isActive || !written.isEmpty else {
      pauseMilliseconds = 0
      return
    }
    pauseMilliseconds =
      isActive
      ? LossLog.shortestPause : min(max(2 * pauseMilliseconds, 1), LossLog.longestPause)
    timer.arm(onceAfterMilliseconds: pauseMilliseconds)
  }

  /// Looks at all channels now.
  func look() {
    for served in table.channels { look(served) }
    if table.channels.contains(where: \.losses.isActive) { expect() }
  }

  func look(_ served: ServedChannel) {
    forEachCause(served) { $0.look($1, at: $2) }
    for (cpu, device) in served.devices {
      let now = device.buffer.lossCounts.corrupt
      guard let before = served.losses.damage.updateValue(now, forKey: ObjectIdentifier(device)),
        now > before
      else { continue }
      table.reportDamage(served, cpu: cpu)
    }
  }

  /// The channel's counts end here.
  /// - Parameters:
  ///   - why: such as "the channel was closed".
  ///   - saysTooBig: nobody else does.
  func finish(_ served: ServedChannel, _ why: String, saysTooBig: Bool = true) {
    forEachCause(served, why, except: saysTooBig ? nil : .tooBig) { $0.finish($1, at: $2) }
    served.losses.forget()
  }

  private func forEachCause(
    _ served: ServedChannel, _ why: String? = nil, except: LossCause? = nil,
    _ step: (inout LossEpisode, UInt64, Int) -> LossEpisode.Message?
  ) {
    let now = Clock.milliseconds()
    for (cpu, device) in served.devices {
      let key = ObjectIdentifier(device)
      if served.losses.episodes[key] == nil { served.losses.begin(device) }
      if device.buffer.refusesAProcess { served.losses.bounded.insert(key) }
      let isBounded = served.losses.bounded.contains(key)
      let counts = counters(device)
      for cause in LossCause.allCases where cause != except {
        let message = step(
          &served.losses.episodes[key]![cause.rawValue], counts[cause.rawValue], now)
        guard let message else { continue }
        // At the end of all there is no later message.
        let isLogged = limiter.log(
          why == nil ? .loss : .ended, by: served.logUser, amount: message.count,
          isOverdue: served.losses.episodes[key]![cause.rawValue].isOverdue && why == nil,
          text(message, cause, served, cpu, isBounded: isBounded) + (why.map { "; \($0)" } ?? ""))
        served.losses.episodes[key]![cause.rawValue].noteLogged(message, isLogged)
        if isLogged, case .end = message, cause == .full { served.losses.bounded.remove(key) }
      }
    }
  }

  private func text(
    _ message: LossEpisode.Message, _ cause: LossCause, _ served: ServedChannel, _ cpu: Int,
    isBounded: Bool
  ) -> String {
    let name = "channel \(served.channel.name)"
    let place = served.path(cpu: cpu)
    let reason = cause.reason(served.channel.geometry.subbufSize, isBounded: isBounded)
    func records(_ count: UInt64) -> String { "\(count) record\(count == 1 ? "" : "s")" }
    switch message {
    case .begin(let count):
      return "\(name): records are being lost in \(place), \(count) so far: \(reason)"
        + cause.remedy(isBounded: isBounded)
    case .more(let count, let seconds):
      return "\(name): \(records(count)) more lost in \(place) in the last \(seconds) s: \(reason)"
    case .end(let count, let seconds):
      return "\(name): the loss in \(place) has ended: \(records(count)) in \(seconds) s: \(reason)"
    }
  }
}
