// SPDX-License-Identifier: Apache-2.0
// The mounts of this process's mount namespace, and when they change. Which of them matter is
// looked at elsewhere.

internal import Glibc
internal import LinuxIO

/// Tells when a mount comes or goes; costs nothing while none does.
final class MountTable: EventHandler {
  private static let path = "/proc/self/mountinfo"

  private let loop: EventLoop
  private let table: FileDescriptor
  private let onChange: () -> Void

  /// nil where the table cannot be read.
  /// - Parameter onChange: called on the loop's thread.
  init?(on loop: EventLoop, onChange: @escaping () -> Void) {
    guard let table = try? FileDescriptor.open(MountTable.path, O_RDONLY | O_CLOEXEC)
    else { return nil }
    self.loop = loop
    self.onChange = onChange
    let raw = table.raw
    self.table = table
    // A change is reported as an error, which is always asked for; once.
    guard (try? loop.add(raw, [], self)) != nil else { return nil }
  }

  func stop() { loop.remove(table.raw) }

  func handle(_ events: Events, from fd: CInt) { onChange() }

  /// All of them, in the order in which they were mounted: the device number of what is mounted,
  /// and where.
  static func mounts() -> [(number: Substring, place: String)] {
    guard let bytes = try? Files.contents(of: path, atMost: 16 << 20) else { return [] }
    return String(decoding: bytes, as: UTF8.self).split(separator: "\n").compactMap { line in
      let fields = line.split(separator: " ", maxSplits: 5)
      guard fields.count > 4 else { return nil }
      return (fields[2], unescaped(fields[4]))
    }
  }

  /// Spaces and the like are written as a backslash and three octal digits.
  private static func unescaped(_ text: Substring) -> String {
    guard text.contains("\\") else { return String(text) }
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let first = rest.first {
      let digits = rest.dropFirst().prefix(3)
      if first == UInt8(ascii: "\\"), digits.count == 3,
        let code = UInt8(String(Substring(digits)), radix: 8)
      {
        bytes.append(code)
        rest = rest.dropFirst(4)
      } else {
        bytes.append(first)
        rest = rest.dropFirst()
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
