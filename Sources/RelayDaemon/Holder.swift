// SPDX-License-Identifier: Apache-2.0
// relayd --hold: a small process that keeps a relayd's descriptors, as systemd's store would, and
// starts it again with them whenever it ends. One thread, which waits in poll; it maps nothing of
// what it keeps.

internal import Glibc
internal import LinuxIO
public import Logging

/// Keeps a program running, and what that gives it to keep.
public final class Holder {
  private let command: [String]
  private let logger: Logger
  private let signals: SignalFD
  private let socket: NotifySocket
  private let held: HeldDescriptors
  private var pace = RestartPace()
  /// Somebody asked for the end of both.
  private var isEnding = false
  /// Until the first instance is ready, or was killed: there is nothing to hold yet.
  private var isStarting = true

  /// Runs `command` until SIGTERM or SIGINT, again and again. Returns the status it ended with, as
  /// a shell says it. A program that does not start, or that ends by itself before it is ready, is
  /// not started again if that is the first time.
  public static func run(_ command: [String], logger: Logger) throws(DaemonError) -> Int {
    do throws(SystemError) {
      return try Holder(command, logger).run()
    } catch {
      throw DaemonError(description: "\(error)\(ProcessLimits.hint(error.code))")
    }
  }

  private init(_ command: [String], _ logger: Logger) throws(SystemError) {
    self.command = command
    self.logger = logger
    // The program starts with them blocked, too: none comes before it is prepared for it.
    signals = try SignalFD([SIGTERM, SIGINT, SIGHUP])
    signal(SIGPIPE, SIG_IGN)
    DescriptorLimit.raise()
    socket = try NotifySocket()
    let capacity = max(1, min(8192, DescriptorLimit.current - DescriptorLimit.spare))
    held = HeldDescriptors(capacity: capacity) { logger.warning("\($0)") }
  }

  private func run() throws(SystemError) -> Int {
    while true {
      let start = ContinuousClock.now
      let status: Int
      do throws(SystemError) {
        let child = try self.start()
        status = serve(child)
        if isEnding { return status }
        let how = status > 128 ? "was killed by signal \(status - 128)" : "ended with \(status)"
        // Wrong usage, or a configuration that cannot be: it said so itself.
        if isStarting && status <= 128 { return status }
        logger.error("relayd (process \(child.pid)) \(how); \(held.count) descriptors are held")
      } catch {
        guard !isStarting else { throw error }
        logger.error("\(error); \(held.count) descriptors are held")
        status = Int(EXIT_FAILURE)
      }
      isStarting = false
      let wait = pace.waitSeconds(afterLifeOf: ContinuousClock.now - start)
      if wait > 0 { logger.notice("relayd is started again in \(wait) s") }
      try pause(seconds: wait)
      if isEnding { return status }
    }
  }

  private func start() throws(SystemError) -> ChildProcess {
    let child = try ChildProcess(
      command, handingOver: held.handOver,
      environment: ["NOTIFY_SOCKET": socket.name, "FDSTORE": "\(held.capacity)"])
    logger.notice("relayd is process \(child.pid), started with \(held.count) descriptors")
    return child
  }

  /// Until the program ended. Returns how.
  private func serve(_ child: ChildProcess) -> Int {
    do throws(SystemError) {
      let process = try ProcessHandle(pid: child.pid)
      while true {
        try wait(for: [signals.raw, socket.raw, process.raw])
        // Before it is waited for: until then no other process can have its number, and what it
        // said at last is there.
        let hasEnded = process.hasExited
        for signal in nextSignals() { child.signal(signal == SIGHUP ? SIGHUP : SIGINT) }
        try hear(child)
        if hasEnded { return child.wait() }
      }
    } catch {
      // Two at once would be worse than none.
      logger.critical("\(error); ending the relayd that cannot be watched")
      child.signal(SIGTERM)
      return child.wait()
    }
  }

  /// Waits before the next start; any signal ends that.
  private func pause(seconds: Int) throws(SystemError) {
    try wait(for: [signals.raw], timeoutMilliseconds: seconds * 1000)
    _ = nextSignals()
  }

  private func nextSignals() -> [CInt] {
    var all: [CInt] = []
    while let signal = signals.next() {
      all.append(signal)
      guard signal != SIGHUP, !isEnding else { continue }
      isEnding = true
      logger.notice("\(signal == SIGTERM ? "SIGTERM" : "SIGINT"): ending for good")
      ServiceManager.notify("STOPPING=1")
    }
    return all
  }

  /// Reads what there is to hear, of which only the program's own counts: all that it said before
  /// now, which is less than any queue holds, however much others say.
  private func hear(_ child: ChildProcess) throws(SystemError) {
    try withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) {
      buffer throws(SystemError) in
      for _ in 0..<(1 << 16) {
        guard
          var packet = try UnixSocket.receive(
            socket.raw, into: buffer, maximumDescriptors: UnixSocket.maximumDescriptors,
            withSender: true, dontWait: true)
        else { return }
        let descriptors = packet.takeDescriptors()
        guard packet.sender == child.pid else { continue }
        if packet.isTruncated { logger.warning("a message of relayd's was cut off") }
        let text = String(decoding: buffer[..<packet.count], as: UTF8.self)
        passOn(held.obey(text, descriptors))
      }
    }
  }

  /// The holder's own service manager hears how the program is, but not that it ends: the service
  /// does not, and this process is the one it knows.
  private func passOn(_ lines: [Substring]) {
    if lines.contains("READY=1") { isStarting = false }
    let lines = lines.filter { $0 != "STOPPING=1" && !$0.hasPrefix("MAINPID=") }
    if !lines.isEmpty { ServiceManager.notify(lines.joined(separator: "\n")) }
  }

  /// Until one of them is readable, or there was a time-out (negative: none).
  private func wait(
    for descriptors: [CInt], timeoutMilliseconds: Int = -1
  ) throws(SystemError) {
    var all = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
    guard poll(&all, nfds_t(all.count), CInt(clamping: timeoutMilliseconds)) < 0, errno != EINTR
    else { return }
    throw SystemError(code: errno, operation: "wait for relayd")
  }
}
