// SPDX-License-Identifier: Apache-2.0
// What the daemon does for each request on the control socket: checks who asks, then has it done.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

final class ControlRequests: ControlHandler {
  let table: ChannelTable
  let host: DeviceHost
  private let producers: Producers
  private let openRecords: OpenRecordWatch
  private let life: LifePage
  let consumers: Consumers
  /// Reads the configuration again; returns what could not be done.
  private let reloadConfiguration: () -> [String]
  /// Answers a request that was put off; with why it could not be done, or nil.
  var finish: (ConnectionID, ControlRefusal?) -> Void = { _, _ in }
  var access: Access
  /// Whether users see only their own processes, as last looked at, and when.
  private var hidesProcesses: (is: Bool, at: Int)?
  /// Milliseconds between two looks: there may be many mounts, and requests.
  private static let restPerLook = 100

  init(
    table: ChannelTable, host: DeviceHost, producers: Producers, openRecords: OpenRecordWatch,
    life: LifePage, access: Access, reload: @escaping () -> [String]
  ) {
    self.table = table
    self.host = host
    self.producers = producers
    self.openRecords = openRecords
    self.life = life
    consumers = Consumers(host: host)
    self.access = access
    reloadConfiguration = reload
  }

  var nanosecondsElsewhere: Int { host.jobNanoseconds }

  func attach(
    channel: String, client: Client, process: consuming ProcessHandle
  ) throws(ControlRefusal) -> Attachment {
    try attach(channel, client.connection, by: client.peer, client.peer, process)
  }

  func grant(channel: String, client: Client) throws(ControlRefusal) {
    let served = try find(channel)
    try access.checkWrite(client.peer, served)
    // A temporary channel waits for the child.
    served.attached.insert(client.connection)
  }

  func redeem(
    channel: String, parent: Client, child: PeerCredentials, process: consuming ProcessHandle
  ) throws(ControlRefusal) -> Attachment {
    try attach(channel, parent.connection, by: parent.peer, child, process)
  }

  /// - by: whose right it is, and to whose user's limit the process counts.
  private func attach(
    _ channel: String, _ connection: ConnectionID, by right: PeerCredentials,
    _ peer: PeerCredentials, _ process: consuming ProcessHandle
  ) throws(ControlRefusal) -> Attachment {
    let served = try find(channel)
    try access.checkWrite(right, served)
    let files = served.channel.descriptors!
    let ring: FileDescriptor
    do throws(SystemError) {
      // The flag belongs to the open file: each client gets one of its own.
      ring = try MemoryFile.appendOnly(files.ring)
    } catch { throw ControlRefusal(code: error.code, message: "channel \(channel): \(error)") }
    let owner = try producers.attach(
      served.channel, limit: served.options.maximumProducers, process: process,
      peer: peer, account: right.uid)
    served.attached.insert(connection)
    served.silent.remove(owner)
    return Attachment(
      owner: owner, geometry: files.geometry, ring: ring, wake: files.wake,
      life: life.descriptor)
  }

  func disconnected(_ connection: ConnectionID) {
    consumers.forget(connection)
    for served in table.channels where served.attached.remove(connection) != nil {
      // The last detach. Who wrote may live on, with memory that nobody reads any more.
      if served.isAbandoned { table.onAbandoned(served) }
    }
  }

  func describe(index: Int, client: Client) throws(ControlRefusal) -> ChannelDescription? {
    table.listed(from: index).map(describe)
  }

  func describeDamaged(index: Int, client: Client) throws(ControlRefusal) -> ChannelDescription? {
    table.listed(from: index, where: \.isDamaged).map(describe)
  }

  private func describe(_ served: ServedChannel, _ isClosed: Bool) -> ChannelDescription {
    let geometry = served.channel.geometry
    // Where the file is another program's, or not there, nobody is sent to it.
    let cpus = served.devices.filter { host.hasFile($0.device) }.map(\.cpu)
    return ChannelDescription(
      name: served.channel.name, subbufSize: geometry.subbufSize,
      subbufCount: geometry.subbufCount, isOverwrite: geometry.mode == .overwrite,
      isGlobal: geometry.isGlobal, hasTimestamps: geometry.hasTimestamps, cpus: cpus,
      frontEnd: host.backend.rawValue, pathPrefix: served.pathPrefix,
      readMode: served.options.read.rawValue, wakeup: served.options.wakeup.rawValue,
      isTemporary: served.isTemporary, isClosed: isClosed, serial: served.serial)
  }

  func statistics(
    channel: String, bufferIndex: Int, client: Client
  ) throws(ControlRefusal) -> BufferStatistics? {
    let served = if let counted = table.counted(channel) { counted } else { try find(channel) }
    guard served.devices.indices.contains(bufferIndex) else { return nil }
    let (cpu, device) = served.devices[bufferIndex]
    return BufferStatistics(
      cpu: cpu, path: served.path(cpu: cpu), counts: host.statistics(of: device))
  }

  func producer(
    serial: Int, index: Int, client: Client
  ) throws(ControlRefusal) -> ProducerDescription? {
    let hidesOthers = hidesProcesses(from: client.peer)
    var (serial, index) = (serial, index)
    while let producer = producers.first(
      from: serial, where: { !hidesOthers || $0.uid == client.peer.uid })
    {
      let at = producer.serial == serial ? index : 0
      // One whose channels are all gone has a line, too.
      if at < max(1, producer.uses.count) { return describe(producer, at) }
      (serial, index) = (producer.serial + 1, 0)
    }
    return nil
  }

  func hidesProcesses(from peer: PeerCredentials) -> Bool {
    guard !Access.isAdministrator(peer) else { return false }
    let now = Clock.milliseconds()
    if let known = hidesProcesses, now - known.at < ControlRequests.restPerLook { return known.is }
    let hides = Access.hidesProcesses()
    hidesProcesses = (hides, now)
    return hides
  }

  private func describe(_ producer: Producer, _ index: Int) -> ProducerDescription {
    let channel = index < producer.uses.count ? producer.uses[index].channel : nil
    let held = channel.map { openRecords.held($0, owner: producer.owner) } ?? [:]
    let most = held.sorted { ($0.value.subbufs, $1.key) > ($1.value.subbufs, $0.key) }
      .prefix(ControlLimits.heldBuffers).sorted { $0.key < $1.key }
    return ProducerDescription(
      serial: producer.serial, index: index, pid: Int(producer.pid), uid: producer.uid,
      command: producer.name.command, channel: channel?.name ?? "",
      held: most.map {
        ProducerDescription.Held(cpu: $0.key, records: $0.value.records, subbufs: $0.value.subbufs)
      })
  }

  func flush(channel: String, client: Client) throws(ControlRefusal) {
    let served = try find(channel)
    try access.checkWrite(client.peer, served)
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

  func reset(channel: String, client: Client) throws(ControlRefusal) -> Completion {
    let served = try find(channel)
    try access.checkOwner(client.peer, served, to: "reset")
    table.reset(served, for: client.peer.uid) { [finish] in finish(client.connection, $0) }
    return .later
  }

  func create(
    channel: String, options text: String, keep: Bool, client: Client
  ) throws(ControlRefusal) -> Completion {
    try access.checkCreate(client.peer, channel)
    var options: ChannelOptions
    let identity: Identity
    do throws(OptionError) {
      try ChannelOptions.check(name: channel)
      options = try ChannelOptions(parsing: text.isEmpty ? channel : "\(channel):\(text)")
      // Its creator's, as a file would be.
      if options.owner == nil { options.owner = "\(client.peer.uid)" }
      if options.group == nil { options.group = "\(client.peer.gid)" }
      identity = try Identity(options)
    } catch {
      throw ControlRefusal(code: EINVAL, message: error.description)
    }
    try access.checkIdentity(client.peer, identity, channel)
    return try table.create(
      options, .created(uid: client.peer.uid, isKept: keep), identity
    ) { [finish] in finish(client.connection, $0) }
  }

  func close(channel: String, client: Client) throws(ControlRefusal) {
    let served = try find(channel)
    try access.checkOwner(client.peer, served, to: "close")
    table.close(served)
  }

  func reload(client: Client) throws(ControlRefusal) {
    try access.checkReload(client.peer)
    let complaints = reloadConfiguration()
    guard !complaints.isEmpty else { return }
    throw ControlRefusal(code: EINVAL, message: ControlRequests.asMessage(complaints))
  }

  /// As many as fit, each of them whole.
  static func asMessage(_ complaints: [String]) -> String {
    var message = ""
    for (index, complaint) in complaints.enumerated() {
      guard message.utf8.count + complaint.utf8.count < ControlLimits.messageBytes - 100 else {
        return message + "… and \(complaints.count - index) more: see relayd's log"
      }
      message += complaint + "\n"
    }
    return String(message.dropLast())
  }

  func find(_ name: String) throws(ControlRefusal) -> ServedChannel {
    if let served = table[name] { return served }
    let names = table.channels.prefix(20).map(\.channel.name).joined(separator: ", ")
    let all = table.channels.count > 20 ? names + " …" : names
    throw ControlRefusal(
      code: ENOENT,
      message: "no channel \(name); there \(all.isEmpty ? "is none" : "are: \(all)")")
  }
}
