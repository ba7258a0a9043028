// SPDX-License-Identifier: Apache-2.0
// One channel as the daemon has it: its memory, its devices, and whose it is.

internal import DeviceHost
internal import LinuxIO
internal import Relay
internal import RelayControl

final class ServedChannel {
  /// Where a channel comes from, and with that when it ends.
  enum Origin: Equatable {
    /// The configuration: there until that changes.
    case configured
    /// Somebody's request; unless kept, it ends when nobody is attached any more.
    case created(uid: UInt32, isKept: Bool)

    /// The user who created it; nil: the configuration is the administrator's.
    var creator: UInt32? {
      if case .created(let uid, _) = self { uid } else { nil }
    }

    /// It counts to no user's share.
    var isPrivileged: Bool { creator.map(Share.isPrivileged) ?? true }
  }

  let options: ChannelOptions
  let origin: Origin
  /// Another one once a reset replaces its memory.
  private(set) var channel: Channel
  let identity: Identity
  /// The path of a buffer's file without its CPU number.
  let pathPrefix: String
  /// Its place in the order in which channels were opened.
  var serial = 0
  /// One for each buffer, by ascending CPU.
  private(set) var devices: [(cpu: Int, device: Device)] = []
  /// Connections that attached and are still there.
  var attached: Set<ConnectionID> = []
  let losses = ChannelLosses()
  /// Owner ids of processes that attached to the relayd before and have not asked this one.
  var silent: Set<UInt16> = []
  var resets = Resets()

  private init(
    _ options: ChannelOptions, _ origin: Origin, _ channel: Channel, _ identity: Identity,
    _ readers: [Reader], pathPrefix: String
  ) {
    self.options = options
    self.origin = origin
    self.channel = channel
    self.identity = identity
    self.pathPrefix = pathPrefix
    for reader in readers { _ = addDevice(reader) }
  }

  convenience init(
    _ options: ChannelOptions, _ origin: Origin, _ channel: Channel, _ identity: Identity,
    pathPrefix: String
  ) {
    self.init(
      options, origin, channel, identity, channel.buffers.map { Reader(channel, $0) },
      pathPrefix: pathPrefix)
  }

  /// One that another process opened, read on where it stopped.
  /// - Throws: what is wrong with the stored positions.
  convenience init(
    adopting channel: Channel, _ options: ChannelOptions, _ origin: Origin, _ identity: Identity,
    pathPrefix: String
  ) throws(ChannelError) {
    var readers: [Reader] = []
    for buffer in channel.buffers { readers.append(try Reader(adopting: channel, buffer)) }
    self.init(options, origin, channel, identity, readers, pathPrefix: pathPrefix)
  }

  func addDevice(for buffer: ChannelBuffer) -> Device { addDevice(Reader(channel, buffer)) }

  private func addDevice(_ reader: Reader) -> Device {
    let buffer = reader.buffer
    reader.stallTimeout = options.stallTimeout
    let device = Device(
      name: "\(channel.name)\(buffer.cpu)", reader: reader,
      options: identity.files(options))
    let place = devices.firstIndex { $0.cpu > buffer.cpu } ?? devices.endIndex
    devices.insert((buffer.cpu, device), at: place)
    return device
  }

  /// Its devices serve that memory already.
  func renew(_ channel: Channel) { self.channel = channel }

  /// A buffer of it is.
  var isDamaged: Bool { !losses.damagedCPUs.isEmpty }

  func path(cpu: Int) -> String { "\(pathPrefix)\(cpu)" }

  var isTemporary: Bool {
    if case .created(_, isKept: false) = origin { return true }
    return false
  }

  /// It is for as long as somebody writes, and nobody does any more.
  var isAbandoned: Bool { isTemporary && attached.isEmpty && silent.isEmpty }

  var creator: UInt32? { origin.creator }

  /// Whose allowance the log's lines about it take.
  var logUser: UInt32 { creator ?? 0 }

  /// The most memory it can take.
  var worstCaseBytes: Int { devices.count * channel.geometry.bufferBytes }
}
