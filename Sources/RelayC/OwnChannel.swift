// SPDX-License-Identifier: Apache-2.0
// What a channel in this process's own memory has beside the channel: readers, callbacks, files.

internal import CRelay
internal import Glibc
internal import LinuxIO
internal import Relay

/// The reading side of one own buffer, and its callback if it has one.
final class OwnBuffer {
  let buffer: ChannelBuffer
  let reader: Reader
  /// Who has it mapped; then nobody reads it.
  var lease: OwnLease?
  /// It was unmapped from inside the callback, which is still running.
  var isUnmapping = false
  private let callback: CallbackBuffer?
  /// Readable when the reader has something to say; made when first asked for.
  private var wake: EventFD?
  private var wakeFD: CInt = -1
  private let lock = CallbackLock()

  init(_ channel: Channel, _ buffer: ChannelBuffer, start: CallbackBuffer.Start?) {
    self.buffer = buffer
    reader = Reader(channel, buffer)
    // Who wants times reads records, of which an empty one has a time, too.
    reader.isRecordwise = channel.geometry.hasTimestamps
    callback = start.map { CallbackBuffer(channel, buffer, start: $0) }
  }

  var isHeldHere: Bool { lock.isHeldHere }
  var hasCallback: Bool { callback != nil }

  func locked<R: ~Copyable>(_ body: () throws(Failure) -> R) throws(Failure) -> R {
    try lock.locked { () throws(Failure) in
      defer {
        if isUnmapping {
          isUnmapping = false
          endLease()
        }
      }
      return try body()
    }
  }

  /// For who reads: EBUSY while it is mapped.
  private func reading<R: ~Copyable>(_ body: () throws(Failure) -> R) throws(Failure) -> R {
    try locked { () throws(Failure) in
      guard lease == nil else { throw Failure(EBUSY) }
      return try body()
    }
  }
}

// Writing, where there is a callback.
extension OwnBuffer {
  /// - Precondition: it has a callback.
  func reserve(_ length: Int) throws(Failure) -> ReserveResult {
    try locked { () throws(Failure) in callback!.reserve(length) }
  }

  /// The first thing that happens to it; who comes while `appear` makes it known waits.
  func begin(_ appear: () -> Void = {}) throws(Failure) {
    try locked { () throws(Failure) in
      appear()
      callback?.begin()
    }
  }

  /// - Precondition: it has a callback.
  func flush() throws(Failure) -> FlushResult {
    try locked { () throws(Failure) in callback!.flush() }
  }

  /// Leaves the current sub-buffer, even if it is empty.
  /// - Precondition: it has a callback.
  func leave() throws(Failure) -> Bool {
    try locked { () throws(Failure) in callback!.switchSubbuf() == .flushed }
  }

  /// Only from inside the callback.
  func reserveHeader(_ length: Int) { if isHeldHere { callback?.reserveHeader(length) } }
}

// Reading. The state of `wake` follows from what is left after each of these.
extension OwnBuffer {
  func read(_ target: UnsafeMutableRawBufferPointer) throws(Failure) -> Int {
    try reading { () throws(Failure) in
      let count = reader.read(into: target)
      rearm()
      if count == 0, reader.isCorrupt { throw Failure(EIO) }
      return count
    }
  }

  func readRecord(_ target: UnsafeMutableRawBufferPointer) throws(Failure) -> RecordInfo {
    try reading { () throws(Failure) in
      let result = reader.readRecord(into: target)
      rearm()
      switch result {
      case .record(let info): return info
      case .none: throw Failure(EAGAIN)
      case .end: throw Failure(EPIPE)
      case .tooLong: throw Failure(EMSGSIZE)
      case .corrupt: throw Failure(EIO)
      }
    }
  }

  func consume(_ count: Int) throws(Failure) {
    try reading { () throws(Failure) in
      reader.consumeSubbufs(count)
      rearm()
    }
  }

  func events() throws(Failure) -> CInt {
    try locked { () throws(Failure) in
      rearm()
      return lease == nil ? readyEvents : POLLERR
    }
  }

  private var readyEvents: CInt {
    let hangup = reader.isClosed ? POLLHUP : 0
    if reader.hasData { return POLLIN | POLLRDNORM | hangup }
    return reader.isCorrupt ? POLLERR : hangup
  }

  func wakeDescriptor() throws(Failure) -> CInt {
    try locked { () throws(Failure) in
      if wakeFD < 0 {
        do throws(SystemError) {
          let event = try EventFD()
          wakeFD = event.raw
          wake = consume event
        } catch { throw Failure(error.code) }
        buffer.setWakeDescriptor(wakeFD)
      }
      rearm()
      return wakeFD
    }
  }

  func rearm() {
    guard wakeFD >= 0 else { return }
    let isReady = lease == nil ? readyEvents != 0 : isOffering
    if !isReady {
      EventFD.drain(wakeFD)
      if reader.arm(lease?.wakeup ?? .data, unless: { isOffering }) { return }
    }
    EventFD.signal(wakeFD)
  }

  func statistics() throws(Failure) -> Statistics {
    try locked { () throws(Failure) in reader.statistics() }
  }

  func reset() throws(Failure) {
    try locked { () throws(Failure) in
      if let callback { callback.reset(reader) } else { reader.reset() }
      rearm()
    }
  }

  func close() throws(Failure) {
    try locked { () throws(Failure) in callback?.close() }
  }

  /// After the channel is closed: who waits is told.
  func closed() throws(Failure) { try locked { () throws(Failure) in rearm() } }

  /// 1 or 0. From inside the callback it is about the sub-buffer asked for.
  var isFull: Bool {
    if isHeldHere, let callback, callback.isStarting { return callback.isOverwriting }
    return buffer.isFull
  }

  /// From inside the callback the sub-buffer being left counts as left.
  var isEmpty: Bool {
    if isHeldHere, let callback, callback.isStarting { return callback.isLeavingNothing }
    return buffer.isEmpty
  }
}

// Mapped, which is to say: handed out where it lies.
extension OwnBuffer {
  /// Whether who waits would get something: a reader, or who has it mapped.
  private var isOffering: Bool {
    guard let lease else { return reader.hasData }
    return reader.canLend(unfinished: lease.unfinished)
      || reader.loanCount == 0 && (reader.isCorrupt || reader.isDrained)
  }
}

/// A channel in this process's own memory.
final class OwnChannel {
  private let callbacks: relay_callbacks
  private var baseName: String?
  private var isClosed = false
  /// By CPU; of those that have a buffer, each is here before the channel says so.
  private var buffers: UnsafeMutableBufferPointer<OwnBuffer?>
  private var channel: Channel?
  /// Held by who names, closes, or adds buffers.
  private let lock = CallbackLock()

  init(_ callbacks: relay_callbacks) {
    self.callbacks = callbacks
    buffers = .init(start: nil, count: 0)
  }

  deinit {
    buffers.deinitialize()
    buffers.deallocate()
  }

  func mapped(_ buf: OpaquePointer) { callbacks.buf_mapped?(buf) }

  func unmapped(_ buf: OpaquePointer) { callbacks.buf_unmapped?(buf) }

  var hasCallback: Bool { callbacks.subbuf_start != nil }

  subscript(cpu: Int) -> OwnBuffer { buffers[cpu]! }

  private var all: [OwnBuffer] { channel?.cpus.map { self[$0] } ?? [] }

  /// - Parameter handle: with its final channel.
  func setUp(_ handle: Handle) {
    buffers = .allocate(capacity: handle.channel.geometry.slotCount)
    buffers.initialize(repeating: nil)
    for cpu in handle.channel.cpus { setUp(cpu, handle) }
    channel = handle.channel
  }

  private func setUp(_ cpu: Int, _ handle: Handle) {
    let name = handle.address(cpu: cpu)
    var start: CallbackBuffer.Start?
    if let subbufStart = callbacks.subbuf_start {
      start = { subbufStart(name, $0, $1, $2) != 0 }
    }
    let buffer = handle.channel.buffer(cpu: cpu)
    buffers[cpu] = OwnBuffer(handle.channel, buffer, start: start)
  }

  func begin() throws(Failure) { for buffer in all { try buffer.begin() } }

  /// Gives the CPUs that came up a buffer and, where the channel has a name, a file. Where that
  /// cannot be made, and while another thread is at it, they go on without: their records go into
  /// the lowest CPU's buffer, and the next look tries again.
  func addCPUs(_ handle: Handle) {
    let channel = handle.channel
    guard !channel.geometry.isGlobal, let online = try? Processors.online() else { return }
    let new = online.cpus.filter {
      $0 < buffers.count && channel.bufferIfPresent(cpu: $0) == nil
    }
    guard !new.isEmpty else { return }
    lock.lockedIfFree {
      for cpu in new where !isClosed && channel.bufferIfPresent(cpu: cpu) == nil {
        try? add(cpu, handle)
      }
    }
  }

  private func add(_ cpu: Int, _ handle: Handle) throws(Failure) {
    var isGlobal: CInt = 0
    if let baseName { try createFile(baseName, cpu, handle, &isGlobal) }
    setUp(cpu, handle)
    try self[cpu].begin { _ = handle.channel.addBuffer(cpu: cpu) }
  }

  /// One record, through the callback's lock. A refusal is counted if so wished.
  func reserve(_ length: Int, countsFull: Bool = true) throws(Failure) -> ReserveResult {
    let buffer = self[channel!.writer().cpu]
    let result = try buffer.reserve(length)
    switch consume result {
    case .reserved(let reservation): return .reserved(reservation)
    case .refused(let refusal):
      if refusal != .full || countsFull { channel!.count(refusal, in: buffer.buffer) }
      return .refused(refusal)
    }
  }

  func flush(_ channel: Channel) throws(Failure) -> FlushResult {
    guard hasCallback else { return channel.flush() }
    var worst = FlushResult.flushed
    for buffer in all {
      let result = try buffer.flush()
      if result != .flushed { worst = result }
    }
    return worst
  }

  func reset() throws(Failure) { for buffer in all { try buffer.reset() } }

  /// EDEADLK from inside any callback: another thread may wait for its buffer in here.
  private func locked(_ body: () throws(Failure) -> Void) throws(Failure) {
    guard !all.contains(where: \.isHeldHere) else { throw Failure(EDEADLK) }
    try lock.locked(body)
  }

  func close(_ handle: Handle) throws(Failure) {
    try locked { () throws(Failure) in
      guard !isClosed else { return }
      for buffer in all { try buffer.close() }
      handle.channel.close()
      isClosed = true
      for buffer in all { try buffer.closed() }
      removeFiles(handle.channel.cpus, handle)
    }
  }
}

// Files: whatever create_buf_file makes of them.
extension OwnChannel {
  /// Names the channel and has its files made; if this throws, none is left.
  /// - Parameter becomeGlobal: at open: makes the buffer of this CPU the only one.
  func setName(
    _ name: String?, _ handle: Handle, becomeGlobal: ((Int) throws(Failure) -> Void)? = nil
  ) throws(Failure) {
    guard let name, !name.isEmpty else { throw Failure(EINVAL) }
    try locked { () throws(Failure) in try setName(name, handle, becomeGlobal) }
  }

  private func setName(
    _ name: String, _ handle: Handle, _ becomeGlobal: ((Int) throws(Failure) -> Void)?
  ) throws(Failure) {
    guard baseName == nil else { throw Failure(EEXIST) }
    guard !isClosed else { throw Failure(EPIPE) }
    baseName = name
    var made: [Int] = []
    do throws(Failure) {
      for cpu in handle.channel.cpus where made.isEmpty || !handle.channel.geometry.isGlobal {
        var isGlobal: CInt = handle.channel.geometry.isGlobal ? 1 : 0
        try createFile(name, cpu, handle, &isGlobal)
        made.append(cpu)
        if isGlobal != 0, made.count == 1, !handle.channel.geometry.isGlobal {
          try becomeGlobal?(cpu)
        }
      }
    } catch {
      removeFiles(made, handle)
      baseName = nil
      throw error
    }
  }

  private func createFile(
    _ name: String, _ cpu: Int, _ handle: Handle, _ isGlobal: inout CInt
  ) throws(Failure) {
    guard let create = callbacks.create_buf_file else { return }
    let code = create("\(name)\(cpu)", handle.address(cpu: cpu), &isGlobal)
    guard code == 0 else { throw Failure((-4095..<0).contains(code) ? 0 - code : EINVAL) }
  }

  private func removeFiles(_ cpus: [Int], _ handle: Handle) {
    guard let name = baseName, let remove = callbacks.remove_buf_file else { return }
    for cpu in cpus { remove("\(name)\(cpu)", handle.name(cpu: cpu)) }
  }
}
