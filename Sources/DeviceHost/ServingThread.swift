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
  private let logMessage: @Sendable (String) -> Void
  private let tick: TimerFD
  // Rung for a job, or for devices whose channel signals another thread.
  private let bell: EventFD
  private let jobDone: EventFD
  private let job = Mutex<Job?>(nil)
  private var thread: Thread?
  private var groups: [CInt: WakeGroup] = [:]
  private var awaited: [Device] = []
  private var isFull = false
  private var isTicking = false
  private var tickMilliseconds = ServingThread.firstTickMilliseconds

  /// Devices given to it, as the owner counts them.
  var load = 0

  // Bounds what a signal costs that a writer was stopped before sending: while nothing comes the
  // pause doubles, so that a reader waits at most about twice as long as it had to, and an idle
  // daemon sleeps.
  private static let firstTickMilliseconds = 250
  private static let lastTickMilliseconds = 3_600_000

  // Sendable: the owner waits until it is done.
  private struct Job: @unchecked Sendable {
    let body: () -> Void
  }

  /// The devices that a channel's signal is for.
  private struct WakeGroup {
    var local: [Device] = []
    var elsewhere: [ServingThread] = []
  }

  /// - Parameter changes: an eventfd, signalled when a device may be collected.
  init(
    readers: ReaderCount, changes: CInt, log: @escaping @Sendable (String) -> Void
  ) throws(SystemError) {
    self.readers = readers
    self.changes = changes
    logMessage = log
    loop = try EventLoop()
    tick = try TimerFD()
    bell = try EventFD()
    jobDone = try EventFD()
    try loop.add(tick.raw, .read, self)
    try loop.add(bell.raw, .read, self)
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
    let store = { result = body() }
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
      runJob()
      wakeAwaited()
    case tick.raw:
      tick.drain()
      wakeAwaited()
      tickAgain()
    default:
      EventFD.drain(fd)
      guard let group = groups[fd] else { return }
      for device in group.local { device.wake() }
      for thread in group.elsewhere { thread.bell.signal() }
    }
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
  /// Watches the signals of a channel from here, for devices on any thread.
  func watch(_ device: Device, on thread: ServingThread) throws(SystemError) {
    let fd = device.reader.channel.wakeDescriptor
    var group = groups[fd] ?? WakeGroup()
    if group.local.isEmpty, group.elsewhere.isEmpty { try loop.add(fd, .read, self) }
    if thread === self {
      group.local.append(device)
    } else if !group.elsewhere.contains(where: { $0 === thread }) {
      group.elsewhere.append(thread)
    }
    groups[fd] = group
  }

  /// No device of the channel is served any more.
  func unwatch(_ fd: CInt) {
    loop.remove(fd)
    groups[fd] = nil
  }

  func wakeAwaited() {
    for device in awaited { device.wake() }
    awaited.removeAll {
      $0.isKept = $0.isAwaited
      return !$0.isKept
    }
  }
}

extension ServingThread {
  func admitReader(of device: Device) -> Bool {
    if readers.take() {
      isFull = false
      return true
    }
    // Once, or who asks again and again fills the log.
    if isFull { return false }
    isFull = true
    log(
      """
      \(device.name): an open was refused, because \(readers.limit) files are open already and \
      that is the limit (max_readers)
      """)
    return false
  }

  func releaseReader() { readers.giveBack() }

  func lastFileClosed() { EventFD.signal(changes) }

  func log(_ message: String) { logMessage(message) }

  func startWaking(_ device: Device) {
    if !device.isKept {
      device.isKept = true
      awaited.append(device)
    }
    guard !isTicking || tickMilliseconds != ServingThread.firstTickMilliseconds else { return }
    isTicking = true
    tickMilliseconds = ServingThread.firstTickMilliseconds
    tick.arm(onceAfterMilliseconds: tickMilliseconds)
  }

  private func tickAgain() {
    isTicking = !awaited.isEmpty
    guard isTicking else { return }
    tickMilliseconds = min(2 * tickMilliseconds, ServingThread.lastTickMilliseconds)
    tick.arm(onceAfterMilliseconds: tickMilliseconds)
  }
}

/// Open files, over all threads.
final class ReaderCount: Sendable {
  let limit: Int
  private let count = Atomic(0)

  init(limit: Int) { self.limit = limit }

  // Relaxed, all: a count of its own.
  var current: Int { count.load(ordering: .relaxed) }

  /// False at the limit.
  func take() -> Bool {
    let (_, taken) = count.wrappingAdd(1, ordering: .relaxed)
    if taken <= limit { return true }
    giveBack()
    return false
  }

  func giveBack() { count.wrappingSubtract(1, ordering: .relaxed) }
}
