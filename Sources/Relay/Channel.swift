// SPDX-License-Identifier: Apache-2.0
// A relay channel: its memory, and the operations on all of its buffers. In this process's own
// anonymous memory, or in memory files that other processes attach to.

internal import CRelayABI
public import LinuxIO

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
// Sendable: immutable after init; the memory behind it is accessed atomically.
public final class Channel: @unchecked Sendable {
  public let name: String
  public let geometry: Geometry
  /// The buffers that exist, by ascending CPU.
  public let buffers: [ChannelBuffer]
  private let memory: Mapping
  private let files: Files?
  /// The files to send to a producer; nil for a channel in private memory. Borrowed.
  public let descriptors: (geometry: CInt, ring: CInt, wake: CInt)?
  private let wakeEvent: EventFD
  /// Where each CPU's buffer is; a CPU without one uses the lowest.
  private let slots: UnsafeMutablePointer<UnsafeMutableRawPointer>
  private let layout: UnsafeMutablePointer<ChannelBuffer.Layout>
  private let owner: UInt16

  /// The descriptors a producer needs, owned by the channel.
  private struct Files: ~Copyable {
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
  public static let highestOwner: UInt16 = 0x3fff

  private init(
    name: String, geometry: Geometry, memory: consuming Mapping, files: consuming Files?,
    wakeEvent: consuming EventFD, owner: UInt16
  ) {
    let base = memory.base
    let layout = UnsafeMutablePointer<ChannelBuffer.Layout>.allocate(capacity: 1)
    layout.initialize(to: ChannelBuffer.Layout(geometry, memory: base))
    let slots = UnsafeMutablePointer<UnsafeMutableRawPointer>.allocate(capacity: geometry.slotCount)
    let buffers = geometry.cpus.map { cpu in
      ChannelBuffer(base: base + cpu * geometry.stride, layout: layout)
    }
    slots.initialize(repeating: buffers[0].base, count: geometry.slotCount)
    for buffer in buffers { slots[buffer.cpu] = buffer.base }
    self.name = name
    self.geometry = geometry
    self.memory = memory
    if let files {
      descriptors = (files.raw.geometry, files.raw.ring, wakeEvent.raw)
      self.files = consume files
    } else {
      descriptors = nil
      self.files = nil
    }
    self.wakeEvent = wakeEvent
    self.buffers = buffers
    self.slots = slots
    self.layout = layout
    self.owner = owner
  }

  deinit {
    slots.deallocate()
    layout.deallocate()
  }
}

extension Channel {
  /// Opens a channel in this process's own zeroed anonymous memory.
  public static func open(_ name: String, _ geometry: Geometry) throws(ChannelError) -> Channel {
    // Before the first write: the reader's membarrier has to reach this process's writers.
    _ = Membarrier.register()
    return try system { () throws(SystemError) in
      Channel(
        name: name, geometry: geometry,
        memory: try Mapping.anonymous(count: geometry.totalBytes), files: nil,
        wakeEvent: try EventFD(), owner: 1)
    }
  }

  /// Opens a channel in memory files, for other processes to attach to.
  public static func openShared(
    _ name: String, _ geometry: Geometry
  ) throws(ChannelError) -> Channel {
    try system { () throws(SystemError) in
      let geometryFile = try MemoryFile.create(
        name: "relay-geometry:\(name)", count: Geometry.fileBytes)
      do {
        let page = try Mapping.shared(
          geometryFile.raw, count: Geometry.fileBytes, writable: true, inheritedByChildren: false)
        geometry.store(to: page.base)
      }
      // The mapping is gone, so the file can be sealed against all writing.
      try MemoryFile.seal(geometryFile.raw, [.write, .shrink, .grow, .seal])
      let ringFile = try MemoryFile.create(name: "relay:\(name)", count: geometry.totalBytes)
      try MemoryFile.seal(ringFile.raw, [.shrink, .grow, .seal])
      let memory = try Mapping.shared(
        ringFile.raw, count: geometry.totalBytes, writable: true, inheritedByChildren: false)
      return Channel(
        name: name, geometry: geometry, memory: memory,
        files: Files(geometry: geometryFile, ring: ringFile), wakeEvent: try EventFD(), owner: 0)
    }
  }

  /// Attaches to a channel of a daemon through the descriptors it sent. Each is checked: an
  /// unsealed file could be cut short under us.
  public static func attach(
    _ name: String, geometry geometryFile: consuming FileDescriptor,
    ring ringFile: consuming FileDescriptor, wake: consuming FileDescriptor, owner: UInt16
  ) throws(ChannelError) -> Channel {
    guard (1...highestOwner).contains(owner) else {
      throw .untrusted("owner id \(owner) is not between 1 and \(highestOwner)")
    }
    let geometry = try readGeometry(geometryFile.raw)
    let ring = ringFile.raw
    let seals = try system { () throws(SystemError) in try MemoryFile.seals(of: ring) }
    let count = try system { () throws(SystemError) in try MemoryFile.count(of: ring) }
    guard seals.contains(.shrink), count >= geometry.totalBytes else {
      throw .untrusted("the ring file of channel \(name) is not sealed, or too short")
    }
    // Before the first write: the daemon's membarrier has to reach this process.
    _ = Membarrier.register()
    let memory = try system { () throws(SystemError) in
      try Mapping.shared(
        ring, count: geometry.totalBytes, writable: true, inheritedByChildren: false)
    }
    return Channel(
      name: name, geometry: geometry, memory: memory,
      files: Files(geometry: geometryFile, ring: ringFile), wakeEvent: EventFD(wake), owner: owner)
  }

  private static func readGeometry(_ fd: CInt) throws(ChannelError) -> Geometry {
    let seals = try system { () throws(SystemError) in try MemoryFile.seals(of: fd) }
    let count = try system { () throws(SystemError) in try MemoryFile.count(of: fd) }
    guard seals.contains([.write, .shrink]), count >= Geometry.fileBytes else {
      throw .untrusted("the geometry file is not sealed, or too short")
    }
    let page = try system { () throws(SystemError) in
      try Mapping.shared(fd, count: Geometry.fileBytes, writable: false, inheritedByChildren: true)
    }
    do throws(GeometryError) {
      return try Geometry(copyingUntrusted: page.base)
    } catch {
      throw .geometry(error)
    }
  }

  private static func system<R: ~Copyable>(
    _ body: () throws(SystemError) -> R
  ) throws(ChannelError) -> R {
    do throws(SystemError) { return try body() } catch { throw .system(error) }
  }
}

extension Channel {
  /// The write side for this process.
  public func writer() -> Writer {
    precondition(owner != 0, "the daemon's own view of a shared channel does not write")
    return Writer(
      channel: self, layout: UnsafePointer(layout),
      slots: Writer.Slots(first: slots, count: geometry.slotCount), owner: owner,
      wakeFD: wakeEvent.raw)
  }

  /// Writes signal this when a reader has armed; a reader's event loop watches it.
  public var wakeDescriptor: CInt { wakeEvent.raw }

  /// Signals the reading side as a writer would.
  public func wake() { wakeEvent.signal() }

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
    buffer.flush(owner: owner, wakeFD: wakeEvent.raw)
  }

  /// Finalizes the channel for everyone: later writes are refused, readers drain what is left and
  /// then get end of file.
  public func close() {
    for buffer in buffers { buffer.close(wakeFD: wakeEvent.raw) }
    wake()
  }
}
