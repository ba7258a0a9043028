// SPDX-License-Identifier: Apache-2.0
// One buffer of a channel in this process's own memory: its reading side, its callback, and a
// descriptor to wait on.

internal import Glibc
public import LinuxIO

/// A buffer of an `OwnChannel`. Any thread may use it; calls take turns.
///
/// What throws EDEADLK does so from inside a callback of this buffer; EBUSY, while it is mapped;
/// EIO: its memory is damaged; ENXIO: from inside createBufFile, before the buffer is there.
// Sendable: what changes is behind the lock, which `inner` precedes.
public final class OwnBuffer: @unchecked Sendable {
  let callbacks: OwnChannel.Callbacks
  /// The CPU that it was made for; that of a global buffer is one of those online at the time.
  package let madeFor: Int
  /// Of its file, once it has one. Its channel's, under that one's lock.
  var fileName: String?
  /// Set once, before anybody else sees the buffer.
  private var inner: Inner?
  /// Who has it mapped; then nobody reads it.
  var lease: OwnLease?
  /// It was unmapped from inside the callback, which is still running.
  var isUnmapping = false
  /// Readable when the reader has something to say; made when first asked for, and the channel's,
  /// because writers may outlive this.
  private var bell: GuardedBell?
  private let lock = CallbackLock()

  final class Inner {
    let buffer: ChannelBuffer
    let reader: Reader
    let callback: CallbackBuffer?

    init(_ channel: Channel, _ buffer: ChannelBuffer, start: CallbackBuffer.Start?) {
      self.buffer = buffer
      reader = Reader(channel, buffer)
      // Who wants times reads records, of which an empty one has a time, too.
      reader.isRecordwise = channel.geometry.hasTimestamps
      callback = start.map { CallbackBuffer(channel, buffer, start: $0) }
    }
  }

  init(madeFor cpu: Int, _ callbacks: OwnChannel.Callbacks) {
    madeFor = cpu
    self.callbacks = callbacks
  }

  /// - Precondition: nobody else has the buffer yet.
  func setUp(_ channel: Channel, cpu: Int) {
    let size = channel.geometry.subbufSize
    var start: CallbackBuffer.Start?
    if let subbufStart = callbacks.subbufStart {
      start = { [unowned self] subbuf, previous, padding in
        subbufStart(
          self, UnsafeMutableRawBufferPointer(start: subbuf, count: size),
          previous.map { UnsafeMutableRawBufferPointer(start: $0, count: size) }, padding)
      }
    }
    inner = Inner(channel, channel.buffer(cpu: cpu), start: start)
  }

  /// Its CPU; 0 for the buffer of a global channel.
  public var cpu: Int { inner?.buffer.cpu ?? madeFor }

  /// For messages.
  var name: String { "the buffer of CPU \(cpu)" }

  var isHeldHere: Bool { lock.isHeldHere }

  func locked<R: ~Copyable>(_ body: (Inner) throws(SystemError) -> R) throws(SystemError) -> R {
    guard let inner else { throw SystemError(code: ENXIO, operation: "use \(name) so early") }
    return try lock.locked { () throws(SystemError) in
      defer {
        if isUnmapping {
          isUnmapping = false
          endLease(inner)
        }
      }
      return try body(inner)
    }
  }

  /// For who reads: EBUSY while it is mapped.
  private func reading<R>(_ body: (Inner) throws(SystemError) -> R) throws(SystemError) -> R {
    try locked { (inner) throws(SystemError) in
      guard lease == nil else {
        throw SystemError(code: EBUSY, operation: "read \(name), which is mapped")
      }
      defer { rearm(inner) }
      return try body(inner)
    }
  }

  func checkDamage(_ inner: Inner) throws(SystemError) {
    if inner.reader.isCorrupt {
      throw SystemError(code: EIO, operation: "read \(name), whose memory is damaged")
    }
  }
}

// Reading. The state of `wake` follows from what is left after each of these.
extension OwnBuffer {
  /// Copies what one read(2) of a device would give, at most `target.count` bytes, and consumes it.
  /// May end inside a record, whose rest comes first next time. 0: nothing now, or closed and
  /// drained. Throws EDEADLK, EBUSY, EIO.
  public func read(into target: UnsafeMutableRawBufferPointer) throws(SystemError) -> Int {
    try reading { (inner) throws(SystemError) in
      let count = inner.reader.read(into: target)
      if count == 0 { try checkDamage(inner) }
      return count
    }
  }

  /// One whole record, copied and consumed. Throws EDEADLK, EBUSY.
  public func readRecord(
    into target: UnsafeMutableRawBufferPointer
  ) throws(SystemError) -> RecordResult {
    try reading { (inner) throws(SystemError) in inner.reader.readRecord(into: target) }
  }

  /// Passes the next `count` sub-buffers that writers have left, as if they had been read: for who
  /// knows them from subbufStart. Those they have left by now, at most. Throws EDEADLK, EBUSY.
  public func consumeSubbufs(_ count: Int) throws(SystemError) {
    try reading { (inner) throws(SystemError) in inner.reader.consumeSubbufs(count) }
  }

  /// What poll(2) would say of its device: POLLIN | POLLRDNORM while a read would return data,
  /// POLLHUP once closed, POLLERR where damaged or mapped. Throws EDEADLK.
  public func events() throws(SystemError) -> CInt {
    try locked { (inner) throws(SystemError) in
      rearm(inner)
      return lease == nil ? readyEvents(inner.reader) : POLLERR
    }
  }

  private func readyEvents(_ reader: Reader) -> CInt {
    let hangup = reader.isClosed ? POLLHUP : 0
    if reader.hasData { return POLLIN | POLLRDNORM | hangup }
    return reader.isCorrupt ? POLLERR : hangup
  }

  /// A descriptor that poll(2) says is readable when `events` would say POLLIN or POLLHUP, or,
  /// while mapped, when more would be handed out; at times also when there is nothing, until it is
  /// asked for. Owned by the channel. Throws EDEADLK, EMFILE.
  public func wakeDescriptor() throws(SystemError) -> CInt {
    try locked { (inner) throws(SystemError) in
      if bell == nil { bell = try inner.reader.channel.makeBell(of: inner.buffer) }
      rearm(inner)
      return bell.unsafelyUnwrapped.number
    }
  }

  func rearm(_ inner: Inner) {
    guard let bell else { return }
    let reader = inner.reader
    func isReady() -> Bool {
      guard let lease else { return readyEvents(reader) != 0 }
      return reader.hasForConsumer(unfinished: lease.unfinished)
    }
    if !isReady() {
      bell.drain()
      // Who has all it may have waits for itself.
      if lease != nil, !reader.mayLend { return }
      if arm(reader, unless: isReady) { return }
    }
    bell.ring()
  }

  /// False: it is ready.
  private func arm(_ reader: Reader, unless isReady: () -> Bool) -> Bool {
    let wakeup = lease?.wakeup ?? .data
    guard reader.arm(wakeup, unless: isReady) else { return false }
    // Nobody looks again after a while, as a daemon does.
    return wakeup == .data || !reader.isHeldUp || reader.arm(.data, unless: isReady)
  }

  /// Costs a look at every record that is not yet read. Throws EDEADLK.
  public func statistics() throws(SystemError) -> Statistics {
    try locked { (inner) throws(SystemError) in inner.reader.statistics() }
  }

  /// Whether a switch would be refused, or overwrite. From inside subbufStart it is about the
  /// sub-buffer asked for.
  public var isFull: Bool {
    if let callback = runningCallback { return callback.isOverwriting }
    return inner?.buffer.isFull ?? false
  }

  /// Whether no sub-buffer that writers have left waits for a reader. From inside subbufStart the
  /// one being left counts as left.
  public var isEmpty: Bool {
    if let callback = runningCallback { return callback.isLeavingNothing }
    return inner?.buffer.isEmpty ?? true
  }

  private var runningCallback: CallbackBuffer? {
    guard isHeldHere, let callback = inner?.callback, callback.isStarting else { return nil }
    return callback
  }
}

// Writing, and what its channel does to it.
extension OwnBuffer {
  /// Only from inside subbufStart: the first `length` bytes (at most a sub-buffer) of the
  /// sub-buffer that is being started are the caller's. Readers get them with the data, as one
  /// record; the whole sub-buffer becomes readable once the next subbufStart has returned, which
  /// may still write to them, or by a flush, or at the close. Elsewhere it does nothing.
  /// - Precondition: `length` is not negative.
  public func reserveHeader(_ length: Int) {
    precondition(length >= 0)
    if isHeldHere { inner?.callback?.reserveHeader(length) }
  }

  /// Leaves the current sub-buffer, even if it is empty. `.full`: there is none to go on in. Throws
  /// EDEADLK.
  public func switchSubbuf() throws(SystemError) -> FlushResult {
    try locked { (inner) throws(SystemError) in
      inner.callback?.switchSubbuf() ?? inner.reader.channel.switchSubbuf(inner.buffer)
    }
  }

  /// A refusal is counted if so wished.
  /// - Precondition: it has a callback.
  func reserve(_ length: Int, countsFull: Bool) throws(SystemError) -> ReserveResult {
    try locked { (inner) throws(SystemError) in
      switch inner.callback!.reserve(length) {
      case .reserved(let reservation): return .reserved(reservation)
      case .refused(let refusal):
        if refusal != .full || countsFull { inner.buffer.countRefusal(refusal) }
        return .refused(refusal)
      }
    }
  }

  /// The first thing that happens to it; who comes while `appear` makes it known waits.
  func begin(_ appear: () -> Void = {}) throws(SystemError) {
    try locked { (inner) throws(SystemError) in
      appear()
      inner.callback?.begin()
    }
  }

  /// - Precondition: it has a callback.
  func flush() throws(SystemError) -> FlushResult {
    try locked { (inner) throws(SystemError) in inner.callback!.flush() }
  }

  func reset() throws(SystemError) {
    try locked { (inner) throws(SystemError) in
      if let callback = inner.callback {
        callback.reset(inner.reader)
      } else {
        inner.reader.reset()
      }
      rearm(inner)
    }
  }

  func close() throws(SystemError) {
    try locked { (inner) throws(SystemError) in inner.callback?.close() }
  }

  /// After the channel is closed: who waits is told.
  func closed() throws(SystemError) {
    try locked { (inner) throws(SystemError) in rearm(inner) }
  }
}
