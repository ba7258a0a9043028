// SPDX-License-Identifier: Apache-2.0
// The mapped consumers: which connection has which buffers, and what it is told.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

final class Consumers {
  private struct Buffer: Hashable {
    let channel: String
    let cpu: Int
  }

  private let host: DeviceHost
  private var leases: [ConnectionID: [Buffer: Lease]] = [:]

  init(host: DeviceHost) { self.host = host }

  /// Gives the buffer of a CPU to a connection.
  func map(
    _ served: ServedChannel, cpu: Int, unfinished: Bool, descriptorLimit: Int, for client: Client
  ) throws(ControlRefusal) -> MappedFiles {
    let (channel, connection) = (served.channel, client.connection)
    guard let (_, device) = served.devices.first(where: { $0.cpu == cpu }) else {
      let cpus = served.devices.prefix(20).map { "\($0.cpu)" }.joined(separator: ", ")
      throw ControlRefusal(
        code: ENOENT, message: "channel \(channel.name) has no buffer \(cpu); it has: \(cpus)")
    }
    let buffer = Buffer(channel: channel.name, cpu: cpu)
    let path = served.path(cpu: cpu)
    let files = channel.descriptors!
    let lease: Lease
    do throws(SystemError) {
      lease = try Lease(
        device, unfinished: unfinished, timeout: served.options.consumerTimeout,
        uid: client.peer.uid, pid: client.peer.pid)
    } catch { throw refusal(error.code, path) }
    // It stays open for as long as the buffer is mapped.
    guard lease.listenerDescriptor < descriptorLimit else { throw .noDescriptorLeft }
    do throws(SystemError) {
      let ring = try MemoryFile.readOnly(files.ring)
      // The old one lost the buffer, or is of an earlier channel of that name.
      try host.map(lease, device, replacing: leases[connection]?[buffer])
      leases[connection, default: [:]][buffer] = lease
      return MappedFiles(geometry: files.geometry, ring: ring, bell: lease.listenerDescriptor)
    } catch { throw refusal(error.code, path) }
  }

  func next(
    _ channel: String, cpu: Int, for connection: ConnectionID
  ) throws(ControlRefusal) -> NextPart {
    let lease = try find(channel, cpu, connection)
    switch host.next(lease) {
    case .lent(let lent): return .subbuf(lent)
    case .nothing: return .nothing
    case .end: return .end
    case .refused(let code): throw refusal(code, "\(channel)\(cpu)")
    }
  }

  func consumed(
    _ channel: String, cpu: Int, count: Int, for connection: ConnectionID
  ) throws(ControlRefusal) {
    let code = host.consumed(try find(channel, cpu, connection), count)
    if code != 0 { throw refusal(code, "\(channel)\(cpu)") }
  }

  func unmap(
    _ channel: String, cpu: Int, for connection: ConnectionID
  ) throws(ControlRefusal) {
    end(try find(channel, cpu, connection), Buffer(channel: channel, cpu: cpu), connection)
  }

  func has(_ connection: ConnectionID) -> Bool { leases[connection] != nil }

  /// The connection is over.
  func forget(_ connection: ConnectionID) {
    for (buffer, lease) in leases[connection] ?? [:] { end(lease, buffer, connection) }
  }

  private func end(_ lease: Lease, _ buffer: Buffer, _ connection: ConnectionID) {
    host.unmap(lease)
    leases[connection]?[buffer] = nil
    if leases[connection]?.isEmpty == true { leases[connection] = nil }
  }

  private func find(
    _ channel: String, _ cpu: Int, _ connection: ConnectionID
  ) throws(ControlRefusal) -> Lease {
    if let lease = leases[connection]?[Buffer(channel: channel, cpu: cpu)] { return lease }
    throw ControlRefusal(
      code: ENXIO, message: "\(channel)\(cpu) was not mapped through this connection; map it first")
  }

  private func refusal(_ code: CInt, _ buffer: String) -> ControlRefusal {
    let reason =
      switch code {
      case EBUSY:
        "it is open, or mapped by another consumer, or was taken from this user a moment ago"
      case EOPNOTSUPP:
        "its writers overwrite and have 2 sub-buffers, of which a consumer would leave them one: "
          + "it needs n_subbufs = 3 or more"
      case EINVAL: "more is reported as consumed than was handed out"
      case ENOBUFS: "as much as can be is handed out; report some of it as consumed"
      case ENOENT:
        "the memory that was mapped is gone, because its channel was closed or reset; "
          + "map it again"
      case ENXIO: "it is not served yet"
      case EIO: "its shared memory is damaged"
      case ESTALE: "what was handed out was given back: kept too long, or the channel was reset"
      case EDQUOT:
        "as many files of this user are open or mapped as may be (max_readers_per_user)"
      case EMFILE: "as many files are open as may be (max_readers), or descriptors"
      default: String(cString: strerror(code))
      }
    return ControlRefusal(code: code, message: "\(buffer): \(reason)")
  }
}

extension ControlRequests {
  func map(
    channel: String, cpu: Int, unfinished: Bool, descriptorLimit: Int, client: Client
  ) throws(ControlRefusal) -> MappedFiles {
    let served = try find(channel)
    try access.checkRead(client.peer, served)
    return try consumers.map(
      served, cpu: cpu, unfinished: unfinished, descriptorLimit: descriptorLimit, for: client)
  }

  func next(
    channel: String, cpu: Int, client: Client
  ) throws(ControlRefusal) -> NextPart {
    try consumers.next(channel, cpu: cpu, for: client.connection)
  }

  func consumed(
    channel: String, cpu: Int, count: Int, client: Client
  ) throws(ControlRefusal) {
    try consumers.consumed(channel, cpu: cpu, count: count, for: client.connection)
  }

  func unmap(channel: String, cpu: Int, client: Client) throws(ControlRefusal) {
    try consumers.unmap(channel, cpu: cpu, for: client.connection)
  }
}
