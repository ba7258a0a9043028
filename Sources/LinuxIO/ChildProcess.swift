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
    var words: [String] = []
    var variable = environ
    while let entry = variable.pointee {
      let word = String(cString: entry)
      if environment[String(word.prefix { $0 != "=" })] == nil { words.append(word) }
      variable += 1
    }
    words += environment.map { "\($0.key)=\($0.value)" }
    let argv = arguments.map { strdup($0) } + [nil]
    let envp = words.map { strdup($0) } + [nil]
    defer { for string in argv + envp { free(string) } }
    var pid: Int32 = 0
    let code = posix_spawnp(&pid, arguments[0], &actions, &attributes, argv, envp)
    guard code == 0 else { throw SystemError(code: code, operation: "start \(arguments[0])") }
    self.pid = pid
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
