// SPDX-License-Identifier: Apache-2.0
// Channels whose memory relayd takes when it makes them, so that its control group is charged and
// not that of whichever producer writes to a page first.

internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

extension ChannelTable {
  /// Takes the memory of these buffers now; all of it or none.
  func prefault(
    _ channel: Channel, cpus: [Int], resident: Int = 0
  ) throws(ControlRefusal) {
    let needed = max(0, cpus.count * channel.geometry.prefaultedBytes - resident)
    let left = MemoryLimit.left()
    guard needed <= left.bytes else {
      throw refusal(
        channel.name, ENOMEM,
        """
        prefault takes \(needed) bytes now, and \(left.source) \(left.bytes); make the channel \
        smaller, or leave prefault out: then its memory is taken as it is written to
        """)
    }
    do throws(SystemError) {
      for cpu in cpus { try channel.prefault(cpu: cpu) }
    } catch {
      throw refusal(channel.name, ENOMEM, "prefault: \(error)")
    }
  }

  /// What is in an adopted channel counts for more than where its memory is charged: it is served
  /// in any case.
  func prefaultAdopted(_ channel: Channel, _ options: ChannelOptions) {
    guard options.isPrefaulted else { return }
    do throws(ControlRefusal) {
      try prefault(channel, cpus: channel.cpus, resident: channel.residentBytes)
    } catch {
      log(.warning, "\(error); it is served as if prefault were false")
    }
  }
}
