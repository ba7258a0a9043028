// SPDX-License-Identifier: Apache-2.0
// Other programs: where they are, what they print, and servers that run beside a measurement.

import Glibc
import LinuxIO

/// What stops a measurement.
struct BenchFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

enum Programs {
  /// A program that lies beside this one.
  static func sibling(_ name: String) throws -> String {
    var bytes = [UInt8](repeating: 0, count: Int(PATH_MAX))
    let count = readlink("/proc/self/exe", &bytes, bytes.count)
    guard count > 0 else { throw SystemError(code: errno, operation: "readlink /proc/self/exe") }
    let own = String(decoding: bytes[..<count], as: UTF8.self)
    let path = "\(own[..<(own.lastIndex(of: "/") ?? own.startIndex)])/\(name)"
    guard access(path, X_OK) == 0 else { throw BenchFailure("there is no \(path) (make build)") }
    return path
  }

  /// A peer that make bench has built; nil where its library is not installed.
  static func peer(_ name: String) -> String? {
    guard let directory = getenv("RELAY_PEERS") else { return nil }
    let path = "\(String(cString: directory))/\(name)"
    return access(path, X_OK) == 0 ? path : nil
  }

  /// Runs a program to its end.
  static func run(
    _ arguments: [String], environment: [String: String] = [:]
  ) throws -> (status: Int, output: String, error: String) {
    let output = try MemoryFile.create(name: "output", count: 0)
    let error = try MemoryFile.create(name: "error", count: 0)
    let child = try ChildProcess(
      arguments, output: output.raw, error: error.raw, environment: environment)
    return (child.wait(), text(of: output.raw), text(of: error.raw))
  }

  static func text(of fd: CInt) -> String {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = pread(fd, &buffer, buffer.count, off_t(bytes.count))
      guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
      bytes += buffer[..<count]
    }
  }
}

/// A directory for this run, removed at its end.
final class Scratch {
  let path: String

  init() throws {
    var template = Array("/tmp/relay-bench.XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else {
      throw SystemError(code: errno, operation: "create a directory in /tmp")
    }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  func directory(_ name: String) -> String {
    let directory = "\(path)/\(name)"
    mkdir(directory, 0o700)
    return directory
  }

  deinit { _ = try? Programs.run(["rm", "-rf", "--one-file-system", path]) }
}

/// A server that runs until this value goes away, or this program dies.
final class Server {
  private let name: String
  private let process: ChildProcess
  private let log: FileDescriptor

  init(_ arguments: [String], environment: [String: String] = [:]) throws {
    name = arguments[0]
    log = try MemoryFile.create(name: "log", count: 0)
    process = try ChildProcess(
      ["setpriv", "--pdeathsig", "TERM"] + arguments, output: log.raw, error: log.raw,
      environment: environment)
  }

  /// Looks until `isReady`; throws what the server said if it ended before, or took too long.
  func wait(until isReady: () throws -> Bool) throws {
    let deadline = nowNanoseconds() + 10_000_000_000
    while !(try isReady()) {
      guard !hasEnded else { throw BenchFailure("\(name) ended: \(Programs.text(of: log.raw))") }
      guard nowNanoseconds() < deadline else {
        throw BenchFailure("\(name) is not ready after 10 s: \(Programs.text(of: log.raw))")
      }
      poll(nil, 0, 5)
    }
  }

  private var hasEnded: Bool {
    var info = siginfo_t()
    return waitid(P_PID, id_t(process.pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0
      && info.si_signo != 0
  }

  deinit {
    process.signal(SIGTERM)
    _ = process.wait()
  }
}
