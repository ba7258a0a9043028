// SPDX-License-Identifier: Apache-2.0
// Log lines on standard error: for a person at a terminal with a time and a word, for journald and
// whatever else stands there with the priorities of sd-daemon(3).

internal import Glibc
internal import LinuxIO
public import Logging

/// Writes each message as one line, with one write(2).
public struct StandardErrorLog: LogHandler {
  public var logLevel = Logger.Level.info
  public var metadata: Logger.Metadata = [:]
  // journald's end of standard error is no terminal.
  private let isTerminal = isatty(STDERR_FILENO) == 1

  public init() {}

  public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  public func log(event: LogEvent) {
    // A message of several lines stays one entry.
    let text = event.message.description.split(separator: "\n").joined(separator: " ").printable
    let prefix =
      isTerminal
      ? "\(StandardErrorLog.time()) \(event.level.rawValue): "
      : "<\(StandardErrorLog.priority(event.level))>"
    let line = Array("\(prefix)\(text)\n".utf8)
    _ = write(STDERR_FILENO, line, line.count)
  }

  private static func priority(_ level: Logger.Level) -> Int {
    switch level {
    case .trace, .debug: 7
    case .info: 6
    case .notice: 5
    case .warning: 4
    case .error: 3
    case .critical: 2
    }
  }

  /// The local time of day: "12:03:04".
  private static func time() -> String {
    var now = time_t()
    Glibc.time(&now)
    var parts = tm()
    localtime_r(&now, &parts)
    return [parts.tm_hour, parts.tm_min, parts.tm_sec].map { $0 < 10 ? "0\($0)" : "\($0)" }
      .joined(separator: ":")
  }
}
