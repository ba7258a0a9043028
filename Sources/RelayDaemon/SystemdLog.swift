// SPDX-License-Identifier: Apache-2.0
// Log lines on standard error with the priorities of sd-daemon(3), which journald understands and
// a person can read.

internal import Glibc
public import Logging

/// Writes `<priority>message` lines, each with one write(2).
public struct SystemdLog: LogHandler {
  public var logLevel = Logger.Level.info
  public var metadata: Logger.Metadata = [:]
  public init() {}

  public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  public func log(event: LogEvent) {
    let priority =
      switch event.level {
      case .trace, .debug: 7
      case .info: 6
      case .notice: 5
      case .warning: 4
      case .error: 3
      case .critical: 2
      }
    // A message of several lines stays one entry.
    let text = event.message.description.split(separator: "\n").joined(separator: " ")
    let line = Array("<\(priority)>\(text)\n".utf8)
    _ = write(STDERR_FILENO, line, line.count)
  }
}
