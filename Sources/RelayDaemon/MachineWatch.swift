// SPDX-License-Identifier: Apache-2.0
// What becomes of the machine while relayd runs: CPUs that come up, and /dev/cuse. Only tells that
// it is time to look.

internal import Glibc
internal import LinuxIO

final class MachineWatch: EventHandler {
  private let loop: EventLoop
  private let uevents: Uevents
  private let devices: DirectoryWatch
  private let onCPUs: () -> Void
  private let onCUSE: () -> Void

  /// - Throws: ENOMEM, EMFILE and the like. Look once after this.
  init(
    loop: EventLoop, onCPUs: @escaping () -> Void, onCUSE: @escaping () -> Void
  ) throws(SystemError) {
    self.loop = loop
    self.onCPUs = onCPUs
    self.onCUSE = onCUSE
    uevents = try Uevents()
    devices = try DirectoryWatch("/dev")
  }

  /// From now on; `stop` ends it.
  func start(watchingCUSE: Bool) throws(SystemError) {
    try loop.add(uevents.raw, .read, self)
    if watchingCUSE { try loop.add(devices.raw, .read, self) }
  }

  /// /dev/cuse is there: it is not looked for any more.
  func stopWatchingCUSE() { loop.remove(devices.raw) }

  func stop() {
    loop.remove(uevents.raw)
    loop.remove(devices.raw)
  }

  func handle(_ events: Events, from fd: CInt) {
    if fd == devices.raw {
      // The node appears, or its group and mode change so that we may open it.
      if let changes = try? devices.changes(), !changes.isEmpty { onCUSE() }
      return
    }
    var isCPU = false
    var isCUSE = false
    while let next = try? uevents.next() {
      switch next {
      case .lost: (isCPU, isCUSE) = (true, true)
      case .event(let event):
        if event.subsystem == "cpu", event.action == "online" { isCPU = true }
        // A module that is loaded late: the node may have been there all the time.
        if event.subsystem == "misc", event.devpath.hasSuffix("/cuse") { isCUSE = true }
      }
    }
    if isCPU { onCPUs() }
    if isCUSE { onCUSE() }
  }
}
