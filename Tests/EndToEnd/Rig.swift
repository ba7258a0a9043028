// SPDX-License-Identifier: Apache-2.0
// A real relayd for one test: started on the back end under test, asked through the real relayctl,
// read by the real cat and dd.

import Glibc
import LinuxIO
import Testing

/// All suites: device names are the machine's, two tests at once would take each other's.
@Suite(.serialized) enum OneAtATime {}

/// Where the tests run: on /dev/relay* (`cuse`) or on the files of a FUSE mount (`fuse`).
enum Backend: String {
  case cuse, fuse

  /// Set by make test.
  static let underTest: Backend = {
    guard let name = environment("RELAY_TEST_BACKEND"), let backend = Backend(rawValue: name) else {
      preconditionFailure("RELAY_TEST_BACKEND is neither cuse nor fuse; use make test")
    }
    return backend
  }()
}

extension Trait where Self == ConditionTrait {
  /// The back end plays no part in it, and guests are slow.
  static var onceIsEnough: Self { .enabled(if: Backend.underTest == .fuse) }
}

func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// What started the tests passes descriptors on, more of them here than there: programs under small
/// limits must not have them. Once, before the first program.
private let keepInheritedDescriptors: Void = {
  for fd in 3..<1024 as Range<CInt> {
    let flags = fcntl(fd, F_GETFD)
    if flags >= 0 { _ = fcntl(fd, F_SETFD, flags | FD_CLOEXEC) }
  }
}()

/// The release programs, as users get them.
func program(_ name: String) -> String {
  keepInheritedDescriptors
  guard let directory = environment("RELAY_BIN") else {
    preconditionFailure("RELAY_BIN is not set; use make test")
  }
  return "\(directory)/\(name)"
}

struct Failure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// What a finished program left.
struct Finished {
  let status: Int
  let output: String
  let error: String
}

/// A scratch directory, removed at the end.
final class Scratch {
  let path: String

  init() throws {
    var template = Array("/tmp/relay-test.XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw Failure("mkdtemp") }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  deinit { _ = try? run("rm", "-rf", "--one-file-system", path) }
}

/// Runs a program to its end.
@discardableResult
func run(_ arguments: String..., environment: [String: String] = [:]) throws -> Finished {
  try run(arguments, environment: environment)
}

func run(_ arguments: [String], environment: [String: String] = [:]) throws -> Finished {
  let output = try outputFile("output")
  let error = try outputFile("error")
  let null = try FileDescriptor.open("/dev/null", O_RDONLY)
  let child = try ChildProcess(
    arguments, input: null.raw, output: output.raw, error: error.raw, environment: environment)
  let status = child.wait()
  return Finished(status: status, output: text(of: output.raw), error: text(of: error.raw))
}

/// The whole content of a file.
func text(of fd: CInt) -> String {
  var bytes: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let count = pread(fd, &buffer, buffer.count, off_t(bytes.count))
    guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
    bytes += buffer[..<count]
  }
}

/// A memory file for what programs print. Each print is appended: the kernel does not lock the
/// offset that processes share in a memory file, so they would overwrite each other's lines.
func outputFile(_ name: String) throws -> FileDescriptor {
  let file = try MemoryFile.create(name: name, count: 0)
  #expect(fcntl(file.raw, F_SETFL, O_APPEND) == 0)
  return file
}

/// Looks again and again until it is so; a test that waits longer has failed.
func eventually(
  _ what: @autoclosure () -> String, within seconds: Double = 30, _ condition: () throws -> Bool
) throws {
  var now = timespec()
  clock_gettime(CLOCK_MONOTONIC, &now)
  let deadline = Double(now.tv_sec) + Double(now.tv_nsec) / 1e9 + seconds
  while !(try condition()) {
    clock_gettime(CLOCK_MONOTONIC, &now)
    guard Double(now.tv_sec) + Double(now.tv_nsec) / 1e9 < deadline else {
      throw Failure("still not so after \(seconds) s: \(what())")
    }
    sched_yield()
    poll(nil, 0, 5)
  }
}

/// A running relayd.
final class Daemon {
  let scratch: Scratch
  let socket: String
  let mount: String
  let process: ChildProcess
  private let log: FileDescriptor
  private var isOver = false

  /// Starts it and waits until it says that it is ready.
  /// - Parameters:
  ///   - configuration: what its configuration file says beside where it serves.
  ///   - prefix: a command that runs it, such as setpriv.
  init(
    _ channels: String..., configuration: String? = nil, options: [String] = [],
    in scratch: Scratch? = nil, prefix: [String] = [], environment: [String: String] = [:]
  ) throws {
    let scratch = try scratch ?? Scratch()
    self.scratch = scratch
    socket = "\(scratch.path)/control"
    mount = "\(scratch.path)/mount"
    mkdir(mount, 0o755)
    log = try outputFile("log")
    var arguments = Daemon.arguments(socket, mount)
    if let configuration {
      arguments = ["--config", "\(scratch.path)/relayd.toml"]
      try Daemon.configure(scratch, configuration)
    }
    process = try ChildProcess(
      prefix + [program("relayd")] + arguments + options
        + channels.flatMap { ["--channel", $0] },
      error: log.raw, environment: environment)
    try eventually("relayd is ready: \(logText)") {
      if logText.contains("ready") { return true }
      guard !hasEnded else { throw Failure("relayd did not start: \(logText)") }
      return false
    }
  }

  static func arguments(_ socket: String, _ mount: String) -> [String] {
    ["--backend", Backend.underTest.rawValue, "--socket", socket]
      + (Backend.underTest == .fuse ? ["--mount", mount] : [])
  }

  /// Writes the configuration file of a daemon that was started with one.
  func configure(_ text: String) throws { try Daemon.configure(scratch, text) }

  private static func configure(_ scratch: Scratch, _ text: String) throws {
    // Settings of the text's own come later, and a key may be there once only.
    let own = [
      ("backend", Backend.underTest.rawValue), ("mount", "\(scratch.path)/mount"),
      ("socket", "\(scratch.path)/control"),
    ].filter { !text.contains("\($0.0) = ") }.map { "\($0.0) = \"\($0.1)\"\n" }
    let file = try FileDescriptor.open(
      "\(scratch.path)/relayd.toml", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
    let bytes = Array((own.joined() + text).utf8)
    guard Glibc.write(file.raw, bytes, bytes.count) == bytes.count else {
      throw Failure("write the configuration")
    }
  }

  var logText: String { text(of: log.raw) }

  /// A number from one of its files in /proc.
  func proc(_ file: String, _ key: String) throws -> Int {
    let text = try run("cat", "/proc/\(process.pid)/\(file)").output
    guard let line = text.split(separator: "\n").first(where: { $0.hasPrefix(key + ":") }),
      let number = Int(line.dropFirst(key.count + 1).filter(\.isNumber))
    else { throw Failure("no \(key) in /proc/…/\(file)") }
    return number
  }

  func descriptorCount() throws -> Int {
    try Files.names(in: "/proc/\(process.pid)/fd").count
  }

  /// Fails unless there are 2 seconds in which it does not run. The machine may wake it, by what
  /// happens to its devices, but not all the time.
  func requireSleep() throws {
    func switches() throws -> Int {
      let sum =
        "cat /proc/\(process.pid)/task/*/status | awk '/ctxt_switches/ { n += $2 } END { print n }'"
      return Int(try run("bash", "-c", sum).output.dropLast())!
    }
    try eventually("it sleeps for 2 s") {
      let before = try switches()
      poll(nil, 0, 2000)
      return try switches() == before
    }
  }

  private var hasEnded: Bool {
    var info = siginfo_t()
    return waitid(P_PID, id_t(process.pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0
      && info.si_signo != 0
  }

  /// The file of one channel buffer.
  func device(_ name: String) -> String {
    Backend.underTest == .cuse ? "/dev/\(name)" : "\(mount)/\(name)"
  }

  @discardableResult
  func relayctl(_ arguments: String...) throws -> Finished { try relayctl(arguments) }

  @discardableResult
  func relayctl(_ arguments: [String], prefix: [String] = []) throws -> Finished {
    try run(prefix + [program("relayctl")] + arguments, environment: ["RELAY_SOCKET": socket])
  }

  /// Fails the test where relayctl fails.
  func require(_ arguments: String...) throws {
    let finished = try relayctl(arguments)
    guard finished.status == 0 else { throw Failure("relayctl \(arguments): \(finished.error)") }
  }

  /// The names of its channels.
  func channels() throws -> [String] {
    try relayctl("list", "--json").output.components(separatedBy: "\"name\" : \"").dropFirst().map {
      String($0.prefix { $0 != "\"" })
    }
  }

  /// A relayctl write that is attached and waits for its input.
  func startWriter(_ channel: String = "relay", _ input: borrowing Pipe) throws -> ChildProcess {
    let writer = try ChildProcess(
      [program("relayctl"), "write", channel], input: input.read.raw,
      environment: ["RELAY_SOCKET": socket])
    try eventually("it is attached") {
      try run("cat", "/proc/\(writer.pid)/maps").output.contains("memfd:relay:\(channel)")
    }
    return writer
  }

  /// Writes text as lines.
  func write(_ text: String, to channel: String = "relay") throws {
    let finished = try shell("printf %s '\(text)' | \(program("relayctl")) write \(channel)")
    guard finished.status == 0 else { throw Failure("relayctl write: \(finished.error)") }
  }

  /// A shell command that knows the programs and the socket.
  @discardableResult
  func shell(_ command: String) throws -> Finished {
    try run(
      ["bash", "-c", "set -o pipefail; " + command],
      environment: ["RELAY_SOCKET": socket, "BIN": environment("RELAY_BIN")!])
  }

  /// One number of `relayctl stat --json`, summed over the buffers of a channel.
  func statistic(_ key: String, of channel: String = "relay") throws -> Int {
    let json = try relayctl("stat", channel, "--json").output
    let parts = json.components(separatedBy: "\"\(key)\" :").dropFirst()
    guard !parts.isEmpty else { throw Failure("no \(key) in \(json)") }
    return parts.reduce(0) { sum, part in
      sum + Int(part.drop { $0 == " " }.prefix { $0.isNumber })!
    }
  }

  /// Has the kernel end the session of a device, which on relayfs is that of all.
  func abort(_ name: String) throws {
    let fusectl = "\(scratch.path)/fusectl"
    let aborted = try shell(
      Backend.underTest == .cuse
        ? "echo 1 > /sys/class/cuse/\(name)/abort"
        : """
        mkdir -p \(fusectl) && mount -t fusectl none \(fusectl) &&
        number=$(awk '$5 == "\(mount)" { split($3, n, ":"); print n[2] }' /proc/self/mountinfo) &&
        echo 1 > \(fusectl)/$number/abort && umount \(fusectl)
        """)
    guard aborted.status == 0 else { throw Failure("abort \(name): \(aborted.error)") }
  }

  @discardableResult
  func end(_ signal: CInt = SIGTERM) -> Int {
    guard !isOver else { return -1 }
    isOver = true
    process.signal(signal)
    return process.wait()
  }

  deinit {
    end()
    // After a kill the mount is left behind.
    umount2(mount, CInt(MNT_DETACH))
  }
}

extension String {
  func components(separatedBy separator: String) -> [Substring] {
    var parts: [Substring] = []
    var rest = self[...]
    while let range = rest.firstRange(of: separator) {
      parts.append(rest[..<range.lowerBound])
      rest = rest[range.upperBound...]
    }
    return parts + [rest]
  }
}
