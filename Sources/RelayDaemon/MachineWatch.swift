// SPDX-License-Identifier: Apache-2.0
// What becomes of the machine while relayd runs: CPUs that come up, and /dev/cuse. Only tells that
// it is time to look.

internal import Glibc
internal import LinuxIO

final class MachineWatch: EventHandler {
  private let loop: EventLoop
  private let uevents: Uevents
  /// Only for who waits, because many things happen there.
  private let devices: Devices?
  private let onCPUs: () -> Void
  private let onCUSE: () -> Void

  /// - Throws: ENOMEM, EMFILE and the like.
  init(
    loop: EventLoop, waitsForCUSE: Bool, onCPUs: @escaping () -> Void,
    onCUSE: @escaping () -> Void
  ) throws(SystemError) {
    self.loop = loop
    self.onCPUs = onCPUs
    self.onCUSE = onCUSE
    // Whatever else happens to devices wakes nobody.
    uevents = try Uevents(["online@/devices/system/cpu/", "add@/devices/virtual/misc/cuse"])
    devices = waitsForCUSE ? try Devices() : nil
  }

  /// From now on; `stop` ends it. Look once after this.
  func start() throws(SystemError) {
    try loop.add(uevents.raw, .read, self)
    if let devices { try loop.add(devices.watch.raw, .read, self) }
  }

  /// /dev/cuse is there: it is not looked for any more.
  func stopWatchingCUSE() { if let devices { loop.remove(devices.watch.raw) } }

  func stop() {
    loop.remove(uevents.raw)
    stopWatchingCUSE()
  }

  func handle(_ events: Events, from fd: CInt) {
    guard fd == uevents.raw else { return devicesChanged() }
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

  private func devicesChanged() {
    // The node appears, or its group and mode change so that we may open it.
    if let changes = try? devices?.watch.changes(), !changes.isEmpty { onCUSE() }
  }

  /// What happens in /dev.
  private final class Devices {
    let watch: DirectoryWatch

    init() throws(SystemError) { watch = try DirectoryWatch("/dev") }
  }
}
