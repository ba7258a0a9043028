// SPDX-License-Identifier: Apache-2.0
// A thread that serves sessions: its event loop, the signals of writers, and the tick that bounds
// what a lost signal costs. What a request means is the device's.

internal import LinuxIO
internal import Relay
internal import Synchronization

/// Everything on `loop`, every session and every device given to a thread, is used by that thread
/// only; the owner reaches them through `run`.
// Sendable: what both sides use is atomic, or handed over by `run`.
final class ServingThread: EventHandler, DeviceKeeper, @unchecked Sendable {
  let loop: EventLoop
  private let readers: ReaderCount
  private let changes: CInt
  private let logMessage: DeviceLog
  private let logUseMessage: @Sendable (String, _ user: UInt32) -> Void
  private let tick: TimerFD
  // Rung for a job, for channels in `signalled`, or for turns in `queue`.
  private let bell: EventFD
  private let jobDone: EventFD
  private let job = Mutex<Job?>(nil)
  private var thread: Thread?
  // By the wake descriptor of their channel: the devices served here, and the other threads that
  // serve some where this thread takes the signals.
  private var served: [CInt: [Device]] = [:]
  private var others: [CInt: [ServingThread]] = [:]
  // Channels whose signals another thread took for devices here.
  private let signalled = Mutex<[CInt]>([])
  private var awaited: [Device] = []
  // Those that have something to do, in the order of their turns; each once.
  private var queue: ArraySlice<Device> = []
  // The wait for events after which the last turn was taken.
  private var lastTurn: UInt64 = 0
  private var isBellRung = false
  // Of the queue, how many come before the end of the tick at hand; nil: there is no such tick.
  private var turnsOfTick: Int?
  // For all of its devices.
  private let frames = FrameBuffer()
  // Removed, and not open any more; the owner collects them.
  private let left = Mutex<[Device]>([])
  private let damaged = Mutex<[Device]>([])
  private let hasLosses = Atomic(false)
  private var isTicking = false
  private var tickMilliseconds = ServingThread.firstTickMilliseconds

  /// Devices given to it, as the owner counts them.
  var load = 0
  /// That it has run for the owner, who waited.
  private(set) var jobNanoseconds = 0

  // Bounds what a signal costs that a writer was stopped before sending: while nothing comes the
  // pause doubles, so that a reader waits at most about twice as long as it had to, and an idle
  // daemon sleeps.
  private static let firstTickMilliseconds = 250
  private static let lastTickMilliseconds = 3_600_000

  // Sendable: the owner waits until it is done.
  private struct Job: @unchecked Sendable {
    let body: () -> Void
  }

  /// - Parameter changes: an eventfd, signalled when a device may be collected.
  init(
    readers: ReaderCount, changes: CInt, log: @escaping DeviceLog,
    logUse: @escaping @Sendable (String, _ user: UInt32) -> Void
  ) throws(SystemError) {
    self.readers = readers
    self.changes = changes
    logMessage = log
    logUseMessage = logUse
    loop = try EventLoop()
    tick = try TimerFD()
    bell = try EventFD()
    jobDone = try EventFD()
    // Requests first: a reader that was killed must not get what was written after its death.
    try loop.add(tick.raw, .read, self, isLast: true)
    try loop.add(bell.raw, .read, self, isLast: true)
  }

  /// Starts to serve. Its signals are blocked as the caller's are.
  func start(name: String) throws(SystemError) {
    thread = try Thread(name: name) { [self] in
      do throws(SystemError) {
        try loop.run()
      } catch {
        fatalError("\(error)")
      }
    }
  }

  /// Ends it, once its sessions are destroyed.
  func stop() {
    guard let thread else { return }
    run {
      loop.remove(tick.raw)
      loop.remove(bell.raw)
      loop.stop()
    }
    thread.join()
    self.thread = nil
  }

  /// Runs `body` on the thread and waits for it: short things only. By one owner at a time.
  func run<R>(_ body: () -> R) -> R {
    guard thread != nil else { return body() }
    var result: R?
    let store = { [self] in
      let beginning = Clock.threadNanoseconds()
      result = body()
      jobNanoseconds += Clock.threadNanoseconds() - beginning
    }
    withoutActuallyEscaping(store) { escapable in
      let job = Job(body: escapable)
      self.job.withLock { $0 = job }
      bell.signal()
      _ = Readiness.wait(jobDone.raw, .read, timeoutMilliseconds: -1)
      jobDone.drain()
    }
    return result!
  }

  func handle(_ events: Events, from fd: CInt) {
    switch fd {
    case bell.raw:
      bell.drain()
      isBellRung = false
      runJob()
      for channel in takeSignalled() { wakeDevices(of: channel) }
    case tick.raw:
      tick.drain()
      beginTick()
    default:
      Doorbell.drain(fd)
      for thread in others[fd] ?? [] { thread.signal(fd) }
      wakeDevices(of: fd)
    }
    takeTurn()
  }

  /// One device's, unless one was taken since the last wait for events: then requests come first.
  private func takeTurn() {
    if lastTurn != loop.waitCount, let device = queue.popFirst() {
      lastTurn = loop.waitCount
      device.isUnfinished = false
      if device.isSignalled {
        device.isSignalled = false
        device.wake()
      } else {
        device.goOn()
      }
      // Its memory, too.
      if queue.isEmpty { queue = [] }
      if let turns = turnsOfTick { turnsOfTick = turns - 1 }
      if turnsOfTick == 0 { endTick() }
    }
    if !queue.isEmpty { ringBell() }
  }

  private func ringBell() {
    guard !isBellRung else { return }
    isBellRung = true
    bell.signal()
  }

  private func takeSignalled() -> [CInt] {
    signalled.withLock { channels in
      defer { channels = [] }
      return channels
    }
  }

  private func wakeDevices(of channel: CInt) {
    for device in served[channel] ?? [] { wakeInTurn(device) }
  }

  private func wakeInTurn(_ device: Device) {
    device.isSignalled = true
    goOnLater(device)
  }

  /// From any thread: that channel's signal is for devices here, too.
  private func signal(_ channel: CInt) {
    signalled.withLock { if !$0.contains(channel) { $0.append(channel) } }
    bell.signal()
  }

  private func runJob() {
    // Its own function: the closure has to be let go of before its owner goes on.
    if runTakenJob() { jobDone.signal() }
  }

  @inline(never)
  private func runTakenJob() -> Bool {
    guard let job = job.withLock({ $0.take() }) else { return false }
    job.body()
    return true
  }
}

// What the owner arranges, inside `run`.
extension ServingThread {
  /// Wakes the device's readers from here on.
  func take(_ device: Device) {
    device.frames = frames
    served[device.reader.channel.wakeDescriptor, default: []].append(device)
  }

  /// The removed devices that nobody has open any more; each once.
  func takeLeft() -> [Device] {
    left.withLock { devices in
      defer { devices = [] }
      return devices
    }
  }

  /// Devices whose memory is damaged; each once.
  func takeDamaged() -> [Device] {
    damaged.withLock { devices in
      defer { devices = [] }
      return devices
    }
  }

  /// Whether losses have grown since the last call.
  // Relaxed: a loss that the next look at the counts misses sets the note again.
  func takeLossNote() -> Bool { hasLosses.exchange(false, ordering: .relaxed) }

  func letGo(_ device: Device) {
    let channel = device.reader.channel.wakeDescriptor
    served[channel]?.removeAll { $0 === device }
    if served[channel]?.isEmpty == true { served[channel] = nil }
  }

  /// Takes the signals of a channel, for devices on any thread.
  func watch(_ channel: CInt) throws(SystemError) {
    try loop.add(channel, .read, self, isLast: true)
  }

  /// Passes the signals of a channel that is watched here on.
  func share(_ channel: CInt, with thread: ServingThread) {
    guard thread !== self, others[channel]?.contains(where: { $0 === thread }) != true else {
      return
    }
    others[channel, default: []].append(thread)
  }

  /// No device of the channel is served any more.
  func unwatch(_ channel: CInt) {
    loop.remove(channel)
    others[channel] = nil
  }
}

extension ServingThread {
  func admit(
    _ device: Device, uid: UInt32, pid: Int32, _ kind: ReaderEntry.Kind, replacing old: ReaderEntry?
  ) -> Result<ReaderEntry, ReaderRefusal> {
    let result = readers.add(device, uid: uid, pid: pid, kind, replacing: old)
    if case .failure(let refusal) = result { logUse(refusal.line, by: uid) }
    return result
  }

  func release(_ entry: ReaderEntry) { readers.remove(entry) }

  func delivered() { readers.noteDelivery() }

  func lastFileClosed(of device: Device) {
    left.withLock { $0.append(device) }
    EventFD.signal(changes)
  }

  func lossesFound() {
    // Relaxed: as in `takeLossNote`. Once for all that is found before the owner looks.
    if !hasLosses.exchange(true, ordering: .relaxed) { EventFD.signal(changes) }
  }

  func damageFound(_ device: Device) {
    damaged.withLock { $0.append(device) }
    EventFD.signal(changes)
  }

  @discardableResult
  func log(_ message: String, by user: UInt32 = 0, isOverdue: Bool = false) -> Bool {
    logMessage(message, user, isOverdue)
  }

  func logUse(_ message: String, by user: UInt32) { logUseMessage(message, user) }

  /// The owner is to look which of the front end's files are not there any more.
  func filesWentAway() { EventFD.signal(changes) }

  func startWaking(_ device: Device) {
    if !device.isKept {
      device.isKept = true
      awaited.append(device)
    }
    let first = ServingThread.firstTickMilliseconds
    let timeLeft = device.timeLeft ?? first
    guard !isTicking || tickMilliseconds != first || timeLeft < first else { return }
    isTicking = true
    tickMilliseconds = first
    tick.arm(onceAfterMilliseconds: max(1, min(timeLeft, first)))
  }

  func goOnLater(_ device: Device) {
    guard !device.isUnfinished else { return }
    device.isUnfinished = true
    queue.append(device)
    ringBell()
  }

  /// Gives a turn to all that are awaited. The next tick is set once all of them had it.
  private func beginTick() {
    guard turnsOfTick == nil else { return }
    for device in awaited { wakeInTurn(device) }
    if queue.isEmpty { endTick() } else { turnsOfTick = queue.count }
  }

  private func endTick() {
    turnsOfTick = nil
    awaited.removeAll {
      $0.isKept = $0.isAwaited
      return !$0.isKept
    }
    isTicking = !awaited.isEmpty
    guard isTicking else { return }
    tickMilliseconds = min(2 * tickMilliseconds, ServingThread.lastTickMilliseconds)
    // At once would be now: a record that was waited for long enough is passed at the next look.
    let stall = awaited.compactMap(\.timeLeft).min() ?? tickMilliseconds
    tick.arm(onceAfterMilliseconds: max(1, min(stall, tickMilliseconds)))
  }
}
