// SPDX-License-Identifier: Apache-2.0
// An application (Tests/Clients/application*) that is run twice, with librelay and with nothing in
// its place: what it does itself has to be the same. Faults come where it rests.

import Glibc
import LinuxIO
import Testing

/// What an application leaves.
struct Trace: Equatable {
  var status: Int
  var output: String
  var error: String
  /// What is in its directory, core dumps aside.
  var files: [String: String]
}

extension ChildProcess {
  /// Waits until it stops itself or ends; nil: it rests.
  private func awaitRest() -> ExitCode? {
    var status: CInt = 0
    while waitpid(pid, &status, WUNTRACED) < 0 && errno == EINTR {}
    if status & 0xff == 0x7f { return nil }
    return status & 0x7f == 0 ? ExitCode(status >> 8 & 0xff) : 128 + ExitCode(status & 0x7f)
  }

  /// Waits for its end; each time it stops itself, does one of `rests`, and has it go on.
  func wait(doing rests: [() throws -> Void]) throws -> ExitCode {
    var coming = rests[...]
    while true {
      if let status = awaitRest() { return status }
      do {
        try coming.popFirst()?()
      } catch {
        signal(SIGKILL)
        _ = wait()
        throw error
      }
      signal(SIGCONT)
    }
  }
}

/// A running application in a directory of its own, which ends itself after a minute.
final class Application {
  static let sources = ["application.c", "application_descriptors.c", "application_processes.c"]

  let directory: String
  private let process: ChildProcess
  private let output: FileDescriptor
  private let error: FileDescriptor

  /// - Parameters:
  ///   - daemon: nil: it runs without librelay.
  ///   - prefix: a command that becomes the application.
  init(
    _ scenario: [String], in scratch: Scratch, _ daemon: Daemon?, prefix: [String] = []
  ) throws {
    let library = try Library.get()
    let program =
      daemon == nil
      ? try library.program(
        "application-alone", Library.c + ["-DWITHOUT_RELAY", "-Wl,--as-needed"], Self.sources)
      : try library.program("application", Library.c, Self.sources)
    directory = "\(scratch.path)/\(daemon == nil ? "without" : "with")"
    mkdir(directory, 0o777)
    chmod(directory, 0o777)
    output = try outputFile("output")
    error = try outputFile("error")
    let null = try FileDescriptor.open("/dev/null", O_RDONLY)
    // Both have the same arguments: the kernel puts their names on the stack.
    process = try ChildProcess(
      prefix + ["env", "-C", directory, "bash", "-c", "exec -a application \"$0\" \"$@\"", program]
        + scenario,
      input: null.raw, output: output.raw, error: error.raw,
      environment: [
        "LD_LIBRARY_PATH": library.libraries,
        "RELAY_SOCKET": daemon?.socket ?? "\(scratch.path)/control",
      ])
  }

  /// Runs it to its end; `rests` says what happens where it rests.
  func finish(_ rests: [() throws -> Void] = []) throws -> Trace {
    let status = try process.wait(doing: rests)
    var files: [String: String] = [:]
    for name in try Files.names(in: directory) where !name.hasPrefix("core") {
      let file = try FileDescriptor.open("\(directory)/\(name)", O_RDONLY)
      files[name] = text(of: file.raw)
    }
    return Trace(
      status: status, output: text(of: output.raw), error: text(of: error.raw), files: files)
  }
}

/// The relayds that an application meets, one after the other, on one socket.
final class Daemons {
  private var channels: [String]
  let options: [String]
  private(set) var now: Daemon
  // The end of one before the last would take the mount away.
  private var past: [Daemon] = []

  init(_ channels: String..., options: [String] = []) throws {
    self.channels = channels
    self.options = options
    now = try Daemons.start(channels, options, in: Scratch())
    chmod(now.scratch.path, 0o755)
  }

  private static func start(
    _ channels: [String], _ options: [String], in scratch: Scratch
  ) throws -> Daemon {
    try Daemon(options: options + channels.flatMap { ["--channel", $0] }, in: scratch)
  }

  func end(_ signal: CInt) { now.end(signal) }

  /// Another one, with nothing of the one before.
  func start() throws {
    past.append(now)
    now = try Daemons.start(channels, options, in: now.scratch)
  }

  /// - Parameter channel: what it serves instead of what the one before did.
  func replace(_ signal: CInt = SIGKILL, with channel: String? = nil) throws {
    end(signal)
    if let channel { channels = [channel] }
    try start()
  }

  func stop() throws {
    now.process.signal(SIGSTOP)
    try eventually("relayd is stopped") {
      try run("cat", "/proc/\(now.process.pid)/stat").output.contains(") T ")
    }
  }

  /// All that can be read now.
  func read(_ buffer: String = "relay0") throws -> String {
    let cat = try run("timeout", "20", "cat", now.device(buffer))
    #expect(cat.status == 0, "\(cat.error)")
    return cat.output
  }

  /// Runs a scenario with librelay and without, and fails the test where the application's own
  /// files, output and status differ.
  func compare(
    _ scenario: [String], prefix: [String] = [], rests: [() throws -> Void] = [],
    at line: SourceLocation = #_sourceLocation
  ) throws -> Trace {
    let scratch = try Scratch()
    chmod(scratch.path, 0o755)
    let alone = try Application(scenario, in: scratch, nil, prefix: prefix).finish()
    let guest = try Application(scenario, in: scratch, now, prefix: prefix).finish(rests)
    #expect(guest.status == alone.status, "\(scenario)", sourceLocation: line)
    #expect(guest.output == alone.output, "\(scenario)", sourceLocation: line)
    #expect(guest.error == alone.error, "\(scenario)", sourceLocation: line)
    #expect(
      guest.files.keys.sorted() == alone.files.keys.sorted(), "\(scenario)", sourceLocation: line)
    for (name, text) in alone.files where guest.files[name] != text {
      Issue.record(
        "\(scenario): \(name) is \(guest.files[name] ?? "not there"), and without librelay \(text)",
        sourceLocation: line)
    }
    return alone
  }
}
