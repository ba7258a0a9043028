// SPDX-License-Identifier: Apache-2.0
// The two ends of sd_notify(3): where a service tells its manager something, and where it is heard.

import CLinux
import Glibc

/// A service manager's end: a socket that only this user's processes (and root's) reach, and that
/// leaves nothing behind in any directory.
public struct NotifySocket: ~Copyable, Sendable {
  /// What NOTIFY_SOCKET is to say, as long as this process has the socket.
  public let name: String
  private let socket: FileDescriptor
  // Stands for the socket's file, which has no name any more.
  private let file: FileDescriptor

  public var raw: CInt { socket.raw }

  public init() throws(SystemError) {
    let operation = "make a notify socket in /tmp"
    let socket = FileDescriptor(owning: try check(clinux_notify_socket(), operation))
    var template = Array("/tmp/relayd-notify.XXXXXX".utf8CString)
    guard let made = mkdtemp(&template) else {
      throw SystemError(code: errno, operation: operation)
    }
    let directory = String(cString: made)
    let path = "\(directory)/socket"
    defer {
      unlink(path)
      rmdir(directory)
    }
    // bind makes the file with the socket's own mode.
    guard fchmod(socket.raw, 0o600) == 0 else {
      throw SystemError(code: errno, operation: operation)
    }
    try check(clinux_bind(socket.raw, path), operation)
    file = FileDescriptor(owning: try check(clinux_open_path(path), operation))
    name = "/proc/\(getpid())/fd/\(file.raw)"
    self.socket = socket
  }

  /// A service's end. Nothing on it waits longer than `timeoutMilliseconds`.
  /// - Parameter name: what NOTIFY_SOCKET says.
  public static func connect(
    _ name: String, timeoutMilliseconds: Int
  ) throws(SystemError) -> FileDescriptor {
    let socket = FileDescriptor(
      owning: try check(clinux_notify_connect(name), "reach the service manager at \(name)"))
    try check(
      clinux_set_timeout(socket.raw, UInt32(clamping: timeoutMilliseconds)),
      "set a socket's time-out")
    return socket
  }
}
