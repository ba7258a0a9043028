// SPDX-License-Identifier: Apache-2.0
// What a channel in this process's own memory has beside the channel: readers, callbacks, files.

internal import CRelay
internal import Glibc
internal import LinuxIO
internal import Relay
internal import Synchronization

/// The reading side of one own buffer, and its callback if it has one.
final class OwnBuffer {
  let buffer: ChannelBuffer
  private let reader: Reader
  private let callback: CallbackBuffer?
  /// Readable when the reader has something to say; made when first asked for.
  private var wake: EventFD?
  private var wakeFD: CInt = -1
  private let lockWord: UnsafeMutableRawPointer
  /// The thread that holds the lock: a callback may call us again.
  private let holder = Atomic<UInt>(0)

  init(_ channel: Channel, _ buffer: ChannelBuffer, start: CallbackBuffer.Start?) {
    self.buffer = buffer
    reader = Reader(channel, buffer)
    // Who wants times reads records, of which an empty one has a time, too.
    reader.isRecordwise = channel.geometry.hasTimestamps
    callback = start.map { CallbackBuffer(channel, buffer, start: $0) }
    lockWord = .allocate(byteCount: 4, alignment: 4)
    lockWord.storeBytes(of: 0, as: UInt32.self)
  }

  deinit { lockWord.deallocate() }

  // Relaxed: only ever equal for the thread that stored it.
  private var isHeldHere: Bool { holder.load(ordering: .relaxed) == UInt(pthread_self()) }

  private func locked<R: ~Copyable>(_ body: () throws(Failure) -> R) throws(Failure) -> R {
    guard !isHeldHere else { throw Failure(EDEADLK) }
    return try Lock(lockWord).locked { () throws(Failure) in
      holder.store(UInt(pthread_self()), ordering: .relaxed)
      defer { holder.store(0, ordering: .relaxed) }
      return try body()
    }
  }
}

// Writing, where there is a callback.
extension OwnBuffer {
  var isCalling: Bool { callback != nil }

  /// - Precondition: it has a callback, as for all of these.
  func reserve(_ length: Int) throws(Failure) -> ReserveResult {
    try locked { () throws(Failure) in callback!.reserve(length) }
  }

  func begin() throws(Failure) { try locked { () throws(Failure) in callback!.begin() } }

  func flush() throws(Failure) -> FlushResult {
    try locked { () throws(Failure) in callback!.flush() }
  }

  /// Leaves the current sub-buffer, even if it is empty.
  func leave() throws(Failure) -> Bool {
    try locked { () throws(Failure) in callback!.switchSubbuf() == .flushed }
  }

  /// Only from inside the callback.
  func reserveHeader(_ length: Int) { if isHeldHere { callback?.reserveHeader(length) } }
}

// Reading. The state of `wake` follows from what is left after each of these.
extension OwnBuffer {
  func read(_ target: UnsafeMutableRawBufferPointer) throws(Failure) -> Int {
    try locked { () throws(Failure) in
      let count = reader.read(into: target)
      rearm()
      if count == 0, reader.isCorrupt { throw Failure(EIO) }
      return count
    }
  }

  func readRecord(_ target: UnsafeMutableRawBufferPointer) throws(Failure) -> RecordInfo {
    try locked { () throws(Failure) in
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
    try locked { () throws(Failure) in
      reader.consumeSubbufs(count)
      rearm()
    }
  }

  func events() throws(Failure) -> CInt {
    try locked { () throws(Failure) in
      rearm()
      return readyEvents
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

  private func rearm() {
    guard wakeFD >= 0 else { return }
    if readyEvents == 0 {
      EventFD.drain(wakeFD)
      if reader.arm() { return }
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

/// A channel in this process's own memory.
final class OwnChannel {
  private let callbacks: relay_callbacks
  private var baseName: String?
  private var isClosed = false
  /// By CPU; set once the channel is what it will be.
  private var buffers: [OwnBuffer?] = []
  private var channel: Channel?

  init(_ callbacks: relay_callbacks) { self.callbacks = callbacks }

  var hasCallback: Bool { callbacks.subbuf_start != nil }

  subscript(cpu: Int) -> OwnBuffer { buffers[cpu]! }

  private var all: [OwnBuffer] { buffers.compactMap(\.self) }

  /// - Parameter handle: with its final channel.
  func setUp(_ handle: Handle) {
    channel = handle.channel
    buffers = Array(repeating: nil, count: handle.channel.geometry.slotCount)
    for buffer in handle.channel.buffers {
      let name = handle.name(cpu: buffer.cpu)
      var start: CallbackBuffer.Start?
      if let subbufStart = callbacks.subbuf_start {
        start = { subbufStart(name, $0, $1, $2) != 0 }
      }
      buffers[buffer.cpu] = OwnBuffer(handle.channel, buffer, start: start)
    }
  }

  func begin() throws(Failure) {
    for buffer in all where buffer.isCalling { try buffer.begin() }
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

  func close(_ handle: Handle) throws(Failure) {
    guard !isClosed else { return }
    for buffer in all { try buffer.close() }
    handle.channel.close()
    isClosed = true
    for buffer in all { try buffer.closed() }
    removeFiles(handle.channel.cpus, handle)
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
    guard baseName == nil else { throw Failure(EEXIST) }
    guard !isClosed else { throw Failure(EPIPE) }
    baseName = name
    guard let create = callbacks.create_buf_file else { return }
    var made: [Int] = []
    do throws(Failure) {
      for cpu in handle.channel.cpus where made.isEmpty || !handle.channel.geometry.isGlobal {
        var isGlobal: CInt = handle.channel.geometry.isGlobal ? 1 : 0
        let code = create("\(name)\(cpu)", handle.name(cpu: cpu), &isGlobal)
        guard code == 0 else { throw Failure(code < 0 && code > CInt.min ? 0 - code : EINVAL) }
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

  private func removeFiles(_ cpus: [Int], _ handle: Handle) {
    guard let name = baseName, let remove = callbacks.remove_buf_file else { return }
    for cpu in cpus { remove("\(name)\(cpu)", handle.name(cpu: cpu)) }
  }
}
