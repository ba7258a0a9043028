// SPDX-License-Identifier: Apache-2.0
// The owner, group and mode of a device node. Who may change them does; for a daemon that may not,
// udev does, and this waits until it has.

internal import Glibc
internal import LinuxIO

struct NodeOwner {
  private let path: String
  private let wanted: FileOptions

  init(_ path: String, _ wanted: FileOptions) {
    self.path = path
    self.wanted = wanted
  }

  /// Returns once the node has the owner, group and mode that it should have.
  func settle() throws(HostError) {
    // The owner first: a mode is meant for the new one.
    if !isSettled, lchown(path, wanted.uid, wanted.gid) == 0 { chmod(path, wanted.permissions) }
    // A new uevent has to go through udev's queue.
    for _ in 0..<500 {
      if isSettled { return }
      poll(nil, 0, 10)
    }
    throw HostError(
      """
      \(path) \(difference): run relayd as root, or install its udev rule (60-relayd.rules)
      """)
  }

  /// What it is and should be; nil: it is as it should be.
  var deviation: String? { isSettled ? nil : difference }

  private var difference: String {
    "is \(now) and should be \(text(wanted.uid, wanted.gid, wanted.permissions))"
  }

  private var isSettled: Bool {
    now == text(wanted.uid, wanted.gid, wanted.permissions)
  }

  private var now: String {
    var status = stat()
    guard lstat(path, &status) == 0 else { return "gone" }
    return text(status.st_uid, status.st_gid, status.st_mode & 0o7777)
  }

  private func text(_ uid: UInt32, _ gid: UInt32, _ permissions: UInt32) -> String {
    let octal = String(permissions, radix: 8)
    return "\(uid):\(gid) " + String(repeating: "0", count: max(0, 4 - octal.count)) + octal
  }
}
