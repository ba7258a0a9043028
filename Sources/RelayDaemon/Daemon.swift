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
  private var configuration: Configuration
  private let sources: ConfigurationSources
  private let logger: Logger
  private let loop: EventLoop
  private let signals: SignalFD
  private let host: DeviceHost
  private let table: ChannelTable
  private let producers: Producers
  private let openRecords: OpenRecordWatch
  private let kept: KeptState
  /// Channels for as long as somebody writes, whose last writers ended while there was no relayd.
  private var abandoned: [ServedChannel] = []
  private let abandonment: TimerFD
  /// The next relayd is to go on where this one stops.
  private var isToBeContinued = false
  private var watch: MachineWatch?
  private var server: ControlServer?

  /// Serves until SIGTERM or SIGINT; SIGHUP loads the configuration again from `sources`.
  /// - Throws: `OptionError` for a channel that cannot be, `DaemonError` for everything else.
  public static func run(
    _ configuration: Configuration, sources: ConfigurationSources, logger: Logger
  ) throws {
    do {
      let daemon = try Daemon(configuration, sources, logger)
      try daemon.serve()
    } catch let error as SystemError {
      throw DaemonError(description: "\(error)")
    } catch let error as HostError {
      throw DaemonError(description: "\(error)")
    } catch let error as ControlRefusal {
      throw DaemonError(description: "\(error)")
    }
  }

  private init(
    _ configuration: Configuration, _ sources: ConfigurationSources, _ logger: Logger
  ) throws {
    self.configuration = configuration
    self.sources = sources
    self.logger = logger
    // Before there is a second thread: it changes the environment.
    let store = DescriptorStore { [logger] in logger.warning("\($0)") }
    // Before any thread, so that every thread has them blocked.
    signals = try SignalFD([SIGTERM, SIGINT, SIGHUP])
    // A reader or client that goes away is an error code, not a signal.
    signal(SIGPIPE, SIG_IGN)
    // What is made for others (the socket's directory) is as open as it says.
    umask(0o022)
    DescriptorLimit.raise()
    loop = try EventLoop()
    abandonment = try TimerFD()
    let backend = Daemon.backend(configuration)
    if backend == .fuse { createMountPoint(configuration.mountPoint) }
    host = try DeviceHost(
      backend: backend, mountPoint: resolved(configuration.mountPoint),
      threadCount: min(try Processors.online().cpus.count, 16),
      readerLimit: configuration.limits.readers, log: { [logger] in logger.warning("\($0)") })
    let log: (ChannelTable.Level, String) -> Void = { [logger] level, message in
      logger.log(level: level == .info ? .info : .warning, "\(message)")
    }
    kept = try KeptState(store, log: log)
    table = ChannelTable(host: host, kept: kept, limits: configuration.limits, log: log)
    producers = Producers(loop: loop, kept: kept, limits: configuration.limits) { [logger] in
      logger.notice("\($0)")
    }
    openRecords = try OpenRecordWatch(
      loop: loop, producers: producers,
      stallTimeout: { [table] in table[$0.name]?.options.stallTimeout },
      log: { [logger] in logger.warning("\($0)") })
    table.onGone = { [producers, openRecords] in
      producers.forget($0)
      openRecords.forget($0)
    }
    producers.onGone = { [table] in table.forget(owner: $0) }
  }

  private static func backend(_ configuration: Configuration) -> HostBackend {
    switch configuration.backend {
    case .auto: configuration.waitsForCUSE || DeviceHost.hasCUSE ? .cuse : .fuse
    case .cuse: .cuse
    case .fuse: .fuse
    }
  }

  private func serve() throws {
    try openChannels()
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
    defer { server.stop() }
    let changes = Handler { [table] in table.collect() }
    try loop.add(host.changeDescriptor, .read, changes)
    let closer = Handler { [unowned self] in
      abandonment.drain()
      for served in abandoned where served.isAbandoned { table.close(served) }
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
      try table.startServing()
    }
    announce()
    try serveUntilSignal()
    try shutDown(server, requests.consumers)
  }

  private func listen(_ requests: ControlRequests) throws -> ControlServer {
    do throws(SystemError) {
      let server = try ControlServer(
        loop: loop, path: configuration.socketPath, handler: requests,
        limits: configuration.limits.connections)
      server.log = { [logger] in logger.warning("\($0)") }
      return server
    } catch {
      throw DaemonError(
        description: "\(error); name another socket with --socket, in a directory that is there "
          + "and that relayd may write to")
    }
  }

  /// Those of the configuration, and what the relayd before left.
  private func openChannels() throws {
    for options in configuration.channels { try open(options) }
    table.adoptCreated()
    producers.adopt(table.channels)
    kept.dropUnclaimed()
    abandoned = table.channels.filter { ChannelNotes($0.channel)?.wasAttached == true }
      .filter(\.isAbandoned)
    // Who read them has to come back first.
    if !abandoned.isEmpty { abandonment.arm(onceAfterMilliseconds: 10_000) }
  }

  private func open(_ options: ChannelOptions) throws {
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
    let what = "\(devices(table.fileCount)) through CUSE"
    logger.notice("/dev/cuse is there: \(what)")
    ServiceManager.notify("STATUS=\(what)")
  }

  private func announce() {
    for served in table.channels { logger.info("\(summary(served))") }
    let how = host.backend == .cuse ? "CUSE" : "relayfs on \(configuration.mountPoint)"
    let what =
      table.isServing
      ? "\(devices(table.fileCount)) through \(how)"
      : "channels take writes; what can be read appears once /dev/cuse does"
    logger.notice("ready: \(what), control on \(configuration.socketPath)")
    ServiceManager.notify("READY=1\nSTATUS=\(what)")
  }

  private func serveUntilSignal() throws {
    let receiver = Handler { [unowned self] in
      switch signals.next() {
      case nil: return
      case SIGHUP:
        logger.notice("SIGHUP: reloading")
        _ = reload()
      case let signal:
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
    let isEnding = table.closeAll(exceptKept: isToBeContinued)
    if isToBeContinued {
      logger.notice("\(table.unreadCount) unread records are kept for the next relayd")
      guard isEnding else { return }
    }
    // Nothing that other clients do may take of the readers' time.
    server.stop(except: consumers.has)
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

// SIGHUP and relayctl reload.
extension Daemon {
  /// Makes the channels what the configuration says now. Returns, and logs, what could not be done.
  private func reload() -> [String] {
    let complaints = changeChannels()
    for complaint in complaints { logger.error("\(complaint)") }
    return complaints
  }

  private func changeChannels() -> [String] {
    let new: Configuration
    do throws(ConfigurationError) {
      new = try sources.load()
    } catch {
      return error.complaints.map { "\($0); nothing was changed" }
    }
    ServiceManager.notifyReloading()
    defer { ServiceManager.notify("READY=1") }
    var complaints = fixedSettings(new)
    closeVanished(new)
    for options in new.channels {
      do {
        try openOrCompare(options)
      } catch {
        complaints.append("\(error)")
      }
    }
    complaints += table.serveMissing()
    return complaints
  }

  /// What cannot change while relayd runs is refused by name; the rest holds from now on.
  private func fixedSettings(_ new: Configuration) -> [String] {
    let fixed = [
      ("backend", new.backend.rawValue, configuration.backend.rawValue),
      ("mount", new.mountPoint, configuration.mountPoint),
      ("socket", new.socketPath, configuration.socketPath),
      ("max_readers", "\(new.limits.readers)", "\(configuration.limits.readers)"),
      ("create_group", new.createGroup ?? "none", configuration.createGroup ?? "none"),
    ]
    table.limits = new.limits
    producers.limit = new.limits.producers
    producers.limitPerUser = new.limits.producersPerUser
    server?.limits = new.limits.connections
    return fixed.filter { $0.1 != $0.2 }.map { key, wanted, now in
      "\(key) stays \(now) until relayd is restarted (and would then be \(wanted))"
    }
  }

  private func closeVanished(_ new: Configuration) {
    let names = Set(new.channels.map(\.name))
    for served in table.channels
    where served.origin == .configured && !names.contains(served.channel.name) {
      logger.notice("channel \(served.channel.name) is not configured any more: closed")
      table.close(served)
    }
  }

  private func openOrCompare(_ options: ChannelOptions) throws {
    guard let served = table[options.name] else {
      try open(options)
      logger.notice("\(summary(table[options.name]!))")
      return
    }
    guard served.origin == .configured else {
      throw DaemonError(
        description: "channel \(options.name): exists already, created at run time; close it first")
    }
    let changed = options.differences(from: served.options)
    guard !changed.isEmpty else { return }
    throw DaemonError(
      description: """
        channel \(options.name): \(changed.joined(separator: ", ")) cannot change while it is \
        open; it stays as it was
        """)
  }
}

/// What a log says of a channel.
private func summary(_ served: ServedChannel) -> String {
  let geometry = served.channel.geometry
  let names = served.devices.map { served.path(cpu: $0.cpu) }
  let all =
    names.count > 2 ? "\(names[0]) … \(names[names.count - 1])" : names.joined(separator: " ")
  return """
    channel \(served.channel.name): \(geometry.subbufCount) sub-buffers of \
    \(ByteSize.format(geometry.subbufSize)) for each of \(names.count) \
    buffer\(names.count == 1 ? "" : "s"), mode \(geometry.mode.rawValue): \(all)
    """
}

private func devices(_ count: Int) -> String { "\(count) device\(count == 1 ? "" : "s")" }

/// The directory of the default socket is the daemon's own; any other has to exist.
private func createParent(of path: String) throws {
  guard path == "/run/relayd/control", mkdir("/run/relayd", 0o755) != 0, errno != EEXIST else {
    return
  }
  throw DaemonError(
    description: "create /run/relayd: \(String(cString: strerror(errno))); run as root, or name "
      + "another socket with --socket")
}

/// So with the default mount point.
private func createMountPoint(_ path: String) {
  guard path == Configuration.defaultMountPoint else { return }
  mkdir("/run/relayd", 0o755)
  mkdir(path, 0o755)
}

/// A mount point as any process may name it, whatever directory it is in.
private func resolved(_ path: String) -> String {
  guard let resolved = realpath(path, nil) else { return path }
  defer { free(resolved) }
  return String(cString: resolved)
}

/// Runs a closure when its descriptor is ready.
private final class Handler: EventHandler {
  private let onEvent: () -> Void

  init(_ onEvent: @escaping () -> Void) { self.onEvent = onEvent }

  func handle(_ events: Events, from fd: CInt) { onEvent() }
}
