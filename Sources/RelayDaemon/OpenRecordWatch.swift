// SPDX-License-Identifier: Apache-2.0
// Looks for records that living processes leave open, and names each such process once in the log.
// What a look may cost is bounded, whoever asks for one; without producers there is none.

internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

final class OpenRecordWatch: EventHandler {
  private let loop: EventLoop
  private let timer: TimerFD
  private let producers: Producers
  /// A channel's, in milliseconds; nil: never.
  private let stallTimeout: (Channel) -> Int?
  private let limiter: LogLimiter
  private var scans: [ObjectIdentifier: OpenRecordScan] = [:]
  private var lastLook = Int.min / 2
  private var turn = 0
  private var pause = OpenRecordWatch.firstPause
  /// When the timer ends, milliseconds; nil: it is not armed.
  private var due: Int?
  // What writers have done, at the last look.
  private var activity: UInt64 = 0

  /// Milliseconds between two looks while records are written: as long as the shortest
  /// stall_timeout, within these. While nothing is written the pause doubles, so that an idle
  /// daemon sleeps.
  private static let shortestPause = 100
  private static let firstPause = 1000
  private static let longestPause = 8000
  /// Index words of one look: about a millisecond.
  private static let budget = 1 << 20
  /// Milliseconds between two looks that clients cause.
  private static let restPerLook = 20

  init(
    loop: EventLoop, producers: Producers, stallTimeout: @escaping (Channel) -> Int?,
    limiter: LogLimiter
  ) throws(SystemError) {
    self.loop = loop
    self.producers = producers
    self.stallTimeout = stallTimeout
    self.limiter = limiter
    timer = try TimerFD()
    try loop.add(timer.raw, .read, self)
  }

  /// A process may write from now on. However often that is so, the look comes.
  func expect() {
    pause = firstPause
    if due ?? .max > Clock.milliseconds() + pause { arm() }
  }

  /// A reader has met a record that is not finished, or another loss.
  func hurry() { if due != nil { expect() } }

  private func arm() {
    due = Clock.milliseconds() + pause
    timer.arm(onceAfterMilliseconds: pause)
  }

  private var firstPause: Int {
    let shortest = producers.channels.compactMap(stallTimeout).min()
    return min(
      max(shortest ?? OpenRecordWatch.firstPause, OpenRecordWatch.shortestPause),
      OpenRecordWatch.firstPause)
  }

  func handle(_ events: Events, from fd: CInt) {
    timer.drain()
    look()
  }

  /// What a process holds of a channel, by CPU.
  func held(_ channel: Channel, owner: UInt16) -> [Int: HeldSubbufs] {
    if Clock.milliseconds() - lastLook >= OpenRecordWatch.restPerLook { look() }
    return scans[ObjectIdentifier(channel)]?.held[owner] ?? [:]
  }

  /// A channel is gone: nothing of it is kept open for the next look.
  func forget(_ channel: Channel) { scans[ObjectIdentifier(channel)] = nil }

  private func look() {
    var channels = producers.channels
    let now = Clock.milliseconds()
    lastLook = now
    var budget = OpenRecordWatch.budget
    // Where the budget does not suffice, each is the first one in its turn.
    if !channels.isEmpty {
      let first = turn % channels.count
      channels = Array(channels[first...] + channels[..<first])
    }
    var seen: [ObjectIdentifier: OpenRecordScan] = [:]
    var isAnyOpen = false
    var activity: UInt64 = 0
    for channel in channels {
      let scan = scans[ObjectIdentifier(channel)] ?? OpenRecordScan(channel)
      seen[ObjectIdentifier(channel)] = scan
      scan.look(budget: &budget)
      activity &+= channel.activity
      for owner in scan.held.keys {
        isAnyOpen = true
        judge(owner, channel, scan, now)
      }
    }
    scans = seen
    if budget <= 0 { turn += 1 }
    let isIdle = activity == self.activity && !isAnyOpen
    self.activity = activity
    pause = isIdle ? min(2 * pause, OpenRecordWatch.longestPause) : firstPause
    if channels.isEmpty {
      due = nil
      timer.disarm()
    } else {
      arm()
    }
  }

  /// Names a process whose record stays open for longer than the channel's stall_timeout.
  private func judge(_ owner: UInt16, _ channel: Channel, _ scan: OpenRecordScan, _ now: Int) {
    guard let timeout = stallTimeout(channel),
      let producer = producers[owner], let use = producer.use(of: channel), !use.isNamed
    else { return }
    guard let (record, since) = use.open, scan.isOpen(record) else {
      use.open = scan.oldest(of: owner).map { ($0, now) }
      return
    }
    guard now - since >= timeout else { return }
    let held = scan.held[owner]?.values ?? [:].values
    let records = held.reduce(0) { $0 + $1.records }
    let subbufs = held.reduce(0) { $0 + $1.subbufs }
    use.isNamed = limiter.log(
      .openRecord, by: producer.account, isOverdue: use.isOverdue,
      """
      \(producer.name) has \(records) record\(records == 1 ? "" : "s") of channel \(channel.name) \
      open, one for over \(TimeSpan.format(timeout)): \(subbufs) \
      sub-buffer\(subbufs == 1 ? "" : "s") of \(channel.geometry.subbufCount) in a buffer cannot \
      be used again until it commits or cancels them, or ends; `relayctl producers` shows it
      """)
    use.isOverdue = !use.isNamed
  }
}
