// SPDX-License-Identifier: Apache-2.0
// What somebody did to a device node: removed it, put another file there, changed its owner or
// mode. A foreign file is not ours to remove; a place that is empty gets its node again.

internal import Glibc
internal import LinuxIO
internal import Synchronization

/// The place of one node. Used on the node's thread.
final class NodePlace {
  enum State {
    /// Our node is there, or another one that leads to our device.
    case ours
    case occupied
    case empty
  }

  private let path: String
  private let number: DeviceNumber
  private let watch: NodeWatch?
  private var watched: FileWatch.Number?
  private(set) var state = State.ours
  /// The owner and mode that were reported last; nil: those that it should have.
  private var reported: String?

  init(_ path: String, _ number: DeviceNumber, _ watch: NodeWatch?) {
    self.path = path
    self.number = number
    self.watch = watch
  }

  /// Looks what is there now, and has `onChange` called when something happens to that.
  func look(onChange: @escaping () -> Void) {
    // First: what happens after the look is reported.
    let next = watch?.add(path, for: self, onChange: onChange)
    if let watched, watched != next { watch?.remove(watched, for: self) }
    watched = next
    var status = stat()
    if lstat(path, &status) != 0 {
      state = .empty
    } else if status.st_mode & S_IFMT == S_IFCHR, DeviceNumber(UInt64(status.st_rdev)) == number {
      state = .ours
    } else {
      state = .occupied
    }
  }

  /// What it is now, where that is not as it should be, and was not returned before.
  func newDeviation(from wanted: FileOptions) -> String? {
    let deviation = NodeOwner(path, wanted).deviation
    defer { reported = deviation }
    return deviation == reported ? nil : deviation
  }

  func stop() {
    if let watched { watch?.remove(watched, for: self) }
    watched = nil
  }
}

// On the thread.
extension CuseNode {
  /// After something happened at its place.
  func look() {
    // A removed one goes with its last close.
    guard let place, !device.isRemoved else { return }
    let before = place.state
    place.look { [weak self] in self?.look() }
    device.noteFile(isThere: place.state == .ours)
    if place.state != before {
      tell(place.state)
    } else if place.state == .ours, let deviation = place.newDeviation(from: device.options) {
      thread.log("somebody changed \(path): it \(deviation)")
    }
    noteWhetherMissing()
  }

  private func tell(_ state: NodePlace.State) {
    switch state {
    case .ours: thread.log("\(path) leads to its channel again")
    case .occupied:
      thread.log(
        """
        somebody replaced \(path) by another file: nobody can open the channel's device there; \
        remove that file, and relayd makes the node again
        """)
    case .empty:
      let time = device.isOpen ? "when nobody has it open any more" : "now"
      thread.log("somebody removed \(path): it is made again \(time)")
    }
  }

  func noteWhetherMissing() {
    let isMissing = place?.state == .empty && !device.isOpen && !device.isRemoved
    // Relaxed: whoever reads it has this thread look again.
    let wasMissing = self.isMissing.exchange(isMissing, ordering: .relaxed)
    if isMissing, !wasMissing { thread.filesWentAway() }
  }

  /// Ends the session, without which the kernel makes no new node.
  func giveUpIfMissing() {
    look()
    // Relaxed: stored on this thread.
    if isMissing.load(ordering: .relaxed) { giveUp() }
  }
}
