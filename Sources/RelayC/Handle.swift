// SPDX-License-Identifier: Apache-2.0
// What a relay_chan pointer points to: a page with all that a record needs, in front of it a page
// that leads to the rest. The kernel wipes the first in a forked child (daemon channels): its
// zeroes are what sends the child's first call to attach anew, at no cost for anybody else.

internal import CRelay
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl
internal import Synchronization

/// The page a relay_chan points to.
struct Hot {
  private let base: UnsafeMutableRawPointer

  init(_ chan: OpaquePointer) { base = UnsafeMutableRawPointer(chan) }

  /// There is one only while `isFast`.
  @inline(__always)
  var writer: UnsafeMutablePointer<Writer> { base.assumingMemoryBound(to: Writer.self) }

  /// A number of this attachment; 0 before the first one and after a fork. Reservations of another
  /// one are not ours to end.
  @inline(__always)
  var epoch: UnsafePointer<Atomic<UInt64>> { word(64) }

  /// Not 0: records go through `writer`. 0: wiped by a fork, or a channel with callbacks.
  @inline(__always)
  private var gate: UnsafePointer<Atomic<UInt64>> { word(72) }

  @inline(__always)
  private func word(_ offset: Int) -> UnsafePointer<Atomic<UInt64>> {
    UnsafePointer((base + offset).assumingMemoryBound(to: Atomic<UInt64>.self))
  }

  /// Acquire: pairs with `open`, so whoever sees the gate open sees the writer.
  @inline(__always)
  var isFast: Bool { gate.pointee.load(ordering: .acquiring) != 0 }

  /// From now on this is an attachment; with a writer, records go through it.
  func open(_ channel: Channel, isFast: Bool) {
    precondition(MemoryLayout<Writer>.size <= 64)
    if isFast { writer.initialize(to: channel.writer()) }
    let number = Hot.nextEpoch.wrappingAdd(1, ordering: .relaxed).oldValue
    // Release: pairs with the loads by which others see that there is no need to attach.
    epoch.pointee.store(number, ordering: .releasing)
    gate.pointee.store(isFast ? 1 : 0, ordering: .releasing)
  }

  /// 1 in the child that a parent's token is for; wiped by each fork, seen by whose handler or not.
  var tokenMark: UnsafeMutablePointer<UInt64> { (base + 80).assumingMemoryBound(to: UInt64.self) }

  /// Records refused in a forked child that could not attach. Here, so that its own children do not
  /// count them again.
  var unattached: UnsafePointer<Atomic<UInt64>> { word(88) }

  /// Held by who uses the connection or attaches. Here, so that a child finds it free.
  var lock: Lock { Lock(base + 192) }

  static let nextEpoch = Atomic<UInt64>(1)
}

/// Why a call fails: a positive errno value.
struct Failure: Error {
  let code: CInt

  init(_ code: CInt) { self.code = code }

  init(_ error: ControlError) {
    switch error {
    case .noDaemon: code = ECONNREFUSED
    case .notPermitted: code = EACCES
    case .refused(let refusal): code = refusal.code > 0 ? refusal.code : EPROTO
    case .unknownRequest: code = EOPNOTSUPP
    case .protocolViolation: code = EPROTO
    case .disconnected: code = ECONNRESET
    case .noReply: code = ETIMEDOUT
    case .system(let error): code = error.code
    }
  }

  init(_ error: ChannelError) {
    switch error {
    // From a daemon: one that speaks of other channels than we know.
    case .geometry, .untrusted: code = EPROTO
    case .system(let error): code = error.code
    }
  }

  init(_ error: SystemError) { code = error.code }
}

/// What fails with a system error, as a failure.
func failing<R: ~Copyable>(_ body: () throws(SystemError) -> R) throws(Failure) -> R {
  do throws(SystemError) { return try body() } catch { throw Failure(error) }
}

/// A number to poll, which is -1 where the program has closed it.
func stillThere(_ number: CInt) throws(Failure) -> CInt {
  guard number >= 0 else { throw Failure(EBADF) }
  return number
}

/// Everything about a channel that no record needs.
final class Handle {
  /// Two pages: the way here, and the hot one.
  private let pages: Mapping
  private let hotAddress: UnsafeMutableRawPointer
  var channel: Channel { didSet { cpus = channel.cpus } }
  /// Those that had a buffer when it was attached, for a child that has no memory to look at.
  private(set) var cpus: [Int]
  let kind: Kind
  /// Which of `buffers` is a global channel's.
  private var globalIndex = 0
  let privateData: UnsafeMutableRawPointer?
  /// One for each CPU that could have a buffer: what relay_buf pointers point to.
  private let buffers: UnsafeMutablePointer<BufferName>
  private let bufferCount: Int

  enum Kind {
    case own(OwnChannel)
    case daemon(Attachment)
  }

  struct BufferName {
    let chan: OpaquePointer
    let cpu: Int
  }

  private static var pageSize: Int { sysconf(CInt(_SC_PAGESIZE)) }

  init(_ channel: Channel, _ kind: Kind, privateData: UnsafeMutableRawPointer?) throws(Failure) {
    let pageSize = Handle.pageSize
    do {
      pages = try Mapping.anonymous(count: 2 * pageSize)
    } catch { throw Failure(error.code) }
    hotAddress = pages.base + pageSize
    if case .daemon = kind, madvise(hotAddress, pageSize, CInt(MADV_WIPEONFORK)) != 0 {
      throw Failure(errno)
    }
    self.channel = channel
    cpus = channel.cpus
    self.kind = kind
    self.privateData = privateData
    bufferCount = channel.geometry.slotCount
    buffers = .allocate(capacity: bufferCount)
    for cpu in 0..<bufferCount {
      (buffers + cpu).initialize(to: BufferName(chan: OpaquePointer(hotAddress), cpu: cpu))
    }
    // Kept until `end`.
    pages.base.storeBytes(of: Unmanaged.passRetained(self), as: Unmanaged<Handle>.self)
  }

  deinit { buffers.deallocate() }

  var chan: OpaquePointer { OpaquePointer(hotAddress) }
  var hot: Hot { Hot(chan) }

  /// - Parameter chan: from `relay_open` and its like, not detached yet.
  static func of(_ chan: OpaquePointer) -> Handle {
    (UnsafeRawPointer(chan) - pageSize).load(as: Unmanaged<Handle>.self).takeUnretainedValue()
  }

  /// The channel of a buffer, and which one it is. What fails in a child that cannot attach.
  static func ofBuffer(_ buf: OpaquePointer) throws(Failure) -> (Handle, ChannelBuffer) {
    let name = UnsafeRawPointer(buf).load(as: BufferName.self)
    let handle = Handle.of(name.chan)
    try handle.makeReady()
    guard let buffer = handle.channel.bufferIfPresent(cpu: name.cpu) else { throw Failure(ENXIO) }
    return (handle, buffer)
  }

  /// The channel of a buffer and its CPU, whether this process is attached or not.
  static func ofName(_ buf: OpaquePointer) -> (Handle, cpu: Int) {
    let name = UnsafeRawPointer(buf).load(as: BufferName.self)
    return (Handle.of(name.chan), name.cpu)
  }

  /// Whether there is memory to look at: not so in a forked child before its first call.
  var isAttached: Bool { !isForked }
  /// Whether a daemon serves it.
  var isServed: Bool { isAttached && channel.isServed }

  func name(cpu: Int) -> OpaquePointer? {
    guard (0..<bufferCount).contains(cpu) else { return nil }
    let isPresent = isAttached ? channel.bufferIfPresent(cpu: cpu) != nil : cpus.contains(cpu)
    guard isPresent else { return nil }
    return OpaquePointer(buffers + (channel.geometry.isGlobal ? globalIndex : cpu))
  }

  /// Before anything was written: an own channel may have one buffer instead of many now, which
  /// keeps its name.
  func look(at own: OwnChannel) {
    guard own.channel !== channel else { return }
    channel = own.channel
    globalIndex = own.buffers[0].madeFor
    buffers[globalIndex] = BufferName(chan: chan, cpu: 0)
  }

  /// Also one that is not set up yet.
  func name(of buffer: OwnBuffer) -> OpaquePointer { OpaquePointer(buffers + buffer.madeFor) }

  /// In a forked child that uses a daemon's channel for the first time: attaches in its own name.
  /// While another thread does, fails with EAGAIN after a moment.
  func makeReady() throws(Failure) {
    guard case .daemon(let attachment) = kind, isForked else { return }
    crelay_thread_is_new()
    try requireMemory()
    for _ in 0..<Handle.turnsOfAnother {
      let attempt = hot.lock.lockedIfFree { attachInChild(attachment) }
      if let attempt { return try attempt.get() }
      guard isForked else { return }
      _ = poll(nil, 0, 1)
    }
    throw Failure(EAGAIN)
  }

  /// Counts in the channel what was refused before this process was attached.
  private func countUnattached() {
    // Acquire-release: pairs with the addition.
    channel.count(
      refusedElsewhere: hot.unattached.pointee.exchange(0, ordering: .acquiringAndReleasing))
  }

  /// The same for a record, which is counted where that fails.
  func makeReadyToWrite() throws(Failure) {
    do throws(Failure) { try makeReady() } catch {
      // Acquire-release: after the exchange of a thread that has attached, its attachment is seen.
      hot.unattached.pointee.wrappingAdd(1, ordering: .acquiringAndReleasing)
      if case .daemon = kind, !isForked { countUnattached() }
      throw error
    }
  }

  /// Of a millisecond each.
  private static let turnsOfAnother = 20

  private func attachInChild(_ attachment: Attachment) -> Result<Void, Failure> {
    guard isForked else { return .success(()) }
    attachment.abandon(channel)
    do throws(Failure) {
      channel = try attachment.attachAnew(ownsToken: ownsToken)
    } catch { return .failure(error) }
    hot.open(channel, isFast: true)
    countUnattached()
    return .success(())
  }

  private var ownsToken: Bool { hot.tokenMark.pointee == 1 }

  private var isForked: Bool { hot.epoch.pointee.load(ordering: .acquiring) == 0 }

  /// Frees everything. The pointers are gone.
  func end() {
    if hot.isFast { hot.writer.deinitialize(count: 1) }
    switch kind {
    case .own(let own): try? own.close()
    case .daemon(let attachment):
      if isForked {
        attachment.abandon(channel)
      } else {
        // What went into memory that nobody reads any more is counted where the next daemon is.
        channel.leave()
      }
      attachment.end(ownsToken: ownsToken || !isForked)
    }
    Unmanaged.passUnretained(self).release()
  }
}
