// SPDX-License-Identifier: Apache-2.0
// What udev's program (systemd/relayd-node) reads: which device nodes are ours, and whose they are
// to be. A name is there before its node, empty; what the node is to be is there as long as the
// device is ours, with its number. Believed only while the writer holds the lock, so that nothing
// is answered for a daemon that is gone.

internal import Glibc
internal import LinuxIO

/// A directory with one file for each node: its name with ! for /, in it "UID GID MODE" and, on a
/// line of its own, the device's number as stat(1) has it with %t:%T. Names are added by one
/// thread, and removed by any.
final class NodeList: Sendable {
  static let directory = "/run/relayd/nodes"
  private let directory: String
  private let lock: FileDescriptor

  /// nil where it cannot be written, or another relayd keeps it: then there is no help from udev.
  init?(directory: String = NodeList.directory) {
    mkdir(directory, 0o755)
    var status = stat()
    // Never in a directory of somebody else's, who could have put links there.
    guard lstat(directory, &status) == 0, status.st_mode & S_IFMT == S_IFDIR,
      status.st_uid == geteuid(),
      let lock = try? FileDescriptor.open(
        "\(directory)/.lock", O_RDWR | O_CREAT | O_NOFOLLOW, mode: 0o600)
    else { return nil }
    // A shared lock first, with which nothing is believed: a daemon that was killed left its names.
    guard NodeList.lock(lock.raw, LOCK_SH) else { return nil }
    for name in (try? Files.names(in: directory)) ?? [] where name != ".lock" {
      unlink("\(directory)/\(name)")
    }
    guard NodeList.lock(lock.raw, LOCK_EX) else { return nil }
    self.directory = directory
    self.lock = lock
  }

  /// udev's program holds it for a moment each time it looks.
  private static func lock(_ lock: CInt, _ kind: CInt) -> Bool {
    for _ in 0..<100 {
      if flock(lock, kind | LOCK_NB) == 0 { return true }
      poll(nil, 0, 10)
    }
    return false
  }

  /// Before the node is made: udev's program waits for the rest.
  func add(_ device: Device) { write("", device) }

  /// The device of this number is ours.
  func complete(_ device: Device, _ number: DeviceNumber) {
    let options = device.options
    func text(_ number: UInt32, _ radix: Int) -> String { String(number, radix: radix) }
    write(
      """
      \(options.uid) \(options.gid) 0\(text(options.permissions, 8))
      \(text(number.major, 16)):\(text(number.minor, 16))

      """, device)
  }

  private func write(_ text: String, _ device: Device) {
    // Complete before it has its name.
    let part = "\(directory)/.part"
    unlink(part)
    guard let file = try? FileDescriptor.open(part, O_WRONLY | O_CREAT | O_EXCL, mode: 0o644)
    else { return }
    let bytes = Array(text.utf8)
    guard Glibc.write(file.raw, bytes, bytes.count) == bytes.count else { return }
    rename(part, path(device))
  }

  /// Before the device goes, or as soon as it is known to be gone.
  func remove(_ device: Device) { unlink(path(device)) }

  private func path(_ device: Device) -> String {
    "\(directory)/\(device.name.replacing("/", with: "!"))"
  }
}
