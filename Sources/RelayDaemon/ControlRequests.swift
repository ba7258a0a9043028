// SPDX-License-Identifier: Apache-2.0
// What the daemon does for each request on the control socket.

internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

/// One channel as the daemon serves it.
struct ServedChannel {
  let channel: Channel
  /// One for each of the channel's buffers.
  let readers: [Reader]
  /// The path of a buffer's file without its CPU number.
  let pathPrefix: String
}

/// Answers the control socket.
final class ControlRequests: ControlHandler {
  private let channels: [ServedChannel]
  private let producers: Producers
  private let backendName: String

  init(channels: [ServedChannel], producers: Producers, backendName: String) {
    self.channels = channels
    self.producers = producers
    self.backendName = backendName
  }

  func attach(
    channel: String, connection: ConnectionID, peer: PeerCredentials,
    process: consuming ProcessHandle
  ) throws(ControlRefusal) -> Attachment {
    let served = try find(channel)
    let owner = try producers.attach(served.channel, process: process, pid: peer.pid)
    let files = served.channel.descriptors!
    return Attachment(
      owner: owner, geometry: files.geometry, ring: files.ring, wake: files.wake)
  }

  func describe(index: Int) throws(ControlRefusal) -> ChannelDescription? {
    guard channels.indices.contains(index) else { return nil }
    let served = channels[index]
    let geometry = served.channel.geometry
    return ChannelDescription(
      name: served.channel.name, subbufSize: geometry.subbufSize,
      subbufCount: geometry.subbufCount, isOverwrite: geometry.mode == .overwrite,
      isGlobal: geometry.isGlobal, cpus: served.channel.cpus, frontEnd: backendName,
      pathPrefix: served.pathPrefix)
  }

  func statistics(
    channel: String, bufferIndex: Int
  ) throws(ControlRefusal) -> BufferStatistics? {
    let served = try find(channel)
    guard served.readers.indices.contains(bufferIndex) else { return nil }
    let reader = served.readers[bufferIndex]
    let cpu = reader.buffer.cpu
    return BufferStatistics(reader.statistics(), cpu: cpu, path: served.pathPrefix + "\(cpu)")
  }

  func flush(channel: String) throws(ControlRefusal) {
    let served = try find(channel)
    switch served.channel.flush() {
    case .flushed: return
    case .full:
      throw ControlRefusal(
        code: ENOBUFS, message: "channel \(channel) is full: read it, then flush again")
    case .closed: throw ControlRefusal(code: EPIPE, message: "channel \(channel) is closed")
    case .corrupt:
      throw ControlRefusal(
        code: EIO, message: "the shared memory of channel \(channel) is damaged")
    }
  }

  func reset(channel: String) throws(ControlRefusal) {
    for reader in try find(channel).readers { reader.reset() }
  }

  // A producer's end is its process's, not its connection's.
  func disconnected(_ connection: ConnectionID) {}

  private func find(_ name: String) throws(ControlRefusal) -> ServedChannel {
    if let served = channels.first(where: { $0.channel.name == name }) { return served }
    let names = channels.map(\.channel.name).joined(separator: ", ")
    throw ControlRefusal(code: ENOENT, message: "no channel \(name); there are: \(names)")
  }
}

extension BufferStatistics {
  init(_ s: Statistics, cpu: Int, path: String) {
    self.init(cpu: cpu, path: path)
    recordsWritten = s.recordsWritten
    recordsRead = s.recordsRead
    recordsUnread = s.recordsUnread
    bytesWritten = s.bytesWritten
    bytesRead = s.bytesRead
    bytesUnread = s.bytesUnread
    padding = s.padding
    subbufsProduced = s.subbufsProduced
    subbufsConsumed = s.subbufsConsumed
    lostFull = s.lostFull
    lostTooBig = s.lostTooBig
    lostOverwritten = s.lostOverwritten
    lostStalled = s.lostStalled
    aborted = s.aborted
    cancelled = s.cancelled
    corrupt = s.corrupt
  }
}
