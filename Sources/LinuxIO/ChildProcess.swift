// SPDX-License-Identifier: Apache-2.0
// A child process: started with chosen descriptors, signalled, waited for.

internal import CLinux
internal import Glibc

/// A started program. Wait for it, or it stays a zombie.
public struct ChildProcess: Sendable {
  public let pid: Int32

  /// How a process ended, as a shell says it: its status, or 128 + the signal's number.
  public typealias ExitCode = Int

  /// Starts `arguments[0]`, found through PATH.
  /// - Parameters:
  ///   - input, output, error: descriptors to become 0, 1 and 2; nil: this process's own.
  ///   - environment: added to this process's.
  public init(
    _ arguments: [String], input: CInt? = nil, output: CInt? = nil, error: CInt? = nil,
    environment: [String: String] = [:]
  ) throws(SystemError) {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    for (source, target) in [(input, 0), (output, 1), (error, 2)] as [(CInt?, CInt)] {
      if let source { posix_spawn_file_actions_adddup2(&actions, source, target) }
    }
    // A worker thread's blocked signals are not the child's business.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    let argv = arguments.map { strdup($0) } + [nil]
    let envp = ChildProcess.environment(environment.mapValues { $0 }) + [nil]
    defer { for string in argv + envp { free(string) } }
    var pid: Int32 = 0
    let code = posix_spawnp(&pid, arguments[0], &actions, &attributes, argv, envp)
    guard code == 0 else { throw SystemError(code: code, operation: "start \(arguments[0])") }
    self.pid = pid
  }

  /// Starts `arguments[0]`, found through PATH, and hands it descriptors as sd_listen_fds(3) has
  /// it: from 3 on, with their names in LISTEN_FDNAMES, for the process LISTEN_PID alone. It
  /// inherits this process's blocked signals, too, and descriptors that are not close-on-exec.
  /// - Parameters:
  ///   - descriptors: in any order, 3 or higher; names without a colon.
  ///   - environment: added to this process's; nil: taken out.
  public init(
    _ arguments: [String], handingOver descriptors: [(name: String, raw: CInt)],
    environment: [String: String?]
  ) throws(SystemError) {
    // Then no place is needed before what stands there has gone to its own.
    let descriptors = descriptors.sorted { $0.raw < $1.raw }
    precondition(descriptors.allSatisfy { $0.raw >= 3 })
    var changes = environment
    let isEmpty = descriptors.isEmpty
    changes["LISTEN_FDS"] = .some(isEmpty ? nil : "\(descriptors.count)")
    changes["LISTEN_FDNAMES"] = .some(
      isEmpty ? nil : descriptors.map(\.name).joined(separator: ":"))
    changes["LISTEN_PID"] = .some(nil)
    let argv = arguments.map { strdup($0) } + [nil]
    let key = "LISTEN_PID="
    let pid = strdup(key + String(repeating: " ", count: 12))
    // Nobody who is handed nothing needs its number.
    let envp = ChildProcess.environment(changes) + (isEmpty ? [nil, pid] : [pid, nil])
    defer { for string in argv + envp { free(string) } }
    self.pid = try check(
      clinux_start(argv, envp, pid! + key.utf8.count, descriptors.map(\.raw), descriptors.count),
      "start \(arguments[0])")
  }

  /// This process's environment with changes (nil: without that variable), for `free`.
  private static func environment(_ changes: [String: String?]) -> [UnsafeMutablePointer<CChar>?] {
    var strings: [UnsafeMutablePointer<CChar>?] = []
    var variable = environ
    while let entry = variable.pointee {
      let name = String(cString: entry).prefix { $0 != "=" }
      if changes.index(forKey: String(name)) == nil { strings.append(strdup(entry)) }
      variable += 1
    }
    for (name, value) in changes {
      if let value { strings.append(strdup("\(name)=\(value)")) }
    }
    return strings
  }

  public func signal(_ signal: CInt) { kill(pid, signal) }

  /// Waits for its end.
  public func wait() -> ExitCode {
    var status: CInt = 0
    while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
    return status & 0x7f == 0 ? Int(status >> 8 & 0xff) : 128 + Int(status & 0x7f)
  }
}

/// A pipe, both ends close-on-exec.
public struct Pipe: ~Copyable {
  public let read: FileDescriptor
  public let write: FileDescriptor

  public init() throws(SystemError) {
    var ends: [CInt] = [-1, -1]
    try check(clinux_pipe(&ends), "pipe")
    read = FileDescriptor(owning: ends[0])
    write = FileDescriptor(owning: ends[1])
  }
}
