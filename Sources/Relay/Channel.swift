// SPDX-License-Identifier: Apache-2.0
// A relay channel: its memory, and the operations on all of its buffers. In this process's own
// anonymous memory, or in memory files that other processes attach to.

internal import CRelayABI
public import LinuxIO
internal import Synchronization

/// Why a channel cannot be opened or attached.
public enum ChannelError: Error, Equatable, CustomStringConvertible {
  case geometry(GeometryError)
  case system(SystemError)
  /// A descriptor that is not what a relayd hands out.
  case untrusted(String)

  public var description: String {
    switch self {
    case .geometry(let error): error.description
    case .system(let error): error.description
    case .untrusted(let reason): reason
    }
  }
}

/// A relay channel: one buffer for each CPU, or one global one.
// Sendable: what changes after init is atomic or behind the mutex.
public final class Channel: @unchecked Sendable {
  public let name: String
  public let geometry: Geometry
  /// The geometry page; mapped read-only where the channel was attached.
  let page: Mapping
  private let memory: Mapping
  private let life: LifeView?
  /// The memory that the channel began with.
  private let firstEra: UnsafeMutablePointer<Era>
  /// Of an attached channel, that leads to the memory it has now.
  let lifeline: UnsafeMutablePointer<Lifeline>?
  /// Of an attached channel: kept open for the daemon, which sees by it that somebody is attached.
  let connection: GuardedDescriptor?
  /// Of an attached channel: rings the daemon's bell.
  let button: GuardedDescriptor?
  /// Whether this side may change the page: it opened the channel.
  let isOpener: Bool
  /// Held while buffers are closed or added, so that a closed channel gets no open one.
  let isClosed = Mutex(false)
  /// What the sweeps found, by the buffer's CPU.
  let finishedRecords = Mutex<[Int: [FinishedRecords]]>([:])
  private let files: Files?
  /// The files to send to a producer; nil where this side did not open the channel in memory files.
  /// Borrowed. The first one is open for reading only.
  public let descriptors: Numbers?
  /// nil: each buffer has its own descriptor.
  private let bell: Doorbell?
  /// What writers ring.
  let wakeTarget: WakeTarget
  /// Readable when a writer has rung for a reader that is armed; a reader's event loop watches and
  /// drains it (`Doorbell.drain`). -1: each buffer has its own, or the listener is elsewhere.
  public let wakeDescriptor: CInt
  /// Those of the buffers, where each has its own.
  let wakeBells = Mutex<[GuardedBell]>([])
  /// Where each CPU's slot is, whether it has a buffer or not.
  private let slots: UnsafeMutablePointer<Writer.Slot>
  /// The page's file, open for writing: with it, the ring and both ends of the bell the channel can
  /// be adopted. nil where this side did not open the channel in memory files. Borrowed.
  public let openerDescriptor: CInt?
  private let openerFile: FileDescriptor?

  public typealias Numbers = (geometry: CInt, ring: CInt, wake: CInt)

  /// The descriptors a producer needs, owned by the channel.
  struct Files: ~Copyable {
    let geometry: FileDescriptor
    let ring: FileDescriptor
    let raw: (geometry: CInt, ring: CInt)

    init(geometry: consuming FileDescriptor, ring: consuming FileDescriptor) {
      raw = (geometry.raw, ring.raw)
      self.geometry = geometry
      self.ring = ring
    }
  }

  /// Owner ids are 1 … this; 0 writes nothing.
  public static let highestOwner: UInt16 = 0x3ffe
  /// The opener of a shared channel, which flushes, and writes for who has only a device.
  static let openerOwner: UInt16 = 0x3fff

  init(
    name: String, geometry: Geometry, page: consuming Mapping, memory: consuming Mapping,
    files: consuming Files? = nil, openerFile: consuming FileDescriptor? = nil,
    bell: consuming Doorbell? = nil, button: GuardedDescriptor? = nil, owner: UInt16,
    isOpener: Bool, life: consuming LifeView? = nil, way: WayBack? = nil
  ) {
    let base = memory.base
    let present = PresentCPUs(page: page.base, slotCount: geometry.slotCount)
    firstEra = UnsafeMutablePointer<Era>.allocate(capacity: 1)
    let lifeBase = life?.base
    self.life = life
    firstEra.initialize(
      to: Era(
        layout: ChannelBuffer.Layout(
          geometry, memory: base, present: present, isShared: files != nil || button != nil),
        page: page.base, pageBytes: page.count, life: lifeBase, owner: owner, previous: nil))
    slots = UnsafeMutablePointer<Writer.Slot>.allocate(capacity: geometry.slotCount)
    for cpu in 0..<geometry.slotCount {
      (slots + cpu).initialize(to: Writer.Slot(base: base + cpu * geometry.stride, owner: owner))
    }
    self.name = name
    self.geometry = geometry
    self.page = page
    self.memory = memory
    self.isOpener = isOpener
    self.button = button
    var bellButton = Wake.eachBuffer
    if let bell {
      bellButton = bell.buttonDescriptor
      wakeDescriptor = bell.listenerDescriptor
      self.bell = consume bell
    } else {
      wakeDescriptor = -1
      self.bell = nil
    }
    if let files {
      descriptors = (files.raw.geometry, files.raw.ring, bellButton)
      self.files = consume files
    } else {
      descriptors = nil
      self.files = nil
    }
    if let openerFile {
      openerDescriptor = openerFile.raw
      self.openerFile = consume openerFile
    } else {
      openerDescriptor = nil
      self.openerFile = nil
    }
    if isOpener, geometry.clock == .tsc {
      let base = LiveWords(page: self.page.base).clockBase
      Timebase.shared.withLock { $0.begin(at: base) }
    }
    connection = way?.connection
    guard let way, let button else {
      wakeTarget = button.map { WakeTarget($0.words) } ?? WakeTarget(descriptor: bellButton)
      lifeline = nil
      return
    }
    let lifeline = UnsafeMutablePointer<Lifeline>.allocate(capacity: 1)
    lifeline.initialize(
      to: Lifeline(
        firstEra, slots: Writer.Slots(first: slots, count: geometry.slotCount), way: way,
        geometry: self.page.base.loadUnaligned(as: Geometry.Fixed.self), button: button))
    wakeTarget = WakeTarget(lifeline)
    self.lifeline = lifeline
  }

  deinit {
    if let lifeline {
      lifeline.pointee.unmapEras()
      lifeline.deinitialize(count: 1)
      lifeline.deallocate()
    }
    slots.deallocate()
    firstEra.deallocate()
  }
}

extension Channel {
  /// Opens a channel in this process's own zeroed anonymous memory.
  public static func open(_ name: String, _ geometry: Geometry) throws(ChannelError) -> Channel {
    try open(name, geometry, wakesEachBuffer: false)
  }

  /// - Parameter wakesEachBuffer: writers signal `setWakeDescriptor`'s instead of the channel's.
  package static func open(
    _ name: String, _ geometry: Geometry, wakesEachBuffer: Bool
  ) throws(ChannelError) -> Channel {
    // Before the first write: the reader's membarrier has to reach this process's writers.
    _ = Membarrier.register()
    return try system { () throws(SystemError) in
      let page = try Mapping.anonymous(count: Geometry.fileBytes)
      geometry.store(to: page.base)
      return Channel(
        name: name, geometry: geometry, page: page,
        memory: try Mapping.anonymous(count: geometry.totalBytes),
        bell: wakesEachBuffer ? nil : try Doorbell(), owner: 1, isOpener: true)
    }
  }

  /// Opens a channel in memory files, for other processes to attach to.
  public static func openShared(
    _ name: String, _ geometry: Geometry
  ) throws(ChannelError) -> Channel {
    try system { () throws(SystemError) in
      let count = geometry.openerFileBytes
      let file = try MemoryFile.create(name: "relay-geometry:\(name)", count: count)
      try MemoryFile.restrict(file.raw)
      try MemoryFile.seal(file.raw, [.shrink, .grow, .seal])
      let page = try Mapping.shared(
        file.raw, count: count, writable: true, inheritedByChildren: false)
      geometry.store(to: page.base)
      let ringFile = try MemoryFile.create(name: "relay:\(name)", count: geometry.totalBytes)
      // Who may only read it gets it open for reading only, and stays with that.
      try MemoryFile.restrict(ringFile.raw)
      try MemoryFile.seal(ringFile.raw, [.shrink, .grow, .seal])
      let memory = try Mapping.shared(
        ringFile.raw, count: geometry.totalBytes, writable: true, inheritedByChildren: false)
      return Channel(
        name: name, geometry: geometry, page: page, memory: memory,
        files: Files(geometry: try MemoryFile.readOnly(file.raw), ring: ringFile),
        openerFile: file, bell: try Doorbell(), owner: openerOwner, isOpener: true)
    }
  }

  static func checkRing(
    _ name: String, _ ring: CInt, _ geometry: Geometry
  ) throws(ChannelError) {
    let seals = try system { () throws(SystemError) in try MemoryFile.seals(of: ring) }
    let count = try system { () throws(SystemError) in try MemoryFile.count(of: ring) }
    guard seals.contains(.shrink), count == geometry.totalBytes else {
      throw .untrusted("the ring file of channel \(name) is not sealed, or has the wrong length")
    }
  }

  /// Attaches to a channel of a daemon through what it sent. Each descriptor is checked: an
  /// unsealed file could be cut short under us. When the daemon dies, what is written goes on into
  /// this memory, or, from some point on, into that of the daemon that comes next.
  public static func attach(_ attached: consuming AttachedChannel) throws(ChannelError) -> Channel {
    let (name, owner, way) = (attached.name, attached.owner, attached.way)
    return try attached.take { geometry, ring, wake, life throws(ChannelError) in
      let life = try system { () throws(SystemError) in try LifeView(life.raw) }
      return try attach(
        name, geometry: geometry, ring: ring, wake: wake, owner: owner, life: life, way: way)
    }
  }

  /// Without `way`, for good.
  package static func attach(
    _ name: String, geometry geometryFile: consuming FileDescriptor,
    ring ringFile: consuming FileDescriptor, wake: consuming FileDescriptor, owner: UInt16,
    life: consuming LifeView? = nil, way: WayBack? = nil
  ) throws(ChannelError) -> Channel {
    guard (1...highestOwner).contains(owner) else {
      throw .untrusted("owner id \(owner) is not between 1 and \(highestOwner)")
    }
    let page = try mapGeometry(geometryFile.raw)
    let geometry: Geometry
    do throws(GeometryError) {
      geometry = try Geometry(copyingUntrusted: page.base)
    } catch {
      throw .geometry(error)
    }
    let ring = ringFile.raw
    try checkRing(name, ring, geometry)
    let button: GuardedDescriptor
    do throws(SystemError) {
      button = try GuardedDescriptor(wake)
    } catch { throw .system(error) }
    // Before the first write: the daemon's membarrier has to reach this process.
    _ = Membarrier.register()
    let memory = try system { () throws(SystemError) in
      try Mapping.shared(
        ring, count: geometry.totalBytes, writable: true, inheritedByChildren: false)
    }
    // The mappings are enough: no descriptor of either file is kept.
    return Channel(
      name: name, geometry: geometry, page: page, memory: memory, button: button,
      owner: owner, isOpener: false, life: life, way: way)
  }

  /// Read-only, as it was sent; with the readers' stores, if they are there.
  static func mapGeometry(_ fd: CInt) throws(ChannelError) -> Mapping {
    let seals = try system { () throws(SystemError) in try MemoryFile.seals(of: fd) }
    let count = try system { () throws(SystemError) in try MemoryFile.count(of: fd) }
    guard seals.contains(.shrink), count >= Geometry.fileBytes
    else {
      throw .untrusted("the geometry file is not sealed, or too short")
    }
    return try system { () throws(SystemError) in
      try Mapping.shared(
        fd, count: min(count, Geometry.storesLimit), writable: false, inheritedByChildren: false)
    }
  }

  static func system<R: ~Copyable>(
    _ body: () throws(SystemError) -> R
  ) throws(ChannelError) -> R {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
  }
}

extension Channel {
  /// The CPUs that have a buffer now, ascending; [0] for a global channel. Never fewer than before.
  public var cpus: [Int] { era.pointee.layout.present.all }

  /// Their buffers, by ascending CPU.
  public var buffers: [ChannelBuffer] { cpus.map(buffer) }

  /// nil: the CPU has none.
  package func bufferIfPresent(cpu: Int) -> ChannelBuffer? {
    era.pointee.layout.present.contains(cpu) ? era.buffer(cpu) : nil
  }

  /// Also that of a CPU which has none yet: all zero.
  package func buffer(cpu: Int) -> ChannelBuffer { era.buffer(cpu) }

  /// The memory that is written into now.
  var era: UnsafeMutablePointer<Era> { lifeline?.pointee.era ?? firstEra }

  var owner: UInt16 { era.pointee.owner }

  /// Gives a CPU that came up its buffer, for every process that writes: until now its writers
  /// used the lowest CPU's. A CPU that goes away keeps the buffer and finds it again.
  ///
  /// nil, and nothing done, where there is nothing new to serve: the CPU has its buffer already,
  /// the channel is global, or no memory was laid out because the CPU was not possible.
  /// - Precondition: this side opened the channel.
  public func addBuffer(cpu: Int) -> ChannelBuffer? {
    precondition(isOpener, "an attached producer cannot add buffers")
    let present = era.pointee.layout.present
    return isClosed.withLock { isClosed in
      guard !geometry.isGlobal, (0..<geometry.slotCount).contains(cpu), !present.contains(cpu)
      else { return nil }
      let buffer = buffer(cpu: cpu)
      // Before the CPU is present: no record gets into a closed channel.
      if isClosed { buffer.close(wakeFD: wakeTarget) }
      present.insert(cpu)
      return buffer
    }
  }

  /// The write side for this process.
  public func writer() -> Writer {
    precondition(
      owner != Channel.openerOwner, "the daemon's own view of a shared channel has no writer")
    return Writer(
      channel: self, layout: firstEra.buffer(0).layoutPointer,
      slots: Writer.Slots(first: slots, count: geometry.slotCount), wakeTarget: wakeTarget)
  }

  /// Wakes the reading side as a writer would.
  public func wake() { wakeTarget.ring() }

  /// Whether a daemon reads what is written now; in private memory it is always so.
  public var isServed: Bool { era.pointee.isServed }

  /// Goes on in the memory of the daemon that came after this one's, if that is gone and left it to
  /// nobody; writing does so by itself, now and then. False: nobody serves the channel.
  @discardableResult
  public func rejoin() -> Bool {
    let era = era
    guard let lifeline, era.pointee.isOrphaned else { return isServed }
    return lifeline.pointee.look(.asked)
  }

  /// The process is done with the channel: has the next daemon count what nobody reads any more.
  public func leave() {
    guard let lifeline, era.pointee.isOrphaned else { return }
    _ = lifeline.pointee.look(.leaving)
  }

  /// Puts the data of every buffer that holds any into a sub-buffer of its own. Returns the worst
  /// of the results.
  @discardableResult
  public func flush() -> FlushResult {
    var worst = FlushResult.flushed
    for buffer in buffers {
      let result = flush(buffer)
      if result != .flushed { worst = result }
    }
    return worst
  }

  func flush(_ buffer: ChannelBuffer) -> FlushResult {
    let result = buffer.flush(owner: owner, wakeFD: wakeTarget)
    if result == .corrupt { buffer.count(buffer.corrupt) }
    return result
  }

  /// Finalizes the channel for everyone: later writes are refused, readers drain what is left and
  /// then get end of file. So do buffers added later.
  /// - Precondition: this side opened the channel.
  public func close() {
    precondition(isOpener, "an attached producer cannot close the channel")
    isClosed.withLock { isClosed in
      isClosed = true
      for buffer in buffers { buffer.close(wakeFD: wakeTarget) }
    }
    wake()
  }
}
