// SPDX-License-Identifier: Apache-2.0
// What somebody did to a device node: removed it, put another file there, mounted something over
// it, changed its owner or mode. A foreign file or mount is not ours to remove; a place that is
// empty gets its node again.

internal import Glibc
internal import LinuxIO
internal import Synchronization

/// The place of one node. Used on the node's thread.
final class NodePlace {
  enum State {
    /// Our node is there, or another one that leads to our device.
    case ours
    case occupied
    /// A mount is on top of it, or of a directory that leads to it.
    case covered
    case empty
  }

  private let path: String
  private let number: DeviceNumber
  private let watch: NodeWatch?
  private var watched: FileWatch.Number?
  /// The file system of the node.
  private let fileSystem: UInt64
  private(set) var state = State.ours
  /// What the log has said of the state, and of the owner and mode; nil: those that it should have.
  private var said = State.ours
  private var saidDeviation: String?
  /// The log left out what is to be said.
  private(set) var isOverdue = false

  init(_ path: String, _ number: DeviceNumber, _ watch: NodeWatch?) {
    self.path = path
    self.number = number
    self.watch = watch
    fileSystem = NodePlace.fileSystem(below: path)
  }

  /// That of the last directory of a path that is there.
  private static func fileSystem(below path: String) -> UInt64 {
    var status = stat()
    var directory = path[...]
    while let slash = directory.lastIndex(of: "/"), slash > directory.startIndex {
      directory = directory[..<slash]
      if stat(String(directory), &status) == 0 { break }
    }
    return UInt64(status.st_dev)
  }

  private var isBelowMount: Bool {
    NodePlace.fileSystem(below: path) != fileSystem
      || MountTable.mounts().contains { $0.place == path }
  }

  /// Looks what is there now, and has `onChange` called when something happens to that.
  func look(onChange: @escaping () -> Void) {
    // First: what happens after the look is reported.
    let next = watch?.add(path, for: self, onChange: onChange)
    if let watched, watched != next { watch?.remove(watched, for: self) }
    watched = next
    var status = stat()
    if lstat(path, &status) != 0 {
      state = isBelowMount ? .covered : .empty
    } else if status.st_mode & S_IFMT == S_IFCHR, DeviceNumber(UInt64(status.st_rdev)) == number {
      state = .ours
    } else {
      state = isBelowMount ? .covered : .occupied
    }
  }

  /// Has `log` say what is new of its state or, where that is ours, of its owner and mode; what the
  /// log leaves out is new the next time, too.
  func sayNews(
    _ wanted: FileOptions, log: (State, _ deviation: String?, _ isOverdue: Bool) -> Bool
  ) {
    let deviation = state == .ours ? NodeOwner(path, wanted).deviation : saidDeviation
    let isNew = state != said || deviation != nil && deviation != saidDeviation
    guard !isNew || log(state, state == said ? deviation : nil, isOverdue) else {
      isOverdue = true
      return
    }
    // The one after the other.
    if state == said { saidDeviation = deviation }
    said = state
    isOverdue = false
  }

  func stop() {
    if let watched { watch?.remove(watched, for: self) }
    watched = nil
    watch?.removeMounts(for: self)
  }
}

// On the thread.
extension CuseNode {
  /// After something happened at its place.
  func look() {
    // A removed one goes with its last close.
    guard let place, !device.isRemoved else { return }
    place.look { [weak self] in self?.look() }
    device.noteFile(isThere: place.state == .ours)
    place.sayNews(device.options) { state, deviation, isOverdue in
      if let deviation {
        // Its owner may change its mode as often as it likes.
        return thread.log(
          "somebody changed \(path): it \(deviation)", by: device.options.uid,
          isOverdue: isOverdue)
      }
      return thread.log(text(state), isOverdue: isOverdue)
    }
    // Relaxed: as in `noteWhetherMissing`.
    hasOverdueNews.store(place.isOverdue, ordering: .relaxed)
    noteWhetherMissing()
  }

  private func text(_ state: NodePlace.State) -> String {
    switch state {
    case .ours: return DeviceText.again(path)
    case .occupied:
      return """
        somebody replaced \(path) by another file: nobody can open the channel's device there; \
        remove that file, and relayd makes the node again
        """
    case .covered: return DeviceText.covered(path)
    case .empty:
      let time = device.isOpen ? "when nobody has it open any more" : "now"
      return "somebody removed \(path): it is made again \(time)"
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

/// What the log says of single files, whichever front end has them.
enum DeviceText {
  static func covered(_ path: String) -> String {
    """
    somebody mounted something over \(path): nobody can open the channel's device there until that \
    is unmounted
    """
  }

  static func again(_ path: String) -> String { "\(path) leads to its channel again" }
}
