// SPDX-License-Identifier: Apache-2.0
// The daemon's composition: opens the channels, brings up their files and the control socket, says
// that it is ready, serves, reloads, and takes everything down again. Owns no request's details.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
public import Logging
internal import Relay
internal import RelayControl

/// Why relayd cannot start or go on, in words for its user.
public struct DaemonError: Error, CustomStringConvertible {
  public let description: String
}

/// A relayd.
public final class Daemon {
  var configuration: Configuration
  let sources: ConfigurationSources
  let logger: Logger
  private let loop: EventLoop
  private let signals: SignalFD
  let host: DeviceHost
  let table: ChannelTable
  let producers: Producers
  private let lossLog: LossLog
  private let openRecords: OpenRecordWatch
  let kept: KeptState
  private let work: BackgroundWork
  let start: StartSettings
  private let pace: StartPace
  let ledger: LossLedger
  /// For what other users can have logged.
  private let limiter: LogLimiter
  /// What of the configuration is not in force, and why.
  var refused: [String]
  /// There was a main configuration file: one that is missing is a mistake.
  var hadMainFile: Bool
  /// Asked to end before it began.
  private let endsAtOnce: CInt?
  /// Channels for as long as somebody writes, whose last writers ended while there was no relayd.
  private var abandoned: [ServedChannel] = []
  private let abandonment: TimerFD
  private let closing: Closing
  /// The next relayd is to go on where this one stops.
  private var isToBeContinued = false
  /// Why this one cannot go on.
  private var failure: String?
  private var watch: MachineWatch?
  var server: ControlServer?

  /// Whether this process was handed channels by the relayd before. Only before `run`.
  public static var wasHandedChannels: Bool { KeptState.wereChannelsHanded }

  /// Serves what `sources` say until SIGTERM or SIGINT; SIGHUP loads them again. Where they are
  /// wrong, and channels were handed over, it goes on with those as they were.
  /// - Throws: `ConfigurationError` for a wrong configuration, `OptionError` for a channel that
  ///   cannot be, `DaemonError` for everything else.
  public static func run(_ sources: ConfigurationSources, logger: Logger) throws {
    do {
      let daemon = try Daemon(sources, logger)
      try daemon.serve()
    } catch let error as SystemError {
      throw DaemonError(description: "\(error)\(ProcessLimits.hint(error.code))")
    } catch let error as HostError {
      throw DaemonError(description: "\(error)\(ProcessLimits.hint(error.code))")
    } catch let error as ControlRefusal {
      throw DaemonError(description: "\(error)")
    }
  }

  private init(_ sources: ConfigurationSources, _ logger: Logger) throws {
    self.sources = sources
    self.logger = logger
    // Before there is a second thread: it changes the environment.
    let store = DescriptorStore { [logger] in logger.warning("\($0)") }
    // Before any thread, so that every thread has them blocked.
    signals = try SignalFD([SIGTERM, SIGINT, SIGHUP, SIGXCPU])
    // A reader or client that goes away is an error code, not a signal.
    signal(SIGPIPE, SIG_IGN)
    // What is made for others (the socket's directory) is as open as it says.
    umask(0o022)
    DescriptorLimit.raise()
    if let warning = ProcessLimits.processorTimeWarning() { logger.warning("\(warning)") }
    pace = try StartPace(RuntimeFiles.shortLives, logger)
    endsAtOnce = pace.wait(signals)
    pace.begin()
    do throws(ConfigurationError) {
      start = try StartSettings(sources, store)
    } catch {
      // Not started again: it did not die.
      pace.clear()
      throw error
    }
    configuration = start.configuration
    refused = start.complaints
    hadMainFile = start.hadMainFile
    loop = try EventLoop()
    limiter = try LogLimiter(loop: loop) { [logger] in logger.log(level: $0, "\($1)") }
    abandonment = try TimerFD()
    let backend = Daemon.backend(configuration)
    if backend == .fuse { createMountPoint(configuration.mountPoint) }
    host = try DeviceHost(
      backend: backend, mountPoint: resolved(configuration.mountPoint),
      threadCount: min(try Processors.online().cpus.count, 16),
      readers: configuration.limits.readerShare,
      log: { [limiter] in limiter.log(.place, by: $1, isOverdue: $2, $0) },
      logUse: { [limiter] in limiter.log(.file, by: $1, $0) })
    let log: (ChannelTable.Level, String) -> Void = { [logger] level, message in
      logger.log(level: level == .info ? .info : .warning, "\(message)")
    }
    kept = try KeptState(store) { [limiter] in limiter.log(.kept, by: $1, $0) }
    ledger = LossLedger(RuntimeFiles.lost(socket: configuration.socketPath)) { [limiter] in
      limiter.log(.kept, by: 0, $0)
    }
    work = try BackgroundWork(loop: loop)
    table = ChannelTable(
      host: host, kept: kept, work: work, limits: configuration.limits, limiter: limiter, log: log)
    closing = try Closing(loop: loop, table: table)
    producers = Producers(loop: loop, kept: kept, limits: configuration.limits, limiter: limiter)
    lossLog = try LossLog(
      loop: loop, table: table, written: { [producers] in producers.written }, limiter: limiter)
    openRecords = try OpenRecordWatch(
      loop: loop, producers: producers,
      stallTimeout: { [table] in table[$0.name]?.options.stallTimeout }, limiter: limiter)
    connect()
  }

  /// Has each part hear of what happens in the others.
  private func connect() {
    table.onOpening = { [ledger, kept] in
      ledger.count(in: $0) { kept.taken.contains($0.incarnation) }
    }
    table.onAbandoned = { [closing] in closing.expect($0) }
    table.onGone = { [producers, openRecords] in
      producers.forget($0)
      openRecords.forget($0)
    }
    table.onEnd = { [lossLog] in lossLog.finish($0, $1, saysTooBig: $2) }
    table.onRenewed = { [producers, openRecords] in
      producers.move(from: $0, to: $1)
      openRecords.forget($0)
    }
    table.owners = { [producers] in producers.owners }
    table.writersOf = { [producers] in producers.names(of: $0) }
    producers.onAttach = { [lossLog, openRecords] in
      lossLog.expect()
      openRecords.expect()
    }
    producers.onGone = { [table, lossLog] in
      table.forget(owner: $0)
      lossLog.look()
    }
  }

  private static func backend(_ configuration: Configuration) -> HostBackend {
    switch configuration.backend {
    case .auto: configuration.waitsForCUSE || DeviceHost.hasCUSE ? .cuse : .fuse
    case .cuse: .cuse
    case .fuse: .fuse
    }
  }

  private func serve() throws {
    defer { limiter.sumUp() }
    defer { work.stop() }
    try openChannels()
    ledger.dropHanded { [kept] in kept.taken.contains($0.incarnation) }
    // The file is that of whoever serves the socket. One that cannot serve it leaves what it was
    // handed: that is nobody else's.
    var mayLeaveLosses = start.isHanded
    // The last that is done: nobody reads any more.
    defer { if mayLeaveLosses { leaveLosses() } }
    if let endsAtOnce {
      tellLosses()
      mayLeaveLosses = true
      ServiceManager.notify("STOPPING=1")
      return logger.notice("\(endsAtOnce == SIGTERM ? "SIGTERM" : "SIGINT"): ending at once")
    }
    // After it, so that writers find their channels served; before they can ask.
    try kept.life.begin()
    try createParent(of: configuration.socketPath)
    let requests = ControlRequests(
      table: table, host: host, producers: producers, openRecords: openRecords, life: kept.life,
      access: Access(createGroup: try configuration.createGroup.map(Group.init(named:))),
      reload: { [unowned self] in reload() })
    // The socket first: it decides which of two daemons goes on.
    let server = try listen(requests)
    self.server = server
    requests.finish = { [unowned server] in server.finish($0, $1) }
    defer { server.stop(leavesSocket: isToBeContinued) }
    // Before it answers anybody.
    tellLosses()
    mayLeaveLosses = true
    let restorer = try FileRestorer(loop: loop, host: host, log: table.log) { [unowned self] in
      failure = $0
      isToBeContinued = kept.isThere
      loop.stop()
    }
    let changes = ClosureHandler { [unowned self] in take(restorer) }
    try loop.add(host.changeDescriptor, .read, changes)
    let sayer = ClosureHandler { [unowned self] in sayOverdue() }
    try loop.add(limiter.room.raw, .read, sayer)
    let closer = ClosureHandler { [unowned self] in
      abandonment.drain()
      for served in abandoned { closing.expect(served) }
      abandoned = []
    }
    try loop.add(abandonment.raw, .read, closer)
    let watch = try MachineWatch(
      loop: loop, waitsForCUSE: configuration.waitsForCUSE,
      onCPUs: { [unowned self] in addCPUs() },
      onCUSE: { [unowned self] in startWhenCUSEIsThere() })
    self.watch = watch
    try watch.start()
    defer { watch.stop() }
    try host.start()
    defer { host.stop() }
    // What came up between the count and the watch.
    addCPUs()
    if !configuration.waitsForCUSE || DeviceHost.hasCUSE {
      watch.stopWatchingCUSE()
      try startServing()
    }
    let liveLongEnough = ClosureHandler { [pace] in pace.clear() }
    if let descriptor = pace.descriptor { try loop.add(descriptor, .read, liveLongEnough) }
    announce()
    try serveUntilSignal()
    try shutDown(server, requests.consumers)
    if let failure {
      throw DaemonError(description: "\(failure); ending, so that relayd can be started again")
    }
  }

  /// What the log left out may be logged now.
  private func sayOverdue() {
    limiter.room.drain()
    table.reportOverdueDamage()
    host.sayOverdue()
  }

  /// What changed in the host.
  private func take(_ restorer: FileRestorer) {
    table.collect()
    table.reportDamage()
    restorer.look()
    guard host.takeLossNote() else { return }
    lossLog.expectAnywhere()
    openRecords.hurry()
  }

  private func listen(_ requests: ControlRequests) throws -> ControlServer {
    do throws(SystemError) {
      let server = try ControlServer(
        loop: loop, path: configuration.socketPath, handler: requests,
        limits: configuration.limits.connections)
      server.report =
        RequestLog(
          path: configuration.socketPath, table: table, limiter: limiter
        ).take
      return server
    } catch {
      throw DaemonError(
        description: "\(error); name another socket with --socket, in a directory that is there "
          + "and that relayd may write to")
    }
  }

  /// Those of the configuration, and what the relayd before left: that first, so that no new
  /// channel takes its place.
  private func openChannels() throws {
    var new: [(ChannelOptions, [KeptState.Left])] = []
    for options in configuration.channels {
      let left = kept.takeChannel(options.name)
      if table.canAdopt(left, options) {
        try open(options, left)
      } else {
        new.append((options, left))
      }
    }
    table.adoptRest(keepsConfigured: !start.complaints.isEmpty)
    for (options, left) in new { try open(options, left) }
    // Of all that was handed over, nothing could be gone on with.
    guard !table.channels.isEmpty || refused.isEmpty else {
      pace.clear()
      throw ConfigurationError(complaints: refused)
    }
    kept.keep(KeptSettings(configuration, hadMainFile: hadMainFile))
    producers.adopt(table.channels)
    kept.dropUnclaimed()
    abandoned = table.channels.filter { ChannelNotes($0.channel)?.wasAttached == true }
      .filter(\.isAbandoned)
    // Who read them has to come back first.
    if !abandoned.isEmpty { abandonment.arm(onceAfterMilliseconds: 10_000) }
  }

  /// A configured channel. What cannot be is no failure where channels were handed over.
  private func open(_ options: ChannelOptions, _ left: [KeptState.Left]) throws {
    do {
      try table.open(options, .configured, Identity(options), left: left)
    } catch {
      guard start.isHanded else { throw error }
      refused.append("\(error)")
      table.openAsItWas(options.name, left, keepsConfigured: true)
    }
  }

  private func startServing() throws {
    guard start.isHanded else { return try table.startServing() }
    var complaints = table.startServingWhatCanBe()
    // What the relayd before had open goes a moment after it.
    for _ in 0..<10 where !complaints.isEmpty {
      poll(nil, 0, 100)
      complaints = table.serveMissing()
    }
    refused += complaints
  }

  func open(_ options: ChannelOptions) throws {
    try table.open(options, .configured, Identity(options))
  }

  private func addCPUs() {
    do throws(SystemError) {
      table.addCPUs(try Processors.online())
    } catch {
      logger.warning("\(error)")
    }
  }

  private func startWhenCUSEIsThere() {
    guard !table.isServing, DeviceHost.hasCUSE else { return }
    watch?.stopWatchingCUSE()
    table.startServingLate()
    logger.notice("/dev/cuse is there: \(servedFiles)")
    ServiceManager.notify("STATUS=\(status)")
  }

  private func serveUntilSignal() throws {
    let receiver = ClosureHandler { [unowned self] in
      switch signals.next() {
      case nil: return
      case SIGHUP:
        logger.notice("SIGHUP: reloading")
        _ = reload()
      case SIGXCPU: logger.warning("\(ProcessLimits.processorTimeMessage())")
      case let signal:
        pace.clear()
        isToBeContinued = signal == SIGTERM && kept.isThere
        logger.notice("\(signal == SIGTERM ? "SIGTERM" : "SIGINT"): ending")
        loop.stop()
      }
    }
    try loop.add(signals.raw, .read, receiver)
    defer { loop.remove(signals.raw) }
    try loop.run()
  }

  /// Writers and clients are refused from here on, readers are told and may drain; what nobody read
  /// is said. Where the next relayd goes on, nothing of that: writers notice nothing, and readers
  /// find what is left there.
  private func shutDown(_ server: ControlServer, _ consumers: Consumers) throws {
    ServiceManager.notify("STOPPING=1")
    // Nothing new comes from here on.
    work.stop()
    let isEnding = table.closeAll(exceptKept: isToBeContinued)
    if isToBeContinued {
      logger.notice("\(table.unreadCount) unread records are kept for the next relayd")
      guard isEnding else { return }
    }
    // Nothing that other clients do may take of the readers' time.
    server.stop(leavesSocket: isToBeContinued, except: consumers.has)
    let start = ContinuousClock.now
    var deliveries = host.deliveryCount
    var lastDelivery = start
    while host.openFileCount > 0 {
      try loop.runOnce(timeoutMilliseconds: 10)
      let now = ContinuousClock.now
      if host.deliveryCount != deliveries {
        deliveries = host.deliveryCount
        lastDelivery = now
      }
      if now - lastDelivery > Daemon.readersPause || now - start > Daemon.readersTime { break }
    }
    table.reportLosses()
  }

  /// At the end a reader that has a device open may take its time, and be slow within it.
  private static let readersPause = Duration.milliseconds(500)
  private static let readersTime = Duration.seconds(10)
}
