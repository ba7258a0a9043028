// SPDX-License-Identifier: Apache-2.0
// A relayctl read --follow that runs beside a test.

import Glibc
import LinuxIO
import Testing

/// Killed at the end, unless it has ended.
final class Follower {
  private let process: ChildProcess
  private let out: FileDescriptor
  private let err: FileDescriptor
  private var status: Int?

  init(_ daemon: Daemon, _ options: [String] = [], prefix: [String] = []) throws {
    out = try outputFile("out")
    err = try outputFile("error")
    process = try ChildProcess(
      prefix + [program("relayctl"), "read", "relay", "--follow"] + options, output: out.raw,
      error: err.raw, environment: ["RELAY_SOCKET": daemon.socket])
  }

  var output: String { text(of: out.raw) }
  var error: String { text(of: err.raw) }

  /// What was printed, without the times that records begin with.
  var records: [String] {
    output.split(separator: "\n").map { line in
      String(line.hasPrefix("[") ? line.drop { $0 != "]" }.dropFirst(2) : line)
    }
  }

  func signal(_ signal: CInt) { process.signal(signal) }

  func wait() -> Int {
    let result = status ?? process.wait()
    status = result
    return result
  }

  deinit {
    guard status == nil else { return }
    process.signal(SIGKILL)
    _ = process.wait()
  }
}
