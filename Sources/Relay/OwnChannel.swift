// SPDX-License-Identifier: Apache-2.0
// A channel in this process's own memory as relay_open gives it: its buffers, callbacks and files.

internal import Glibc
public import LinuxIO

/// What a system call failed with, as this module throws it. Where member imports have to be
/// visible, making one takes `import LinuxIO`, which is in the same product.
public typealias SystemError = LinuxIO.SystemError

/// A channel in this process's own memory: one buffer for each CPU that is online, or a global one,
/// which this process writes and reads. Everything relay's kernel API has.
///
/// Any number of threads may use it at once. What throws EDEADLK does so from inside a callback,
/// where the last reference to the channel is not to be dropped either: then it is not closed.
// Sendable: what changes after `begin` is behind the lock, or atomic.
public final class OwnChannel: @unchecked Sendable {
  /// What the channel's user decides and is told; nil: relay's defaults. Those of one buffer are
  /// called one at a time. They return normally, and wait for nobody who writes.
  public struct Callbacks: Sendable {
    /// Whether to go on in `subbuf`; `previous` is the one that was left, its last `padding` bytes
    /// unused, and nil at open and after a reset, where the answer does not matter. Default: true
    /// unless the buffer is full, or always in overwrite mode. With this callback its answer alone
    /// decides: true while all are full overwrites the oldest. Once for each sub-buffer that is
    /// started, by the thread that writes, flushes, switches, resets or adds the buffer. It may
    /// call the buffer's `reserveHeader`, `isFull` and `isEmpty`, and write to `subbuf` only what
    /// it reserves. Every write of such a channel takes a lock.
    public var subbufStart:
      (
        @Sendable (
          _ buffer: OwnBuffer, _ subbuf: UnsafeMutableRawBufferPointer,
          _ previous: UnsafeMutableRawBufferPointer?, _ padding: Int
        ) -> Bool
      )?
    /// The buffer was mapped, or unmapped: `OwnBuffer.map`.
    public var bufMapped: (@Sendable (OwnBuffer) -> Void)?
    public var bufUnmapped: (@Sendable (OwnBuffer) -> Void)?
    /// Makes the file of a buffer as soon as the channel has a name; the file's is the base name
    /// and the CPU. What it throws undoes everything. True makes this the only buffer, at open, for
    /// the first one. Until the channel is open the buffer is no more than a name.
    public var createBufFile: (@Sendable (_ name: String, OwnBuffer) throws(SystemError) -> Bool)?
    /// The opposite, at the close.
    public var removeBufFile: (@Sendable (_ name: String, OwnBuffer) -> Void)?

    public init() {}
  }

  private struct Shape {
    var subbufSize: Int
    var subbufCount: Int
    var mode: ChannelMode
    var hasTimestamps: Bool
  }

  /// Its memory.
  package private(set) var channel: Channel
  private let shape: Shape
  private let callbacks: Callbacks
  private var baseName: String?
  private var isClosed = false
  /// By CPU; of those that have a buffer, each is here before the channel says so.
  private let slots: UnsafeMutableBufferPointer<OwnBuffer?>
  /// Held by who names, closes, or adds buffers.
  private let lock = CallbackLock()

  /// Opens a channel. Memory is used as it is touched.
  /// - Parameters:
  ///   - baseName: for its files; nil: named later, by `lateSetupFiles`.
  ///   - subbufSize: in bytes.
  ///   - subbufCount: 2 or more for each CPU.
  ///   - mode: of a channel without subbufStart.
  ///   - hasTimestamps: each record carries its time.
  /// - Throws: `ChannelError`: sizes that cannot be, and which limit they break; what createBufFile
  ///   threw; no memory.
  public convenience init(
    _ baseName: String? = nil, subbufSize: Int, subbufCount: Int, mode: ChannelMode = .discard,
    isGlobal: Bool = false, hasTimestamps: Bool = false, callbacks: Callbacks = Callbacks()
  ) throws(ChannelError) {
    try self.init(
      unopened: callbacks, subbufSize: subbufSize, subbufCount: subbufCount, mode: mode,
      isGlobal: isGlobal, hasTimestamps: hasTimestamps)
    try setUp(baseName)
    try Channel.system { () throws(SystemError) in try begin() }
  }

  /// Calls nobody yet: `setUp` and `begin` have to follow.
  package init(
    unopened callbacks: Callbacks, subbufSize: Int, subbufCount: Int, mode: ChannelMode,
    isGlobal: Bool, hasTimestamps: Bool
  ) throws(ChannelError) {
    self.callbacks = callbacks
    shape = Shape(
      subbufSize: subbufSize, subbufCount: subbufCount,
      // A callback decides by itself whether to overwrite.
      mode: callbacks.subbufStart != nil ? .overwrite : mode, hasTimestamps: hasTimestamps)
    channel = try OwnChannel.open(shape, isGlobal: isGlobal)
    slots = .allocate(capacity: channel.geometry.slotCount)
    slots.initialize(repeating: nil)
    for cpu in channel.cpus { slots[cpu] = OwnBuffer(madeFor: cpu, callbacks) }
  }

  private static func open(_ shape: Shape, isGlobal: Bool) throws(ChannelError) -> Channel {
    let cpus = try Channel.system { () throws(SystemError) in
      (online: try Processors.online(), possible: try Processors.possible())
    }
    let geometry: Geometry
    do throws(GeometryError) {
      geometry = try Geometry(
        subbufSize: shape.subbufSize, subbufCount: shape.subbufCount, mode: shape.mode,
        isGlobal: isGlobal, hasTimestamps: shape.hasTimestamps, online: cpus.online,
        possible: cpus.possible)
    } catch { throw .geometry(error) }
    return try Channel.open("own", geometry, wakesEachBuffer: true)
  }

  /// Closes the channel if it was not.
  deinit {
    try? close()
    slots.deinitialize()
    slots.deallocate()
  }
}

// Opening, naming, closing: in which order callbacks hear of what.
extension OwnChannel {
  /// Names the channel, if it is to be, and gives its buffers what they need.
  package func setUp(_ name: String?) throws(ChannelError) {
    var only: (buffer: OwnBuffer, channel: Channel)?
    if let name {
      let first = buffers.first
      try Channel.system { () throws(SystemError) in
        try setName(name) { (buffer) throws(SystemError) in
          guard buffer === first else { throw OwnChannel.tooLateToBeGlobal(name) }
          only = (buffer, try openGlobal())
        }
      }
    }
    if let only {
      channel = only.channel
      slots.update(repeating: nil)
      slots[0] = only.buffer
    }
    for cpu in channel.cpus { slots[cpu]!.setUp(channel, cpu: cpu) }
  }

  /// Starts the first sub-buffers.
  package func begin() throws(SystemError) { for buffer in buffers { try buffer.begin() } }

  /// Names a channel that has no name yet, and has its files made; if this throws, none is left.
  /// - Throws: `SystemError` with EINVAL: no name, or createBufFile would have a global buffer,
  ///   which can be had at open only; EEXIST: it has a name; EPIPE: it is closed; what
  ///   createBufFile threw; EDEADLK.
  public func lateSetupFiles(_ baseName: String) throws(SystemError) {
    try setName(baseName) { (_) throws(SystemError) in
      throw OwnChannel.tooLateToBeGlobal(baseName)
    }
  }

  private func openGlobal() throws(SystemError) -> Channel {
    do throws(ChannelError) { return try OwnChannel.open(shape, isGlobal: true) } catch {
      if case .system(let error) = error { throw error }
      throw SystemError(code: EINVAL, operation: "\(error)")
    }
  }

  private static func tooLateToBeGlobal(_ name: String) -> SystemError {
    SystemError(code: EINVAL, operation: "make channel \(name) global when it has other buffers")
  }

  /// - Parameter becomeGlobal: one buffer is to be the only one.
  private func setName(
    _ name: String, becomeGlobal: (OwnBuffer) throws(SystemError) -> Void
  ) throws(SystemError) {
    guard !name.isEmpty else {
      throw SystemError(code: EINVAL, operation: "name a channel by no character; it takes one")
    }
    try locked { () throws(SystemError) in
      if let baseName {
        throw SystemError(code: EEXIST, operation: "name channel \(baseName) again")
      }
      guard !isClosed else {
        throw SystemError(code: EPIPE, operation: "name a channel that is closed")
      }
      do throws(SystemError) {
        for buffer in buffers {
          guard try createFile(name, buffer), !channel.geometry.isGlobal else { continue }
          try becomeGlobal(buffer)
          break
        }
        baseName = name
      } catch {
        removeFiles()
        throw error
      }
    }
  }

  /// True: it is to be the only buffer.
  private func createFile(_ name: String, _ buffer: OwnBuffer) throws(SystemError) -> Bool {
    let fileName = "\(name)\(buffer.cpu)"
    let isOnly = try callbacks.createBufFile?(fileName, buffer) ?? false
    buffer.fileName = fileName
    return isOnly
  }

  private func removeFiles() {
    for buffer in buffers {
      if let name = buffer.fileName { callbacks.removeBufFile?(name, buffer) }
      buffer.fileName = nil
    }
  }

  /// EDEADLK from inside any callback: another thread may wait for its buffer in here.
  private func locked(_ body: () throws(SystemError) -> Void) throws(SystemError) {
    guard !buffers.contains(where: \.isHeldHere) else {
      throw SystemError(
        code: EDEADLK, operation: "name or close a channel from inside its callback")
    }
    try lock.locked(body)
  }

  /// Finalizes the channel: later writes are refused, readers drain what is left. Its files are
  /// removed. Throws EDEADLK.
  public func close() throws(SystemError) {
    try locked { () throws(SystemError) in
      guard !isClosed else { return }
      for buffer in buffers { try buffer.close() }
      channel.close()
      isClosed = true
      for buffer in buffers { try buffer.closed() }
      removeFiles()
    }
  }
}

extension OwnChannel {
  package var hasCallback: Bool { callbacks.subbufStart != nil }

  public var geometry: Geometry { channel.geometry }

  /// Ascending by CPU; those of CPUs that went away stay.
  public var buffers: [OwnBuffer] { channel.cpus.compactMap { slots[$0] } }

  /// The buffer of a CPU; nil: it has none.
  public func buffer(cpu: Int) -> OwnBuffer? {
    channel.bufferIfPresent(cpu: cpu) == nil ? nil : slots[cpu]
  }

  /// Gives the CPUs that came up a buffer and, where the channel has a name, a file. Where that
  /// cannot be made, and while another thread is at it, they go on without: their records go into
  /// the lowest CPU's buffer, and the next look tries again.
  public func addCPUs() {
    guard !channel.geometry.isGlobal, let online = try? Processors.online() else { return }
    let new = online.cpus.filter { $0 < slots.count && channel.bufferIfPresent(cpu: $0) == nil }
    guard !new.isEmpty else { return }
    lock.lockedIfFree {
      for cpu in new where !isClosed && channel.bufferIfPresent(cpu: cpu) == nil {
        try? add(cpu)
      }
    }
  }

  private func add(_ cpu: Int) throws(SystemError) {
    let buffer = OwnBuffer(madeFor: cpu, callbacks)
    if let baseName { _ = try createFile(baseName, buffer) }
    buffer.setUp(channel, cpu: cpu)
    slots[cpu] = buffer
    try buffer.begin { _ = channel.addBuffer(cpu: cpu) }
  }

  /// The fast way to write.
  /// - Precondition: there is no subbufStart, which would have to be asked.
  public func writer() -> Writer {
    precondition(!hasCallback, "records of a channel with subbufStart go through the channel")
    return channel.writer()
  }

  /// Reserves `length` bytes for one record in this CPU's buffer. A refusal is counted. Throws
  /// EDEADLK, with subbufStart only.
  /// - Precondition: `length` is not negative.
  public func reserve(_ length: Int) throws(SystemError) -> ReserveResult {
    try reserve(length, countsFull: true)
  }

  private func reserve(_ length: Int, countsFull: Bool) throws(SystemError) -> ReserveResult {
    precondition(length >= 0)
    guard hasCallback else { return channel.writer().reserve(length) }
    return try slots[channel.writer().cpu]!.reserve(length, countsFull: countsFull)
  }

  /// Copies one record into this CPU's buffer. A refusal is counted. Without subbufStart,
  /// `writer` writes faster. Throws EDEADLK, with subbufStart only.
  public func write(_ record: UnsafeRawBufferPointer) throws(SystemError) -> WriteResult {
    try write(record, waitingMilliseconds: nil)
  }

  /// The same for a text, in UTF-8 and without an end mark.
  @discardableResult
  public func write(_ record: String) throws(SystemError) -> WriteResult {
    try record.utf8.span.bytes.withUnsafeBytes { (bytes) throws(SystemError) in try write(bytes) }
  }

  /// The same, but sleeps while the channel is full, for at most `milliseconds`; `.full` after that
  /// is not counted, so that the caller may try again. nil: does not sleep, and counts.
  public func write(
    _ record: UnsafeRawBufferPointer, waitingMilliseconds milliseconds: Int?
  ) throws(SystemError) -> WriteResult {
    guard hasCallback else {
      let writer = channel.writer()
      guard let milliseconds else { return writer.write(record) }
      return writer.write(record, waitingMilliseconds: milliseconds)
    }
    // A callback may refuse for reasons of its own, so there is nothing to sleep on but time.
    var left = milliseconds ?? 0
    while true {
      switch try reserve(record.count, countsFull: milliseconds == nil) {
      case .reserved(let reservation):
        reservation.bytes.copyMemory(from: record)
        reservation.commit()
        return .written
      case .refused(let refusal):
        guard refusal == .full, left > 0 else { return refusal }
        let nap = min(left, 5)
        poll(nil, 0, CInt(nap))
        left -= nap
      }
    }
  }

  /// Puts the data of every buffer that holds any into a sub-buffer of its own. Returns the worst
  /// of the results. Throws EDEADLK, with subbufStart only.
  @discardableResult
  public func flush() throws(SystemError) -> FlushResult {
    guard hasCallback else { return channel.flush() }
    var worst = FlushResult.flushed
    for buffer in buffers {
      let result = try buffer.flush()
      if result != .flushed { worst = result }
    }
    return worst
  }

  /// Forgets all data and counts; safe while others write. Throws EDEADLK.
  public func reset() throws(SystemError) { for buffer in buffers { try buffer.reset() } }
}
