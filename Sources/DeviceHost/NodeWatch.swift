// SPDX-License-Identifier: Apache-2.0
// Whether something happens to the device nodes of one thread: removed, replaced, renamed, given to
// somebody else, hidden by a mount. Only tells that it is time to look.

internal import LinuxIO

/// Used on the loop's thread, costs nothing while nothing happens.
final class NodeWatch: EventHandler {
  private let loop: EventLoop
  private let files: FileWatch
  private var mounts: MountTable?
  /// Of all who watch, whether there is a file at their paths or not.
  private var onMount: [ObjectIdentifier: () -> Void] = [:]
  /// Of each file by who watches it: two paths may lead to one file.
  private var onChange: [FileWatch.Number: [ObjectIdentifier: () -> Void]] = [:]

  init(on loop: EventLoop) throws(SystemError) {
    self.loop = loop
    files = try FileWatch()
    try loop.add(files.raw, .read, self)
    mounts = MountTable(on: loop) { [weak self] in self?.lookAtAll() }
  }

  /// Watches what is at the path now, whatever it is, and the mounts; nil where nothing is there.
  func add(
    _ path: String, for watcher: AnyObject, onChange: @escaping () -> Void
  ) -> FileWatch.Number? {
    onMount[ObjectIdentifier(watcher)] = onChange
    guard let number = try? files.add(path) else { return nil }
    self.onChange[number, default: [:]][ObjectIdentifier(watcher)] = onChange
    return number
  }

  func remove(_ number: FileWatch.Number, for watcher: AnyObject) {
    guard onChange[number]?.removeValue(forKey: ObjectIdentifier(watcher)) != nil,
      onChange[number]!.isEmpty
    else { return }
    onChange[number] = nil
    files.remove(number)
  }

  /// Nobody watches mounts for it any more.
  func removeMounts(for watcher: AnyObject) { onMount[ObjectIdentifier(watcher)] = nil }

  func stop() {
    loop.remove(files.raw)
    mounts?.stop()
    mounts = nil
  }

  private func lookAtAll() {
    for look in Array(onMount.values) { look() }
  }

  func handle(_ events: Events, from fd: CInt) {
    do throws(SystemError) {
      let changed = try files.changes() ?? Set(onChange.keys)
      for look in changed.flatMap({ onChange[$0].map { Array($0.values) } ?? [] }) { look() }
    } catch {
      // Nothing is learned from it any more.
      stop()
    }
  }
}
