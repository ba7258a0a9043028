// SPDX-License-Identifier: Apache-2.0
// The one line a service manager is told: sd_notify(3), without its library.

internal import Glibc
internal import LinuxIO

enum ServiceManager {
  /// That what follows until READY=1 is a reload.
  static func notifyReloading() {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    notify("RELOADING=1\nMONOTONIC_USEC=\(now.tv_sec * 1_000_000 + now.tv_nsec / 1000)")
  }

  /// Tells systemd, if it started us, for example "READY=1". Nobody listens: nothing happens.
  static func notify(_ state: String) {
    guard let value = getenv("NOTIFY_SOCKET") else { return }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    var path = Array(String(cString: value).utf8)
    guard path.count > 1, path.count < MemoryLayout.size(ofValue: address.sun_path) else { return }
    // An @ stands for the zero byte of an abstract name.
    if path[0] == UInt8(ascii: "@") { path[0] = 0 }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path) }
    let raw = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    // Out of descriptors: the service manager has its own time limits.
    guard raw >= 0 else { return }
    let socket = FileDescriptor(owning: raw)
    let length = socklen_t(MemoryLayout<sa_family_t>.size + path.count)
    let bytes = Array(state.utf8)
    withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        _ = sendto(socket.raw, bytes, bytes.count, Int32(MSG_NOSIGNAL), $0, length)
      }
    }
  }
}
