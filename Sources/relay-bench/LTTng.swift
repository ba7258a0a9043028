// SPDX-License-Identifier: Apache-2.0
// An LTTng-UST session like our channel: snapshot mode, so nothing is written out, overwriting,
// per-CPU buffers of the same size. Its writer is Peers/lttng_writer.c.

import LinuxIO

final class LTTngSession {
  enum Start {
    case running(LTTngSession)
    case unavailable(String)
  }

  /// "LTTng-UST 2.13.9"
  let version: String
  private let writer: String
  private let session: String
  private let environment: [String: String]
  // Released in this order: the daemon ends before its directory goes.
  private var daemon: Server?
  private let scratch: Scratch

  /// Starts a session daemon of our own unless one runs, and a session in it.
  static func start() throws -> Start {
    guard let version = try? Programs.run(["lttng", "--version"]), version.status == 0 else {
      return .unavailable("not installed (make bench-deps)")
    }
    guard let writer = Programs.peer("lttng_writer") else {
      return .unavailable("lttng_writer is not built (make bench-deps bench)")
    }
    let session = try LTTngSession(writer, version.output)
    do {
      try session.create()
    } catch {
      return .unavailable("\(error)")
    }
    return .running(session)
  }

  private init(_ writer: String, _ versionText: String) throws {
    self.writer = writer
    // "lttng (LTTng Trace Control) 2.13.9 - Nordicité"
    let number = versionText.split(separator: " ").first { $0.first?.isNumber == true }
    version = "LTTng-UST \(number ?? "?")"
    scratch = try Scratch()
    let name = scratch.path.split(separator: "/").last ?? "relay-bench"
    session = String(name)
    environment = [
      "LTTNG_HOME": scratch.path,
      // An event before the session is known would be lost, and lost events are cheap.
      "LTTNG_UST_REGISTER_TIMEOUT": "10000",
    ]
  }

  private func create() throws {
    if try !isDaemonRunning {
      let started = try Server(["lttng-sessiond", "--no-kernel"], environment: environment)
      daemon = started
      try started.wait { try isDaemonRunning }
    }
    try lttng(["create", session, "--snapshot", "--output", scratch.directory("snapshot")])
    try lttng([
      "enable-channel", "--session", session, "--userspace", "--overwrite", "--buffers-uid",
      "--subbuf-size", "\(WriteBench.subbufSize)", "--num-subbuf", "\(WriteBench.subbufCount)",
      "bench",
    ])
    try lttng([
      "enable-event", "--session", session, "--userspace", "--channel", "bench", "relay_bench:*",
    ])
    try lttng(["start", session])
  }

  private var isDaemonRunning: Bool {
    get throws {
      try Programs.run(["lttng", "--no-sessiond", "list"], environment: environment).status == 0
    }
  }

  private func lttng(_ arguments: [String]) throws {
    let done = try Programs.run(["lttng", "--no-sessiond"] + arguments, environment: environment)
    guard done.status == 0 else {
      throw BenchFailure("lttng \(arguments[0]): \(done.error)\(done.output)")
    }
  }

  /// Nanoseconds per event of `bytes` bytes, `count` of them from each of `cpus`.
  func time(_ bytes: Int, _ count: Int, _ cpus: [Int]) throws -> Double {
    let done = try Programs.run(
      [writer, "\(bytes)", "\(count)"] + cpus.map { "\($0)" }, environment: environment)
    guard done.status == 0, let time = Double(done.output.filter { !$0.isNewline }) else {
      throw BenchFailure("lttng_writer: \(done.error)\(done.output)")
    }
    return time
  }

  deinit { _ = try? lttng(["destroy", session]) }
}
