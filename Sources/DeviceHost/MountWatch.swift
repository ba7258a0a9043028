// SPDX-License-Identifier: Apache-2.0
// Whether a mount is still where it was made, and not below another one. Its session does not end
// while somebody has a file of it open, though nobody finds it any more (umount -l).

internal import Glibc
internal import LinuxIO

/// Watches the mounts of this process's mount namespace; costs nothing while none changes.
final class MountWatch: EventHandler {
  private static let path = "/proc/self/mountinfo"

  private let loop: EventLoop
  private let table: FileDescriptor
  private let mountPoint: String
  /// The device number of the mount, as the table has it.
  private let number: Substring
  private let onChange: (State) -> Void
  private var state = State.visible

  enum State {
    case visible
    /// Another mount is on top of it, or of a directory that leads to it.
    case covered
    /// For good.
    case gone
  }

  /// nil where the table cannot be read, or does not have the mount.
  /// - Parameter onChange: called on the loop's thread.
  init?(_ mountPoint: String, on loop: EventLoop, onChange: @escaping (State) -> Void) {
    guard let table = try? FileDescriptor.open(MountWatch.path, O_RDONLY | O_CLOEXEC),
      let number = MountWatch.mounts().last(where: { $0.place == mountPoint })?.number
    else { return nil }
    self.loop = loop
    self.mountPoint = mountPoint
    self.number = number
    self.onChange = onChange
    let raw = table.raw
    self.table = table
    // A change is reported as an error, which is always asked for.
    guard (try? loop.add(raw, [], self)) != nil else { return nil }
  }

  func stop() { loop.remove(table.raw) }

  func handle(_ events: Events, from fd: CInt) {
    // Twice: mounts may come and go while the table is read.
    let now = look()
    guard now != state, look() == now else { return }
    state = now
    if now == .gone { stop() }
    onChange(now)
  }

  private func look() -> State {
    let mounts = MountWatch.mounts()
    guard let own = mounts.lastIndex(where: { $0.number == number && $0.place == mountPoint })
    else { return .gone }
    // The table has them in the order in which they were mounted.
    let isCovered = mounts[(own + 1)...].contains {
      // What is mounted over the root is above what anybody here calls that.
      $0.place != "/" && (mountPoint + "/").hasPrefix($0.place + "/")
    }
    return isCovered ? .covered : .visible
  }

  private static func mounts() -> [(number: Substring, place: String)] {
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
