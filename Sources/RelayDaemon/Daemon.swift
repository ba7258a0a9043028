// SPDX-License-Identifier: Apache-2.0
// The daemon's composition: opens the channels, brings up their files and the control socket, says
// that it is ready, serves, and takes everything down again. Owns no request's details.

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
  private let configuration: Configuration
  private let logger: Logger
  private let loop: EventLoop
  private let signals: SignalFD
  private var channels: [ServedChannel] = []

  /// Serves until SIGTERM or SIGINT.
  /// - Throws: `OptionError` for a channel that cannot be, `DaemonError` for everything else.
  public static func run(
    _ configuration: Configuration, sources: ConfigurationSources, logger: Logger
  ) throws {
    do {
      let daemon = try Daemon(configuration, logger)
      try daemon.serve()
    } catch let error as SystemError {
      throw DaemonError(description: "\(error)")
    } catch let error as HostError {
      throw DaemonError(description: "\(error)")
    }
  }

  private init(_ configuration: Configuration, _ logger: Logger) throws {
    self.configuration = configuration
    self.logger = logger
    // Before any thread, so that every thread has them blocked.
    signals = try SignalFD([SIGTERM, SIGINT])
    loop = try EventLoop()
  }

  private func serve() throws {
    // A reader or client that goes away is an error code, not a signal.
    signal(SIGPIPE, SIG_IGN)
    raiseDescriptorLimit()
    let host = try DeviceHost(
      backend: hostBackend, mountPoint: mountPoint, loop: loop,
      log: { [logger] in logger.warning("\($0)") })
    var opened: [Channel] = []
    for options in configuration.channels { opened.append(try open(options)) }
    try configuration.limits.check(channelCount: opened.count)
    try configuration.limits.check(memoryOf: opened.map(\.geometry))
    try createParent(of: configuration.socketPath)
    if host.backend == .fuse { createMountPoint() }

    var devices: [Device] = []
    for channel in opened {
      let readers = channel.buffers.map { Reader(channel, $0) }
      devices += readers.map { Device(name: "\(channel.name)\($0.buffer.cpu)", reader: $0) }
      channels.append(
        ServedChannel(
          channel: channel, readers: readers, pathPrefix: host.pathPrefix + channel.name))
    }
    let producers = Producers(loop: loop) { [logger] in logger.notice("\($0)") }
    let requests = ControlRequests(
      channels: channels, producers: producers, backendName: host.backend.rawValue)
    // The socket first: it decides which of two daemons goes on.
    let server = try ControlServer(loop: loop, path: configuration.socketPath, handler: requests)
    defer { server.stop() }
    try host.serve(devices)
    defer { host.stop() }
    announce(host, devices)
    try serveUntilSignal()
    try shutDown(host)
  }

  /// Each device, channel, connection and producer takes descriptors; the soft limit is for
  /// programs that use select(2).
  private func raiseDescriptorLimit() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }

  private var hostBackend: HostBackend {
    switch configuration.backend {
    case .auto: .auto
    case .cuse: .cuse
    case .fuse: .fuse
    }
  }

  private func open(_ options: ChannelOptions) throws -> Channel {
    let geometry = try options.geometry(
      online: Processors.online(), possible: Processors.possible())
    do {
      return try Channel.openShared(options.name, geometry)
    } catch {
      throw DaemonError(description: "channel \(options.name): \(error)")
    }
  }

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
  private func createMountPoint() {
    guard configuration.mountPoint == Configuration.defaultMountPoint else { return }
    mkdir("/run/relayd", 0o755)
    mkdir(configuration.mountPoint, 0o755)
  }

  /// The mount point as any process may name it, whatever directory it is in.
  private var mountPoint: String {
    guard let resolved = realpath(configuration.mountPoint, nil) else {
      return configuration.mountPoint
    }
    defer { free(resolved) }
    return String(cString: resolved)
  }

  private func announce(_ host: DeviceHost, _ devices: [Device]) {
    let how = host.backend == .cuse ? "CUSE" : "relayfs on \(configuration.mountPoint)"
    for served in channels {
      let geometry = served.channel.geometry
      let names = geometry.cpus.map { served.pathPrefix + "\($0)" }
      let all =
        names.count > 2 ? "\(names[0]) … \(names[names.count - 1])" : names.joined(separator: " ")
      logger.info(
        """
        channel \(served.channel.name): \(geometry.subbufCount) sub-buffers of \
        \(ByteSize.format(geometry.subbufSize)) for each of \(names.count) \
        buffer\(names.count == 1 ? "" : "s"), mode \(geometry.mode.rawValue): \(all)
        """)
    }
    logger.notice(
      """
      ready: \(devices.count) device\(devices.count == 1 ? "" : "s") through \(how), \
      control on \(configuration.socketPath)
      """)
    ServiceManager.notify("READY=1")
  }

  private func serveUntilSignal() throws {
    let stopper = SignalHandler { [self] in
      guard let signal = signals.next() else { return }
      logger.notice("\(signal == SIGTERM ? "SIGTERM" : "SIGINT"): ending")
      loop.stop()
    }
    try loop.add(signals.raw, .read, stopper)
    defer { loop.remove(signals.raw) }
    try loop.run()
  }

  /// Writers are refused from here on, readers are told and get a moment to drain; what nobody
  /// read is said.
  private func shutDown(_ host: DeviceHost) throws {
    ServiceManager.notify("STOPPING=1")
    for served in channels { served.channel.close() }
    try host.linger(milliseconds: 500)
    for served in channels {
      for reader in served.readers {
        let unread = reader.statistics().recordsUnread
        guard unread > 0 else { continue }
        logger.warning(
          "\(unread) records of \(served.pathPrefix)\(reader.buffer.cpu) were not read and are lost"
        )
      }
    }
  }
}

/// Runs a closure when a signal is pending.
private final class SignalHandler: EventHandler {
  private let onSignal: () -> Void

  init(onSignal: @escaping () -> Void) { self.onSignal = onSignal }

  func handle(_ events: Events, from fd: CInt) { onSignal() }
}
