// SPDX-License-Identifier: Apache-2.0
// The channels that are there now: opened, closed, given files and buffers for new CPUs. Who may
// ask for that is Access's business, when is the daemon's.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

final class ChannelTable {
  let host: DeviceHost
  let kept: KeptState
  let work: BackgroundWork
  let promised = PromisedMemory()
  let log: (Level, String) -> Void
  /// For what other users can cause.
  let limiter: LogLimiter
  var limits: Limits
  /// By name, and in the order in which they came.
  private var byName: [String: ServedChannel] = [:]
  private(set) var channels: [ServedChannel] = []
  private var nextSerial = 0
  /// Being created: they wait for their memory.
  var opening: [ServedChannel] = []
  /// Closed, and still open at some reader.
  private(set) var closing: [ServedChannel] = []
  /// Whether the host takes devices: with CUSE, only once /dev/cuse is there.
  private(set) var isServing = false
  /// A channel is about to be there; new memory is not kept yet.
  var onOpening: (Channel) -> Void = { _ in }
  /// A channel is there, with all that was left of it.
  var onOpen: (ServedChannel) -> Void = { _ in }
  /// Nobody is left for whom a channel was there.
  var onAbandoned: (ServedChannel) -> Void = { _ in }
  /// A closed channel is gone for good.
  var onGone: (Channel) -> Void = { _ in }
  /// A channel's counts end, for that reason.
  var onEnd: (ServedChannel, _ why: String, _ saysTooBig: Bool) -> Void = { _, _, _ in }
  /// A channel's memory is replaced by another.
  var onRenewed: (_ old: Channel, _ new: Channel) -> Void = { _, _ in }
  /// Owner ids that living processes write with.
  var owners: () -> Set<UInt16> = { [] }
  /// For a message: "is …" or "are …".
  var writersOf: (Channel) -> String = { _ in "are processes that are not known" }

  enum Level {
    case info, warning
  }

  init(
    host: DeviceHost, kept: KeptState, work: BackgroundWork, limits: Limits, limiter: LogLimiter,
    log: @escaping (Level, String) -> Void
  ) {
    self.host = host
    self.kept = kept
    self.work = work
    self.limits = limits
    self.limiter = limiter
    self.log = log
  }

  subscript(name: String) -> ServedChannel? { byName[name] }

  /// The channel of that name whose counts can be asked for: open, or closed and still being read.
  func counted(_ name: String) -> ServedChannel? {
    byName[name] ?? closing.first { $0.channel.name == name }
  }

  /// Of all that are open, and those that are closed and still being read: the first whose serial
  /// number is `serial` or higher; nil past the last.
  func listed(
    from serial: Int, where isWanted: (ServedChannel) -> Bool = { _ in true }
  ) -> (served: ServedChannel, isClosed: Bool)? {
    // Both are few or in order: those that are open are, by their serial numbers.
    let open = channels.first { $0.serial >= serial && isWanted($0) }
    let closed = closing.filter { $0.serial >= serial && isWanted($0) }
      .min { $0.serial < $1.serial }
    guard let closed, closed.serial < open?.serial ?? .max else { return open.map { ($0, false) } }
    return (closed, true)
  }

  /// Opens a channel and serves it, with what the relayd before left of it; throws why it cannot
  /// be, and leaves nothing of it. What is gone on with is there already: no limit refuses it.
  /// - Parameter left: what was left of it, if that was taken already.
  func open(
    _ options: ChannelOptions, _ origin: ServedChannel.Origin, _ identity: Identity,
    left: [KeptState.Left]? = nil
  ) throws(ControlRefusal) {
    try checkName(options.name)
    let left = left ?? kept.takeChannel(options.name)
    let adopted = left.first.flatMap { adopt($0, options, origin, identity) }
    if let adopted {
      if options.isPrefaulted { prefaultAdopted(adopted.channel) }
      try begin(adopted, left)
    } else {
      let served = try openNew(options, origin, identity)
      if options.isPrefaulted { try prefault(served.channel, cpus: served.channel.cpus) }
      try begin(served, left)
    }
  }

  /// A channel in memory of its own, which is not in the table yet.
  func openNew(
    _ options: ChannelOptions, _ origin: ServedChannel.Origin, _ identity: Identity
  ) throws(ControlRefusal) -> ServedChannel {
    try checkCount(options.name, origin)
    let geometry = try geometry(options)
    try checkMemory(
      options.name, origin, additional: geometry.bufferBytes * geometry.initialCPUs.count)
    return ServedChannel(
      options, origin, try openShared(options.name, geometry, origin), identity,
      pathPrefix: host.pathPrefix + options.name)
  }

  /// Serves a channel from now on, in place of what was left of it.
  func begin(_ served: ServedChannel, _ left: [KeptState.Left] = []) throws(ControlRefusal) {
    served.channel.setGeneration(kept.life.nextGeneration)
    if isServing { try serve(served) }
    ChannelNotes(served.channel)?.store(served.options, served.origin, kept.kin)
    onOpening(served.channel)
    if !left.contains(where: { $0.channel === served.channel }) {
      kept.keep(served.channel, for: served.logUser)
    }
    // Only now: whenever this process dies, there is one memory that is whole and not given up.
    for left in left where left.channel !== served.channel {
      retire(left.channel, into: served.channel)
      kept.drop(left.channel)
    }
    for (cpu, device) in served.devices {
      served.losses.begin(device)
      // One that the relayd before named.
      if device.buffer.lossCounts.corrupt > 0, host.use(device, { $0.damages }) > 0 {
        served.losses.damagedCPUs.insert(cpu)
      }
    }
    served.serial = nextSerial
    nextSerial += 1
    byName[served.channel.name] = served
    channels.append(served)
    onOpen(served)
  }

  private func openShared(
    _ name: String, _ geometry: Geometry, _ origin: ServedChannel.Origin
  ) throws(ControlRefusal) -> Channel {
    let nodes = host.backend == .cuse ? geometry.initialCPUs.count : 0
    try checkAddresses(name, geometry)
    let limit = DescriptorLimit.current
    let most = descriptors(for: origin, of: limit)
    do throws(ChannelError) {
      let channel = try Channel.openShared(name, geometry)
      // The lowest free number is given first: the latest one tells how many are taken.
      if Int(channel.descriptors!.wake) + nodes < most { return channel }
    } catch {
      guard errorCode(error) == EMFILE else {
        throw refusal(name, errorCode(error), "\(error)\(ProcessLimits.hint(errorCode(error)))")
      }
    }
    throw refusal(
      name, EMFILE,
      """
      its descriptors are too many: relayd may have \(limit), and keeps \(limit - most) \
      for clients\(origin.isPrivileged ? "" : " and root"); raise that limit (LimitNOFILE= of its \
      unit, or ulimit -n)
      """)
  }

  /// A mapping that fits exactly would leave the next small allocation to fail, which ends the
  /// process.
  private func checkAddresses(_ name: String, _ geometry: Geometry) throws(ControlRefusal) {
    guard let left = ProcessLimits.addressesLeft, geometry.mappedBytes > left else { return }
    throw refusal(
      name, ENOMEM,
      "it takes \(geometry.mappedBytes) bytes of addresses, and \(left) are left"
        + ProcessLimits.hint(ENOMEM))
  }

  func refusal(_ name: String, _ code: CInt, _ reason: String) -> ControlRefusal {
    ControlRefusal(code: code, message: "channel \(name): \(reason)")
  }

  private func errorCode(_ error: ChannelError) -> CInt {
    if case .system(let error) = error { return error.code }
    return EINVAL
  }

  func checkName(_ name: String) throws(ControlRefusal) {
    guard byName[name] == nil else {
      throw refusal(name, EEXIST, "exists already; close it first, or choose another name")
    }
    guard !opening.contains(where: { $0.channel.name == name }) else {
      throw refusal(
        name, EEXIST,
        "is being created by another request; choose another name, or try again once it is closed")
    }
    for other in (channels + opening).map(\.channel.name) {
      guard let clash = ChannelOptions.clash(name, other) ?? ChannelOptions.clash(other, name)
      else { continue }
      throw refusal(
        name, EEXIST,
        "\(clash.directory) would be a device of channel \(clash.channel) and a "
          + "directory of the other; choose another name")
    }
    // A device node stays for who has it open, and with it its name.
    guard host.backend == .fuse || !closing.contains(where: { $0.channel.name == name }) else {
      throw refusal(
        name, EBUSY, "was closed, and its devices are still open; try again once they are closed")
    }
  }

  private func geometry(_ options: ChannelOptions) throws(ControlRefusal) -> Geometry {
    do {
      return try options.geometry(
        online: Processors.online(), possible: Processors.possible())
    } catch let error as OptionError {
      throw ControlRefusal(code: EINVAL, message: error.description)
    } catch {
      throw refusal(options.name, EIO, "\(error)")
    }
  }

  private func serve(_ served: ServedChannel) throws(ControlRefusal) {
    do throws(HostError) {
      try host.add(served.devices.map(\.device))
    } catch {
      host.collect()
      throw ControlRefusal(code: error.code, message: error.description)
    }
  }
}

extension ChannelTable {
  /// Serves all channels from now on; throws the first that cannot be.
  func startServing() throws(ControlRefusal) {
    isServing = true
    for served in channels { try serve(served) }
  }

  /// The same when channels are being written to already: what cannot be served is said.
  func startServingLate() {
    for complaint in startServingWhatCanBe() { log(.warning, complaint) }
  }

  /// The same; returns what cannot be.
  func startServingWhatCanBe() -> [String] {
    isServing = true
    return serveMissing()
  }

  /// Tries again where there are no files; returns what still cannot be.
  func serveMissing() -> [String] {
    guard isServing else { return [] }
    return channels.compactMap { served in
      guard !served.devices.contains(where: { host.isServed($0.device) }) else { return nil }
      do throws(ControlRefusal) {
        try serve(served)
        return nil
      } catch {
        return "\(error); its records are kept, and nobody can read them"
      }
    }
  }

  /// Files that are there.
  var fileCount: Int {
    channels.reduce(0) { $0 + $1.devices.count { host.hasFile($0.device) } }
  }
}

extension ChannelTable {
  /// Finalizes a channel: writers are refused from here on, who has a device open reads what is
  /// left and then gets the end, and the name is free.
  func close(_ served: ServedChannel) {
    guard byName[served.channel.name] === served else { return }
    byName[served.channel.name] = nil
    channels.removeAll { $0 === served }
    kept.drop(served.channel)
    served.channel.end()
    onEnd(served, "the channel was closed", false)
    closing.append(served)
    host.remove(served.devices.map(\.device))
    collect()
  }

  /// Closes a channel that was there for as long as somebody wrote, if nobody does.
  func closeAbandoned(_ served: ServedChannel) {
    guard byName[served.channel.name] === served, served.isAbandoned else { return }
    limiter.log(
      .channel, by: served.logUser,
      "channel \(served.channel.name): closed, as its last writer has ended")
    close(served)
  }

  /// Lets go of closed channels that nobody has open any more.
  func collect() {
    var gone = takeGone()
    while let channel = gone.popLast() { release(channel) }
  }

  private func takeGone() -> [Channel] {
    host.collect()
    let gone = closing.filter { !$0.devices.contains { host.isServed($0.device) } }
    closing.removeAll { served in gone.contains { $0 === served } }
    for served in gone {
      reportLosses(served)
      onGone(served.channel)
    }
    // The others are looked at.
    for served in gone where served.resets.isActive { served.resets.isLast = true }
    return gone.filter { !$0.resets.isLast }.map(\.channel)
  }

  /// What nobody read is said before it is lost, and what could not be written.
  private func reportLosses(_ served: ServedChannel) {
    for (cpu, device) in served.devices {
      let statistics = host.statistics(of: device)
      reportTooBig(statistics.lostTooBig, served, cpu)
      let unread = statistics.recordsUnread
      guard unread > 0 || statistics.bytesUnread > 0 else { continue }
      // One that was begun counts as read.
      let what = unread == 0 ? "the rest of a record" : "\(unread) record\(unread == 1 ? "" : "s")"
      limiter.log(
        .ended, by: served.logUser, amount: unread,
        "nobody read \(what) of \(served.path(cpu: cpu)), now lost")
    }
  }

  /// As relay does: who wrote them may have looked at no result.
  private func reportTooBig(_ count: UInt64, _ served: ServedChannel, _ cpu: Int) {
    guard count > 0 else { return }
    let what = count == 1 ? "1 record was" : "\(count) records were"
    limiter.log(
      .ended, by: served.logUser, amount: count,
      "\(what) longer than a sub-buffer of \(served.path(cpu: cpu)), which is "
        + "\(served.channel.geometry.subbufSize) bytes, and refused")
  }

  /// Finalizes all of them, for a daemon that ends; with `exceptKept`, those that the next relayd
  /// will not have. Returns whether there were any.
  func closeAll(exceptKept: Bool) -> Bool {
    let ending = channels.filter { !exceptKept || !kept.isKept($0.channel) }
    for served in ending {
      kept.drop(served.channel)
      host.noteEndOfDaemon(served.devices.map(\.device))
      served.channel.close()
    }
    // Those that are closed are reported as too big at their end.
    for served in channels {
      onEnd(served, "relayd ends", exceptKept && kept.isKept(served.channel))
    }
    return !ending.isEmpty
  }

  /// Records that the next relayd will have.
  var unreadCount: UInt64 {
    channels.filter { kept.isKept($0.channel) }.reduce(0) { sum, served in
      served.devices.reduce(sum) { $0 + host.statistics(of: $1.device).recordsUnread }
    }
  }

  /// What is lost if no relayd goes on with the memory of these channels: of each buffer, with what
  /// says later that it was counted. Once nothing is read any more.
  func lossesAtEnd() -> [(entry: LossEntry, markCounted: () -> Void)] {
    channels.flatMap { served in
      served.devices.compactMap { cpu, device in
        let (loss, reader) = host.use(device) { ($0.lossAtEnd(), $0) }
        guard loss.total > 0 else { return nil }
        let entry = LossEntry(
          channel: served.channel.name, cpu: cpu, incarnation: served.channel.incarnation,
          records: loss.total)
        return (entry, { reader.markCounted(loss) })
      }
    }
  }

  func reportLosses() { for served in channels + closing { reportLosses(served) } }
}
