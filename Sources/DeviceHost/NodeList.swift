// SPDX-License-Identifier: Apache-2.0
// What udev's program reads (systemd/relayd-node): which device nodes are ours, and whose they are
// to be. Written before a node is made; believed only while the writer holds the lock, so that
// nothing is answered for a daemon that is gone.

internal import Glibc
internal import LinuxIO

/// A directory with one file for each node: its name with ! for /, "UID GID MODE" in it.
final class NodeList {
  static let directory = "/run/relayd/nodes"
  private let directory: String
  private let lock: FileDescriptor

  /// nil where it cannot be written, or another relayd keeps it: then there is no help from udev.
  init?(directory: String = NodeList.directory) {
    mkdir(directory, 0o755)
    var status = stat()
    // Never in a directory of somebody else's, who could have put links there.
    guard lstat(directory, &status) == 0, status.st_mode & S_IFMT == S_IFDIR,
      status.st_uid == geteuid(), let lock = NodeList.lock("\(directory)/.lock")
    else { return nil }
    self.directory = directory
    self.lock = lock
    for name in (try? Files.names(in: directory)) ?? [] where name != ".lock" {
      unlink("\(directory)/\(name)")
    }
  }

  /// udev's program holds it for a moment each time it looks.
  private static func lock(_ path: String) -> FileDescriptor? {
    guard let lock = try? FileDescriptor.open(path, O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
    else { return nil }
    for _ in 0..<100 {
      if flock(lock.raw, LOCK_EX | LOCK_NB) == 0 { return lock }
      poll(nil, 0, 10)
    }
    return nil
  }

  func add(_ device: Device) {
    let options = device.options
    let text = "\(options.uid) \(options.gid) 0\(String(options.permissions, radix: 8))\n"
    // Complete before it has its name.
    let part = "\(directory)/.part"
    unlink(part)
    guard let file = try? FileDescriptor.open(part, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644)
    else { return }
    let bytes = Array(text.utf8)
    guard write(file.raw, bytes, bytes.count) == bytes.count else { return }
    rename(part, path(device))
  }

  func remove(_ device: Device) { unlink(path(device)) }

  private func path(_ device: Device) -> String {
    "\(directory)/\(device.name.replacing("/", with: "!"))"
  }
}
