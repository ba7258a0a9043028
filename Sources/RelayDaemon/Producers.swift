// SPDX-License-Identifier: Apache-2.0
// The processes that write: each has one owner id, and a handle through which its death is seen.
// Only proven death counts: a closed connection says nothing about the memory a process has mapped.

internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

/// Hands out owner ids and sweeps after the dead.
final class Producers: EventHandler {
  /// Processes attached at once: each costs two descriptors and an owner id, of which one stays
  /// free.
  var limit: Int {
    didSet { limit = min(limit, Int(Channel.highestOwner) - 1) }
  }
  /// Those of one user but root and the daemon's own.
  var limitPerUser: Int

  /// A process may write into a channel from now on.
  var onAttach: () -> Void = {}
  /// All of a process's channels were swept.
  var onGone: (UInt16) -> Void = { _ in }

  private let loop: EventLoop
  private let kept: KeptState
  private let limiter: LogLimiter
  private(set) var byHandle: [CInt: Producer] = [:]
  private var byOwner: [UInt16: Producer] = [:]
  private var nextSerial = 0
  // Only says where to look: a number may be given again (`known`).
  private var byPID: [Int32: Producer] = [:]
  private var lastOwner: UInt16 = 0
  private(set) var owners: Set<UInt16> = []

  init(loop: EventLoop, kept: KeptState, limits: Limits, limiter: LogLimiter) {
    self.loop = loop
    self.kept = kept
    limit = min(limits.producers, Int(Channel.highestOwner) - 1)
    limitPerUser = limits.producersPerUser
    self.limiter = limiter
  }

  /// The owner id of a process, which now may write into `channel`, too; at most `channelLimit`
  /// processes may. It counts to the limit of the user `account`.
  func attach(
    _ channel: Channel, limit channelLimit: Int?, process: consuming ProcessHandle,
    peer: PeerCredentials, account: UInt32
  ) throws(ControlRefusal) -> UInt16 {
    // Before `known`, which relies on it: a connection outlives the process that made it.
    guard !process.hasExited else {
      throw ControlRefusal(code: ESRCH, message: "the process that asked is gone")
    }
    if let known = known(process, peer.pid) {
      try add(channel, limit: channelLimit, to: known)
      return known.owner
    }
    try checkLimits(account)
    let pid = peer.pid
    let producer = makeProducer(freeOwner(), process, pid: pid, uid: peer.uid, account: account)
    remember(producer)
    do throws(ControlRefusal) {
      try add(channel, limit: channelLimit, to: producer)
      try watchOrRefuse(producer)
    } catch {
      forget(producer)
      throw error
    }
    return producer.owner
  }

  private func makeProducer(
    _ owner: UInt16, _ process: consuming ProcessHandle, pid: Int32, uid: UInt32, account: UInt32
  ) -> Producer {
    defer { nextSerial += 1 }
    return Producer(
      owner: owner, process: process, pid: pid, uid: uid, account: account, serial: nextSerial)
  }

  private func watchOrRefuse(_ producer: Producer) throws(ControlRefusal) {
    do throws(SystemError) {
      try watch(producer)
    } catch {
      throw ControlRefusal(
        code: error.code, message: "cannot watch process \(producer.pid): \(error)")
    }
  }

  private func watch(_ producer: Producer) throws(SystemError) {
    try loop.add(producer.process.raw, .read, self)
    byHandle[producer.process.raw] = producer
    byOwner[producer.owner] = producer
    if producer.pid > 0 { byPID[producer.pid] = producer }
    owners.insert(producer.owner)
  }

  /// For the next relayd, before the process can write.
  private func remember(_ producer: Producer) {
    let startTime = producer.pid > 0 ? ProcessHandle.startTime(pid: producer.pid) : 0
    kept.owners.set(
      producer.owner,
      OwnerTable.Entry(pid: producer.pid, uid: producer.uid, startTime: startTime ?? 0))
    if producer.pid == 0 {
      kept.keep(producer.process, owner: producer.owner, for: producer.account)
    }
  }

  /// Nothing writes under its owner id any more.
  private func forget(_ producer: Producer) {
    for use in producer.uses { ChannelNotes(use.channel)?[producer.owner] = false }
    kept.owners.free(producer.owner)
    if producer.pid == 0 { kept.drop(owner: producer.owner) }
  }

  /// The process, if it has attached before. Sweeps after one that had its number and is dead.
  /// - Precondition: it had not exited a moment ago. So whoever had its number before was dead
  ///   then: where handles cannot be compared, one that still lives now is the process itself.
  private func known(_ process: borrowing ProcessHandle, _ pid: Int32) -> Producer? {
    if pid > 0 {
      guard let known = byPID[pid] else { return nil }
      if !known.process.hasExited {
        return known.process.isSame(as: process) == false ? nil : known
      }
      bury(known)
      return nil
    }
    // Outside our pid namespace a number identifies nobody.
    for producer in byHandle.values where producer.pid == 0 {
      if producer.process.isSame(as: process) == true { return producer }
    }
    return nil
  }

  private func checkLimits(_ uid: UInt32) throws(ControlRefusal) {
    // Also those that cannot be watched take an id.
    guard byHandle.count < limit, owners.count < Int(Channel.highestOwner) - 1 else {
      throw ControlRefusal(
        code: EMFILE,
        message: "max_producers is \(limit), and as many processes write already")
    }
    let share = Share(of: limit, perUser: limitPerUser)
    let shortage = share.shortage(
      uid, user: byHandle.values.count { $0.account == uid },
      others: byHandle.values.count { !Share.isPrivileged($0.account) }, all: byHandle.count)
    guard let shortage else { return }
    throw ControlRefusal(
      code: EMFILE,
      message: shortage == .ofUser
        ? "max_producers_per_user is \(limitPerUser), and as many processes of user \(uid) write "
          + "already"
        : "max_producers is \(limit), of which users other than root may have \(share.ofOthers), "
          + "and as many of their processes write already")
  }

  private func add(
    _ channel: Channel, limit: Int?, to producer: Producer
  ) throws(ControlRefusal) {
    guard producer.use(of: channel) == nil else { return }
    if let limit, byHandle.values.count(where: { $0.use(of: channel) != nil }) >= limit {
      throw ControlRefusal(
        code: EMFILE,
        message: """
          channel \(channel.name): its max_producers is \(limit), and as many processes write into \
          it already
          """)
    }
    producer.uses.append(ChannelUse(channel))
    onAttach()
    let notes = ChannelNotes(channel)
    notes?[producer.owner] = true
    notes?.wasAttached = true
  }

  /// A channel is gone: nobody reads it any more, so nobody has to be swept out of it.
  func forget(_ channel: Channel) {
    for producer in byHandle.values { producer.uses.removeAll { $0.channel === channel } }
  }

  /// An id in use is not given again before its sweep is done; the limit leaves free ones.
  private func freeOwner() -> UInt16 {
    repeat {
      lastOwner = lastOwner % Channel.highestOwner + 1
    } while owners.contains(lastOwner)
    return lastOwner
  }

  func handle(_ events: Events, from fd: CInt) {
    guard let producer = byHandle[fd], producer.process.hasExited else { return }
    bury(producer)
  }

  private func sweep(_ channel: Channel, _ owner: UInt16, _ pid: Int32, _ user: UInt32) {
    let count = channel.sweep(owner: owner)
    guard count > 0 else { return }
    limiter.log(
      .death, by: user, amount: UInt64(count),
      "process \(pid) died while it wrote to channel \(channel.name): "
        + "\(count) unfinished record\(count == 1 ? "" : "s") discarded")
  }

  private func bury(_ producer: Producer) {
    loop.remove(producer.process.raw)
    for use in producer.uses {
      sweep(use.channel, producer.owner, producer.pid, producer.account)
    }
    forget(producer)
    byHandle[producer.process.raw] = nil
    byOwner[producer.owner] = nil
    if byPID[producer.pid] === producer { byPID[producer.pid] = nil }
    owners.remove(producer.owner)
    onGone(producer.owner)
  }
}

extension Producers {
  /// The channels that somebody writes into, each once.
  var channels: [Channel] {
    var seen: Set<ObjectIdentifier> = []
    return byHandle.values.flatMap(\.uses).map(\.channel).filter {
      seen.insert(ObjectIdentifier($0)).inserted
    }
  }

  /// nil: nobody writes with this owner id.
  subscript(owner: UInt16) -> Producer? { byOwner[owner] }

  /// Of those that are wanted, the process with the lowest serial number from `serial` on.
  func first(from serial: Int, where isWanted: (Producer) -> Bool) -> Producer? {
    var first: Producer?
    for producer in byHandle.values where producer.serial >= serial {
      if producer.serial < first?.serial ?? .max, isWanted(producer) { first = producer }
    }
    return first
  }
}

// Those that attached to the relayd before.
extension Producers {
  /// Watches those that live, and sweeps after the others; `served` are the channels that are gone
  /// on with.
  func adopt(_ served: [ServedChannel]) {
    for (owner, entry) in kept.owners.entries() ?? [] { adopt(owner, entry, served) }
  }

  private func adopt(_ owner: UInt16, _ entry: OwnerTable.Entry, _ served: [ServedChannel]) {
    guard let process = process(entry, owner) else {
      for served in served { sweep(served.channel, owner, entry.pid, entry.uid) }
      kept.owners.free(owner)
      for served in served { ChannelNotes(served.channel)?[owner] = false }
      return
    }
    // The table does not say by whose right: from here on it counts as its own user's.
    let producer = makeProducer(
      owner, process, pid: entry.pid, uid: entry.uid, account: entry.uid)
    for served in served where ChannelNotes(served.channel)?[owner] == true {
      producer.uses.append(ChannelUse(served.channel))
      onAttach()
      served.silent.insert(owner)
    }
    do throws(SystemError) {
      try watch(producer)
    } catch {
      owners.insert(owner)
      limiter.log(
        .kept, by: entry.uid,
        "process \(entry.pid) cannot be watched, its unfinished records are passed: \(error)")
    }
  }

  /// The living process of an entry.
  private func process(_ entry: OwnerTable.Entry, _ owner: UInt16) -> ProcessHandle? {
    guard entry.pid > 0 else { return living(kept.takeProcess(owner: owner)) }
    let process = try? ProcessHandle(pid: entry.pid)
    // Looked at after there is a handle: then it is the handle's.
    guard ProcessHandle.startTime(pid: entry.pid) == entry.startTime else { return nil }
    return living(process)
  }

  private func living(_ process: consuming ProcessHandle?) -> ProcessHandle? {
    guard let process = process.take(), !process.hasExited else { return nil }
    return process
  }
}
