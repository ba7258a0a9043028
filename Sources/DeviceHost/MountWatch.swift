// SPDX-License-Identifier: Apache-2.0
// Whether a mount is still where it was made, and not below another one, and which of its files
// are. Its session does not end while somebody has a file of it open, though nobody finds it any
// more (umount -l).

internal import Glibc
internal import LinuxIO

/// Watches one mount; costs nothing while none changes.
final class MountWatch {
  private var table: MountTable?
  private let mountPoint: String
  /// The device number of the mount, as the table has it.
  private let number: Substring
  private let onChange: (State) -> Void
  private var state = State.visible(except: [])

  enum State: Equatable {
    /// All but what is at these paths and below, where other mounts are.
    case visible(except: Set<String>)
    /// Another mount is on top of it, or of a directory that leads to it.
    case covered
    /// For good.
    case gone
  }

  /// nil where the table cannot be read, or does not have the mount.
  /// - Parameter onChange: called on the loop's thread.
  init?(_ mountPoint: String, on loop: EventLoop, onChange: @escaping (State) -> Void) {
    guard let number = MountTable.mounts().last(where: { $0.place == mountPoint })?.number
    else { return nil }
    self.mountPoint = mountPoint
    self.number = number
    self.onChange = onChange
    guard let table = MountTable(on: loop, onChange: { [weak self] in self?.lookAgain() })
    else { return nil }
    self.table = table
  }

  func stop() { table?.stop() }

  private func lookAgain() {
    // Twice: mounts may come and go while the table is read.
    let now = look()
    guard now != state, look() == now else { return }
    state = now
    if now == .gone { stop() }
    onChange(now)
  }

  private func look() -> State {
    let mounts = MountTable.mounts()
    guard let own = mounts.lastIndex(where: { $0.number == number && $0.place == mountPoint })
    else { return .gone }
    // The table has them in the order in which they were mounted.
    let later = mounts[(own + 1)...].map(\.place)
    let isCovered = later.contains {
      // What is mounted over the root is above what anybody here calls that.
      $0 != "/" && (mountPoint + "/").hasPrefix($0 + "/")
    }
    if isCovered { return .covered }
    return .visible(except: Set(later.filter { $0.hasPrefix(mountPoint + "/") }))
  }
}
