// SPDX-License-Identifier: Apache-2.0
// CPUs that come up while relayd runs: each channel of a buffer a CPU gets one more.

internal import DeviceHost
internal import LinuxIO
internal import Relay
internal import RelayControl

extension ChannelTable {
  /// Gives every channel a buffer and a file for each CPU that has none yet.
  func addCPUs(_ online: CPUSet) {
    for served in channels where !served.channel.geometry.isGlobal {
      let present = Set(served.devices.map(\.cpu))
      for cpu in online.cpus where !present.contains(cpu) { addCPU(cpu, to: served) }
    }
  }

  private func addCPU(_ cpu: Int, to served: ServedChannel) {
    do throws(ControlRefusal) {
      try checkMemory(
        served.channel.name, served.origin, additional: served.channel.geometry.bufferBytes)
      // Before the CPU is present: from then on its writers touch the memory.
      if served.options.isPrefaulted, cpu < served.channel.geometry.slotCount {
        try prefault(served.channel, cpus: [cpu])
      }
      // nil: more CPUs than were possible when the channel was opened.
      guard let buffer = served.channel.addBuffer(cpu: cpu) else { return }
      let device = served.addDevice(for: buffer)
      guard isServing else { return }
      do throws(HostError) {
        try host.add([device])
      } catch {
        throw ControlRefusal(code: error.code, message: error.description)
      }
      log(.info, "CPU \(cpu) came up: \(served.path(cpu: cpu))")
    } catch {
      log(.warning, "CPU \(cpu) came up, but: \(error)")
    }
  }
}
