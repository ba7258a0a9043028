// SPDX-License-Identifier: Apache-2.0
// Log lines that other users can cause, as many of them and as fast as they like. Of each kind of
// line each user has an allowance, so that no user's lines leave out another user's; of what is
// beyond it, one line a second and kind says how many there were.

internal import LinuxIO
internal import Logging
internal import Relay
internal import Synchronization

/// What a line is about.
enum LimitedKind: Int, CaseIterable {
  /// A process died inside a record.
  case death
  /// A process leaves a record open.
  case openRecord
  case loss
  /// A buffer is damaged, or has fresh memory because it was.
  case damage
  /// A channel was created, closed or reset at run time.
  case channel
  /// Records that nobody read of a channel that is gone, or that it refused.
  case ended
  /// A connection or a request was refused.
  case refusal
  /// What users do with devices: too many are open, a consumer is too slow, one was evicted.
  case file
  /// What was done to device files, or to the mount.
  case place
  /// Something cannot be kept for the next relayd.
  case kept

  /// Lines at once. Some events make one for each buffer of the machine.
  var burst: Int {
    switch self {
    case .death, .openRecord, .refusal, .file: 10
    case .loss, .damage, .channel, .place: 100
    case .kept, .ended: 1000
    }
  }

  var level: Logger.Level {
    switch self {
    case .death, .channel: .notice
    case .openRecord, .loss, .ended, .damage, .refusal, .file, .place, .kept: .warning
    }
  }

  /// What many lines are about. `amount`: of all of them together.
  fileprivate func subject(_ amount: UInt64) -> String {
    switch self {
    case .death:
      "processes that died while they wrote: \(amount) unfinished "
        + "record\(amount == 1 ? "" : "s") discarded"
    case .openRecord: "records left open: see relayctl producers"
    case .loss: "losses: see relayctl stat"
    case .damage: "damaged channels: see relayctl list"
    case .channel: "channels created, closed or reset at run time"
    case .refusal: "refused connections and requests"
    case .ended:
      "channels that are gone: \(amount) record\(amount == 1 ? "" : "s") lost with them"
    case .file: "open and mapped devices"
    case .place: "device files: see relayctl list"
    case .kept: "what cannot be kept for the next relayd"
    }
  }
}

/// One allowance, in milliseconds of any clock: `burst` lines at once, and then as many a minute.
struct LineAllowance {
  static let period = 60_000
  private let burst: Int
  /// What may still be logged, in lines times `period`.
  private var credit: Int
  private var lastRefill = 0
  private(set) var leftOut = 0
  private(set) var amountLeftOut: UInt64 = 0

  init(burst: Int) {
    self.burst = burst
    credit = burst * LineAllowance.period
  }

  /// Whether a line may be logged now. While there is something to sum up none may.
  /// - Parameter isOverdue: it was left out before, and is counted.
  mutating func take(at now: Int, amount: UInt64 = 0, isOverdue: Bool = false) -> Bool {
    refill(at: now)
    guard leftOut == 0, credit >= LineAllowance.period else {
      if isOverdue { return false }
      leftOut += 1
      amountLeftOut &+= amount
      return false
    }
    credit -= LineAllowance.period
    return true
  }

  private mutating func refill(at now: Int) {
    let age = min(max(0, now - lastRefill), LineAllowance.period)
    credit = min(burst * LineAllowance.period, credit + age * burst)
    lastRefill = now
  }

  /// Nothing of it is in use: a new one would be the same.
  mutating func isWhole(at now: Int) -> Bool {
    refill(at: now)
    return leftOut == 0 && credit == burst * LineAllowance.period
  }

  /// What was left out since the last call; nil: nothing.
  mutating func takeLeftOut() -> (count: Int, amount: UInt64)? {
    guard leftOut > 0 else { return nil }
    defer { (leftOut, amountLeftOut) = (0, 0) }
    return (leftOut, amountLeftOut)
  }
}

/// The allowances of one kind. Root and relayd's own user share one that no other user touches. Of
/// the others each has one while it causes such lines, as long as there are not too many of them.
struct KindAllowances {
  /// Users with an allowance of their own at a time; all others share one.
  static let userCount = 16

  private let burst: Int
  private var privileged: LineAllowance
  private var rest: LineAllowance
  private var users: [UInt32: LineAllowance] = [:]

  init(burst: Int) {
    self.burst = burst
    privileged = LineAllowance(burst: burst)
    rest = privileged
  }

  /// As `LineAllowance.take`.
  /// - Parameter user: who causes the line; nil: that is not known.
  mutating func take(
    _ user: UInt32?, at now: Int, amount: UInt64 = 0, isOverdue: Bool = false
  ) -> Bool {
    guard let user else { return rest.take(at: now, amount: amount, isOverdue: isOverdue) }
    if Share.isPrivileged(user) {
      return privileged.take(at: now, amount: amount, isOverdue: isOverdue)
    }
    if users[user] == nil {
      if users.count >= KindAllowances.userCount { dropWhole(at: now) }
      guard users.count < KindAllowances.userCount else {
        return rest.take(at: now, amount: amount, isOverdue: isOverdue)
      }
      users[user] = LineAllowance(burst: burst)
    }
    return users[user]!.take(at: now, amount: amount, isOverdue: isOverdue)
  }

  private mutating func dropWhole(at now: Int) {
    for user in users.keys where users[user]!.isWhole(at: now) { users[user] = nil }
  }

  /// What was left out of all users' lines since the last call; nil: nothing.
  mutating func takeLeftOut() -> (count: Int, amount: UInt64)? {
    var all = [privileged.takeLeftOut(), rest.takeLeftOut()]
    for user in users.keys { all.append(users[user]!.takeLeftOut()) }
    let found = all.compactMap(\.self)
    guard !found.isEmpty else { return nil }
    return found.reduce((0, 0)) { ($0.0 + $1.count, $0.1 &+ $1.amount) }
  }
}

/// Logs what the allowances let through. Any thread may log; the sums come from the loop's.
final class LogLimiter: EventHandler, Sendable {
  private struct State {
    var allowances = LimitedKind.allCases.map { KindAllowances(burst: $0.burst) }
    var isArmed = false
  }

  /// Signalled a second after a line was left out, once that was summed up: what is overdue may be
  /// tried again.
  let room: EventFD

  private let write: @Sendable (Logger.Level, String) -> Void
  private let timer: TimerFD
  private let state = Mutex(State())

  private static let pause = 1000

  init(
    loop: EventLoop, write: @escaping @Sendable (Logger.Level, String) -> Void
  ) throws(SystemError) {
    self.write = write
    timer = try TimerFD()
    room = try EventFD()
    try loop.add(timer.raw, .read, self)
  }

  /// Logs the message, which is made only then and so must have no other effect, or counts it.
  /// Returns whether it was logged: callers repeat a once-only message until it is.
  /// - Parameters:
  ///   - user: whose allowance it takes: the user who causes it, 0 for relayd and its
  ///     administrator, nil where that is not known.
  ///   - amount: what the message counts.
  ///   - isOverdue: it was left out before, and is counted.
  @discardableResult
  func log(
    _ kind: LimitedKind, by user: UInt32?, amount: UInt64 = 0, isOverdue: Bool = false,
    _ message: @autoclosure () -> String
  ) -> Bool {
    let isTaken = state.withLock { state in
      let isTaken = state.allowances[kind.rawValue].take(
        user, at: Clock.milliseconds(), amount: amount, isOverdue: isOverdue)
      if !isTaken, !state.isArmed {
        state.isArmed = true
        timer.arm(onceAfterMilliseconds: LogLimiter.pause)
      }
      return isTaken
    }
    if isTaken { write(kind.level, message()) }
    return isTaken
  }

  func handle(_ events: Events, from fd: CInt) {
    timer.drain()
    sumUp()
    room.signal()
  }

  /// Says now what was left out.
  func sumUp() {
    let sums = state.withLock { state in
      state.isArmed = false
      return LimitedKind.allCases.compactMap { kind in
        state.allowances[kind.rawValue].takeLeftOut().map { (kind, $0.count, $0.amount) }
      }
    }
    for (kind, count, amount) in sums {
      let messages = "\(count) more message\(count == 1 ? "" : "s")"
      write(
        kind.level,
        "\(messages) left out in the last second, about \(kind.subject(amount))")
    }
  }
}
