// SPDX-License-Identifier: Apache-2.0
// What a service manager is told, and given to keep: sd_notify(3), without its library.

internal import Glibc
internal import LinuxIO

enum ServiceManager {
  /// NOTIFY_SOCKET, where it names a socket that can be.
  static var socketName: String? {
    guard let value = getenv("NOTIFY_SOCKET") else { return nil }
    let name = String(cString: value)
    return name.utf8.count > 1 && (name.hasPrefix("/") || name.hasPrefix("@")) ? name : nil
  }

  /// That what follows until READY=1 is a reload.
  static func notifyReloading() {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    notify("RELOADING=1\nMONOTONIC_USEC=\(now.tv_sec * 1_000_000 + now.tv_nsec / 1000)")
  }

  /// Tells systemd, if it started us, for example "READY=1". Nobody listens: nothing happens, and a
  /// service manager that hears nothing has its own time limits.
  static func notify(_ state: String) {
    guard let socketName else { return }
    try? send(state, to: socketName)
  }

  /// Waits while its queue is full, which it may be; but not for ever: ETIMEDOUT.
  static func send(
    _ state: String, descriptors: [CInt] = [], to socketName: String,
    timeoutMilliseconds: Int = 5000
  ) throws(SystemError) {
    let socket = try NotifySocket.connect(socketName, timeoutMilliseconds: timeoutMilliseconds)
    var isSent: Result<Bool, SystemError> = .success(false)
    Array(state.utf8).withUnsafeBytes { bytes in
      isSent = Result { () throws(SystemError) in
        try UnixSocket.send(socket.raw, bytes, descriptors: descriptors)
      }
    }
    guard try isSent.get() else {
      throw SystemError(code: ETIMEDOUT, operation: "tell the service manager at \(socketName)")
    }
  }
}
