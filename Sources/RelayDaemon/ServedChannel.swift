// SPDX-License-Identifier: Apache-2.0
// One channel as the daemon has it: its memory, its devices, and whose it is.

internal import DeviceHost
internal import Relay
internal import RelayControl

final class ServedChannel {
  /// Where a channel comes from, and with that when it ends.
  enum Origin: Equatable {
    /// The configuration: there until that changes.
    case configured
    /// Somebody's request; unless kept, it ends when nobody is attached any more.
    case created(uid: UInt32, isKept: Bool)
  }

  let options: ChannelOptions
  let origin: Origin
  let channel: Channel
  let identity: Identity
  /// The path of a buffer's file without its CPU number.
  let pathPrefix: String
  /// Its place in the order in which channels were opened.
  var serial = 0
  /// One for each buffer, by ascending CPU.
  private(set) var devices: [(cpu: Int, device: Device)] = []
  /// Connections that attached and are still there.
  var attached: Set<ConnectionID> = []

  init(
    _ options: ChannelOptions, _ origin: Origin, _ channel: Channel, _ identity: Identity,
    pathPrefix: String
  ) {
    self.options = options
    self.origin = origin
    self.channel = channel
    self.identity = identity
    self.pathPrefix = pathPrefix
    for buffer in channel.buffers { _ = addDevice(for: buffer) }
  }

  func addDevice(for buffer: ChannelBuffer) -> Device {
    let reader = Reader(channel, buffer)
    reader.stallTimeout = options.stallTimeout
    let device = Device(
      name: "\(channel.name)\(buffer.cpu)", reader: reader,
      options: identity.files(options))
    let place = devices.firstIndex { $0.cpu > buffer.cpu } ?? devices.endIndex
    devices.insert((buffer.cpu, device), at: place)
    return device
  }

  func path(cpu: Int) -> String { "\(pathPrefix)\(cpu)" }

  var isTemporary: Bool {
    if case .created(_, isKept: false) = origin { return true }
    return false
  }

  var creator: UInt32? {
    if case .created(let uid, _) = origin { return uid }
    return nil
  }

  /// The most memory it can take.
  var worstCaseBytes: Int { devices.count * channel.geometry.bufferBytes }
}
