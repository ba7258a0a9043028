// SPDX-License-Identifier: Apache-2.0
// A program of the table of clients in relay(4) that waits for data of a device, and what
// interrupts it.

import Glibc
import LinuxIO
import Testing

/// What ends a system call that waits although no signal handler runs. A suspend of the machine,
/// which no test can have, freezes all processes as the freezer of a control group does.
enum Interruption: String {
  /// SIGSTOP and SIGCONT.
  case stop
  /// A debugger, in the old way and in the new one.
  case attach, seize
  case freezer
}

/// A program that reads /dev/relay0, with its output.
final class WaitingClient {
  let process: ChildProcess
  private let out: FileDescriptor
  private var isReaped = false
  /// Where it is put to be frozen; goes away after it.
  private var group: ControlGroup?

  /// - Parameter command: for bash, which becomes the program; $NODE is the device.
  init(_ command: String, _ daemon: Daemon) throws {
    out = try outputFile("out")
    process = try ChildProcess(
      ["bash", "-c", "exec \(command)"], output: out.raw, error: out.raw,
      environment: ["NODE": daemon.device("relay0")])
  }

  var said: String { text(of: out.raw) }

  /// S sleeps, T is stopped, Z is over.
  var state: Substring {
    let stat = (try? run("cat", "/proc/\(process.pid)/stat").output) ?? ""
    return stat.components(separatedBy: ") ").last!.prefix(1)
  }

  /// Whether it has the device open and sleeps: in its read, or in its poll.
  var waitsForData: Bool {
    let files = try? run("bash", "-c", "readlink /proc/\(process.pid)/fd/*").output
    return files?.contains("relay0") == true && state == "S"
  }

  /// Ends the system call in which it waits, without a signal handler. Does nothing more to one
  /// that is over.
  func interrupt(by interruption: Interruption) throws {
    try eventually("it waits: \(said)") { waitsForData || state == "Z" }
    switch interruption {
    case .stop:
      process.signal(SIGSTOP)
      try eventually("it is stopped") { state == "T" || state == "Z" }
      process.signal(SIGCONT)
    case .attach, .seize:
      let debugger = try Library.get().program("debugger", Library.c, "debugger.c")
      let finished = try run("timeout", "20", debugger, interruption.rawValue, "\(process.pid)")
      guard finished.status != 0 else { return }
      try eventually("the debugger came, or there was none left: \(finished.error)", within: 5) {
        state == "Z"
      }
    case .freezer:
      guard state != "Z" else { return }
      guard let group = group ?? ControlGroup.freezer() else {
        throw Failure("no control group that can be frozen can be made here")
      }
      self.group = group
      try group.take(process.pid)
      try group.freezeAndThaw()
    }
  }

  /// Its exit status, bounded in time.
  func end() throws -> Int {
    try eventually("it is over: \(said)", within: 20) { state == "Z" }
    isReaped = true
    return process.wait()
  }

  // Once it is reaped its number may be another process's.
  deinit {
    guard !isReaped else { return }
    process.signal(SIGKILL)
    _ = process.wait()
  }
}
