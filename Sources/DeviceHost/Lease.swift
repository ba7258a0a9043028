// SPDX-License-Identifier: Apache-2.0
// A buffer in the hands of a mapped consumer: who that is, what it was handed out and how long ago.
// While it has the buffer no file reads it; one that is too slow loses it.

internal import Glibc
public import LinuxIO
public import Relay

/// One mapped consumer of one buffer. Comes to nothing unless its owner ends it (`unmap`).
// Sendable: but for the bell, used by the thread that serves the device.
public final class Lease: @unchecked Sendable {
  /// nil: it is gone, with its channel.
  public fileprivate(set) weak var device: Device?
  /// Whose it is: a user, and a process.
  let uid: UInt32
  fileprivate let pid: Int32
  /// Its place among all readers, until `unmap`.
  fileprivate(set) var entry: ReaderEntry?
  fileprivate let takesUnfinished: Bool
  /// Milliseconds for each thing that is to be done; nil: for ever.
  private let timeout: Int?
  private let bell: Doorbell
  /// When each part was handed out that was not reported yet.
  fileprivate var handedOut: [Int] = []
  /// Since when it is expected to ask, and has been told: there is something, or somebody else
  /// would have the buffer. nil: it is not.
  fileprivate var offeredSince: Int?
  /// What it had in its hands was given back.
  fileprivate var isRecalled = false
  /// Another user was refused the buffer while it had it.
  fileprivate var isContested = false
  private var hasComplained = false

  /// One that has no buffer yet: see `map`.
  /// - Parameters:
  ///   - unfinished: it is handed out what is in the sub-buffer that writers are in, too.
  ///   - timeout: milliseconds for each thing the consumer has to do; nil: for ever.
  ///   - uid, pid: whose it is, and in which process.
  public init(
    _ device: Device, unfinished: Bool, timeout: Int?, uid: UInt32, pid: Int32
  ) throws(SystemError) {
    self.device = device
    self.uid = uid
    self.pid = pid
    takesUnfinished = unfinished
    self.timeout = timeout
    bell = try Doorbell()
  }

  /// Readable when it is expected to call `next`. For the consumer.
  public var listenerDescriptor: CInt { bell.listenerDescriptor }

  /// Milliseconds it still has.
  var timeLeft: Int? {
    guard let timeout, let start = handedOut.first ?? offeredSince else { return nil }
    return max(0, start + timeout - Clock.milliseconds())
  }

  fileprivate func offer() {
    guard offeredSince == nil else { return }
    offeredSince = Clock.milliseconds()
    bell.ring()
  }

  /// It has not the buffer, and could ask for it again.
  fileprivate func call() { bell.ring() }

  /// True once.
  fileprivate func complains() -> Bool {
    defer { hasComplained = true }
    return !hasComplained
  }
}

/// What a consumer that asks for the next part gets.
public enum LeaseAnswer: Equatable, Sendable {
  case lent(LentSubbuf)
  case nothing
  /// The channel is closed and drained.
  case end
  /// ESTALE: what it had was given back. EBUSY: files have the buffer now, or another consumer, or
  /// its user waits behind others. ENOBUFS: it has as much as may be lent. EIO: damaged. ENOENT:
  /// closed and gone.
  case refused(CInt)
}

extension DeviceHost {
  /// Gives the buffer to a consumer. EBUSY where it is open or mapped, or the user waits behind
  /// others, ENXIO where not served, EOPNOTSUPP where writers overwrite and would have no room
  /// beside what is lent, EDQUOT and EMFILE where there are too many readers.
  /// - Parameter old: one of that consumer's that lost the buffer, whose place among all readers
  ///   this one takes. Where it fails, nothing has happened to the old one.
  public func map(_ lease: Lease, _ device: Device, replacing old: Lease?) throws(SystemError) {
    guard isServed(device) else {
      throw SystemError(code: ENXIO, operation: "map \(device.name)")
    }
    // Set by a `begin` that this thread waited for.
    let oldEntry = old?.entry
    let code = run(device) { device in
      let code = device.begin(lease, replacing: oldEntry)
      if code == 0 { device.lookAgain(lease) }
      return code
    }
    guard code == 0 else { throw SystemError(code: code, operation: "map \(device.name)") }
    if let old { unmap(old) }
  }

  /// Hands out what comes next; takes the buffer again where the consumer had lost it.
  public func next(_ lease: Lease) -> LeaseAnswer {
    guard let device = lease.device else { return .refused(ENOENT) }
    return run(device) { $0.next(lease) }
  }

  /// The first `count` parts handed out were consumed. 0, or EINVAL: they are fewer; ESTALE: they
  /// were given back; ENOENT: as `next`.
  public func consumed(_ lease: Lease, _ count: Int) -> CInt {
    guard let device = lease.device else { return ENOENT }
    return run(device) { $0.consumed(lease, count) }
  }
}

extension Device {
  fileprivate func begin(_ lease: Lease, replacing old: ReaderEntry? = nil) -> CInt {
    guard !isRemoved else { return ENOENT }
    guard !reader.lendsLastRoom else { return EOPNOTSUPP }
    // Who only writes is no other reader.
    guard mayHave(lease.uid), uses.reading == 0 else { return EBUSY }
    if lease.entry == nil {
      do throws(ReaderRefusal) {
        lease.entry = try keeper?.admit(
          self, uid: lease.uid, pid: lease.pid, .mapped, replacing: old
        ).get()
      } catch { return error.code }
    }
    lease.entry?.kind = .mapped
    lease.isContested = false
    self.lease = lease
    formerLeases.removeAll { $0 === lease }
    return 0
  }

  fileprivate func next(_ lease: Lease) -> LeaseAnswer {
    if isStale(lease) { return .refused(ESTALE) }
    if self.lease !== lease {
      let code = begin(lease)
      guard code == 0 else { return .refused(code) }
    }
    guard reader.mayLend else { return .refused(ENOBUFS) }
    let lent = reader.lend(unfinished: lease.takesUnfinished)
    if lent != nil {
      lease.handedOut.append(Clock.milliseconds())
      noteLosses()
    }
    reportCorruption()
    lookAgain(lease)
    if let lent { return .lent(lent) }
    if reader.isCorrupt { return .refused(EIO) }
    return reader.isDrained ? .end : .nothing
  }

  fileprivate func consumed(_ lease: Lease, _ count: Int) -> CInt {
    if isStale(lease) { return ESTALE }
    guard count >= 0, count <= lease.handedOut.count else { return EINVAL }
    guard self.lease === lease else { return 0 }
    // Who reports nothing has not begun to be in time.
    guard count > 0 else { return 0 }
    reader.takeBack(consumed: count)
    lease.handedOut.removeFirst(count)
    keeper?.delivered()
    offerRoom()
    lookAgain(lease)
    return 0
  }

  /// It has no buffer any more, and wants none.
  func forget(_ lease: Lease) {
    formerLeases.removeAll { $0 === lease }
    end(lease)
  }

  private func end(_ lease: Lease) {
    guard self.lease === lease else { return }
    reader.takeBackUnread()
    lease.handedOut = []
    lease.offeredSince = nil
    lease.entry?.kind = .lost
    self.lease = nil
    noteReadersLeft()
    callFormerLeases()
    tellIfUnused()
  }

  /// Whoever has or had it mapped asks once more, and learns that it is gone.
  func endLeases() {
    let all = formerLeases + [lease].compactMap(\.self)
    formerLeases = []
    if let lease { end(lease) }
    for lease in all {
      lease.device = nil
      lease.call()
    }
  }

  /// Who lost the buffer and may have it again is told so.
  func callFormerLeases() {
    guard lease == nil, uses.reading == 0 else { return }
    for lease in formerLeases where !isBehindOthers(lease.uid) { lease.call() }
  }

  /// Whether what it has was given back, by a reset or because it took too long; told once.
  private func isStale(_ lease: Lease) -> Bool {
    if self.lease === lease, reader.loanCount != lease.handedOut.count {
      reader.takeBackUnread()
      lease.handedOut = []
      lease.isRecalled = true
    }
    defer { lease.isRecalled = false }
    // Who polls now would wait for what it cannot be told without the buffer.
    if lease.isRecalled { callFormerLeases() }
    return lease.isRecalled
  }

  /// After it was heard of.
  fileprivate func lookAgain(_ lease: Lease) {
    lease.offeredSince = nil
    keeper?.startWaking(self)
    look(after: lease)
  }

  /// Tells it of what there is, or takes the buffer away if it was told long ago.
  func look(after lease: Lease) {
    if lease.timeLeft == 0 { return recall(lease) }
    // Who has all it may have waits for itself.
    guard reader.mayLend else { return }
    // Bounded: as for files.
    for _ in 0..<8 where lease.offeredSince == nil {
      if isOffering(lease) {
        lease.offer()
      } else if reader.hasMoreToWalk {
        keeper?.startWaking(self)
        keeper?.goOnLater(self)
        return
      } else if reader.isArmed(lease.wakeup) {
        break
      }
      // Also for a writer that has stopped, which is passed some time.
      keeper?.startWaking(self)
      guard lease.offeredSince == nil else { break }
      _ = reader.arm(lease.wakeup, unless: { isOffering(lease) || reader.hasMoreToWalk })
    }
  }

  /// Somebody else would have the buffer: a consumer that is alive answers when its bell rings, and
  /// one that does not is too late some time.
  func askAfter(_ lease: Lease, for uid: UInt32) {
    if uid != lease.uid { lease.isContested = true }
    guard lease.handedOut.isEmpty else { return }
    lease.offer()
    keeper?.startWaking(self)
  }

  /// Milliseconds until a stopped writer's record may be passed, a consumer is too late, or one
  /// that lost the buffer may ask again; nil: none of these.
  var timeLeft: Int? {
    let end = waiters.count(.own) > 0 ? ownStallEnd : nil
    let ownLeft = end.map { max(0, $0 - Clock.milliseconds()) }
    return [sharedStallLeft, ownLeft, lease?.timeLeft, waitLeft].compactMap(\.self).min()
  }

  /// nil, too, where no look at the shared cursor would follow.
  private var sharedStallLeft: Int? {
    if waiters.count(.bytes) > 0 || awaitsRoom { return reader.stallTimeLeftForBytes }
    return waiters.count(.frames) > 0 || lease != nil ? reader.stallTimeLeft : nil
  }

  private func isOffering(_ lease: Lease) -> Bool {
    reader.hasForConsumer(unfinished: lease.takesUnfinished)
  }

  private func recall(_ lease: Lease) {
    if lease.complains() {
      keeper?.logUse(
        "\(name): a mapped consumer took too long (consumer_timeout): others may read now",
        by: lease.uid)
    }
    if lease.isContested { putBehindOthers(lease.uid) }
    takeBuffer(from: lease)
  }

  /// The consumer learns of it when it asks next.
  func takeBuffer(from lease: Lease) {
    lease.isRecalled = !lease.handedOut.isEmpty
    formerLeases.append(lease)
    end(lease)
    lease.call()
    // Writers, too, may have waited for what it had.
    wake()
  }
}

extension Lease {
  fileprivate var wakeup: Wakeup { takesUnfinished ? .data : .subbuffer }
}
