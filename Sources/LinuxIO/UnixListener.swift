// SPDX-License-Identifier: Apache-2.0
// A listening socket with a path that one process at a time may serve. PATH.lock decides who: a
// lock goes with its process, a socket file does not.

import CLinux
import Glibc

extension UnixSocket {
  /// Serves `path`, non-blocking, with exactly the file mode `mode`. A socket file that nobody
  /// serves any more is replaced. EADDRINUSE: another process serves it; EEXIST: something
  /// else stands there; ENAMETOOLONG: over `maximumPathLength` bytes. Whatever the mode, other
  /// users can take the path away only where they may remove files from its directory.
  public static func listen(
    path: String, mode: UInt32 = 0o600, backlog: Int = 128
  ) throws(SystemError) -> UnixListener {
    try UnixListener(path: path, mode: mode, backlog: backlog)
  }
}

/// Owns a listening socket and its files; removes the files when it goes away.
public struct UnixListener: ~Copyable, Sendable {
  public let path: String
  private let socket: FileDescriptor
  // Held as long as the socket file is ours.
  private let lock: FileDescriptor
  private var leavesSocket = false

  public var raw: CInt { socket.raw }

  init(path: String, mode: UInt32, backlog: Int) throws(SystemError) {
    let operation = "listen on \(path)"
    let socket = FileDescriptor(owning: try check(clinux_seqpacket(1), operation))
    guard path.utf8.count <= UnixSocket.maximumPathLength else {
      throw SystemError(code: ENAMETOOLONG, operation: operation)
    }
    let lock = try UnixListener.lock(path)
    do {
      try UnixListener.removeStale(path)
      try UnixListener.serve(socket.raw, path: path, mode: mode, backlog: backlog)
    } catch {
      unlink(UnixListener.lockPath(path))
      throw error
    }
    self.path = path
    self.socket = socket
    self.lock = lock
  }

  /// From now on nobody can connect. The socket's file stays, by which clients know that a
  /// successor is to come.
  public mutating func leaveSocket() {
    shutdown(socket.raw, CInt(SHUT_RDWR))
    leavesSocket = true
  }

  // The files go before the lock does, so a successor never finds them half removed.
  deinit {
    if !leavesSocket { unlink(path) }
    unlink(UnixListener.lockPath(path))
  }

  private static func lockPath(_ path: String) -> String { path + ".lock" }

  private static func lock(_ path: String) throws(SystemError) -> FileDescriptor {
    let name = lockPath(path)
    // Each turn is one predecessor that removed the file between our open and our lock, or a file
    // that we removed.
    for _ in 0..<100 {
      let lock = try FileDescriptor.open(name, O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
      if flock(lock.raw, LOCK_EX | LOCK_NB) != 0 {
        let code = errno == EWOULDBLOCK ? EADDRINUSE : errno
        throw SystemError(code: code, operation: "listen on \(path)")
      }
      var held = stat()
      var named = stat()
      try system(fstat(lock.raw, &held), "lock \(name)")
      guard lstat(name, &named) == 0, named.st_ino == held.st_ino, named.st_dev == held.st_dev
      else { continue }
      if held.st_uid == geteuid(), held.st_mode & 0o077 == 0 { return lock }
      // Another user could open it and keep every daemon out by locking it.
      try system(unlink(name), "remove \(name), which others may lock")
    }
    throw SystemError(code: EADDRINUSE, operation: "listen on \(path)")
  }

  private static func serve(
    _ socket: CInt, path: String, mode: UInt32, backlog: Int
  ) throws(SystemError) {
    let operation = "listen on \(path)"
    // Clients have none to send.
    clinux_refuse_descriptors(socket)
    // bind makes the file with the socket's own mode: a client that connects as soon as the name
    // appears finds the final permissions.
    try system(fchmod(socket, mode), operation)
    try check(clinux_bind_with_own_mode(socket, path), operation)
    do {
      // Where the directory has a default ACL, that took a part of it.
      try system(chmod(path, mode), operation)
      try system(Glibc.listen(socket, CInt(clamping: backlog)), operation)
    } catch {
      unlink(path)
      throw error
    }
  }

  private static func removeStale(_ path: String) throws(SystemError) {
    var status = stat()
    if lstat(path, &status) != 0 {
      if errno == ENOENT { return }
      throw SystemError(code: errno, operation: "listen on \(path)")
    }
    guard status.st_mode & S_IFMT == S_IFSOCK else {
      throw SystemError(code: EEXIST, operation: "listen on \(path)")
    }
    // Someone may serve it without our lock file; only a refusal proves that nobody does.
    let probe = FileDescriptor(owning: try check(clinux_seqpacket(1), "create a socket"))
    guard clinux_connect(probe.raw, path) == -ECONNREFUSED else {
      throw SystemError(code: EADDRINUSE, operation: "listen on \(path)")
    }
    try system(unlink(path), "remove \(path)")
  }
}

/// Throws errno for a call that returned -1.
private func system(_ result: CInt, _ operation: String) throws(SystemError) {
  if result != 0 { throw SystemError(code: errno, operation: operation) }
}
