// SPDX-License-Identifier: Apache-2.0
// The small text files that one relayd leaves for the next in the runtime directory: where they
// are, and how they are read and replaced. What is in them is the business of who has them.

internal import Glibc
internal import LinuxIO

/// A small file that is always whole: it is replaced, never changed.
struct RuntimeFile {
  let path: String
  private static let maximumBytes = 16 << 20

  /// What it says; nil where there is none.
  /// - Throws: also for a file of another user's, who could have put anything there: EPERM.
  func read() throws(SystemError) -> [UInt8]? {
    var status = stat()
    guard lstat(path, &status) == 0 else {
      if errno == ENOENT || errno == ENOTDIR { return nil }
      throw SystemError(code: errno, operation: "read \(path)")
    }
    guard status.st_mode & S_IFMT == S_IFREG, status.st_uid == geteuid() else {
      throw SystemError(
        code: EPERM, operation: "read \(path), which is not a file of relayd's user")
    }
    return try Files.contents(of: path, atMost: RuntimeFile.maximumBytes)
  }

  /// Whoever reads it finds the old text or the new one, whenever this process dies.
  func replace(_ text: String) throws(SystemError) {
    let part = path + ".part"
    unlink(part)
    do {
      let file = try FileDescriptor.open(
        part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o644)
      var bytes = Array(text.utf8)[...]
      while !bytes.isEmpty {
        let count = bytes.withUnsafeBytes { write(file.raw, $0.baseAddress!, $0.count) }
        guard count > 0 else { throw SystemError(code: errno, operation: "write \(part)") }
        bytes = bytes.dropFirst(count)
      }
    }
    guard rename(part, path) == 0 else {
      throw SystemError(code: errno, operation: "rename \(part) to \(path)")
    }
  }

  func remove() { unlink(path) }
}

enum RuntimeFiles {
  /// What nobody had read when a relayd ended. A relayd with a socket of its own has a file of its
  /// own, too.
  static func lost(socket: String) -> RuntimeFile {
    if let directory { return RuntimeFile(path: "\(directory)/lost") }
    return RuntimeFile(
      path: socket == "/run/relayd/control" ? "/run/relayd/lost" : "\(socket).lost")
  }

  /// How many relayds in a row lived for a short time only; nil where nobody starts them so.
  static var shortLives: RuntimeFile? {
    // systemd itself, and not a process of its, such as relayd --hold, which has a pace of its own.
    guard let starter = getenv("SYSTEMD_EXEC_PID"), String(cString: starter) == "\(getpid())" else {
      return nil
    }
    return directory.map { RuntimeFile(path: "\($0)/short-lives") }
  }

  /// RuntimeDirectory= of the unit.
  private static var directory: String? {
    guard let value = getenv("RUNTIME_DIRECTORY") else { return nil }
    let first = String(cString: value).prefix { $0 != ":" }
    return first.first == "/" ? String(first) : nil
  }
}
