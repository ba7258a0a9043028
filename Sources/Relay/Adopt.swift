// SPDX-License-Identifier: Apache-2.0
// Going on with a channel whose opener died, in the memory it left: everything in there is read as
// what a stranger wrote.

public import LinuxIO
internal import Synchronization

extension Channel {
  /// Goes on with a channel whose opener is gone, through the files it had.
  /// - Parameters:
  ///   - opener: the file of `openerDescriptor`.
  ///   - ring: that of `descriptors`.
  ///   - bell: with the button of `descriptors` and the listener that is `wakeDescriptor`.
  /// - Throws: what is wrong with them; each is checked as what a stranger sent.
  public static func adopt(
    _ name: String, opener: consuming FileDescriptor, ring: consuming FileDescriptor,
    bell: consuming Doorbell
  ) throws(ChannelError) -> Channel {
    let geometry = try adoptedGeometry(name, opener.raw)
    try checkRing(name, ring.raw, geometry)
    let page = try map(opener.raw, geometry.openerFileBytes)
    let memory = try map(ring.raw, geometry.totalBytes)
    let raw = opener.raw
    let readOnly = try system { () throws(SystemError) in try MemoryFile.readOnly(raw) }
    let channel = Channel(
      name: name, geometry: geometry, page: page, memory: memory,
      files: Files(geometry: readOnly, ring: ring), openerFile: opener,
      bell: bell, owner: openerOwner, isOpener: true)
    channel.settle()
    return channel
  }

  private static func map(_ fd: CInt, _ count: Int) throws(ChannelError) -> Mapping {
    try system { () throws(SystemError) in
      try Mapping.shared(fd, count: count, writable: true, inheritedByChildren: false)
    }
  }

  private static func adoptedGeometry(
    _ name: String, _ fd: CInt
  ) throws(ChannelError) -> Geometry {
    let count = try system { () throws(SystemError) in
      guard try MemoryFile.seals(of: fd).contains([.shrink, .grow]) else { return 0 }
      return try MemoryFile.count(of: fd)
    }
    guard count >= Geometry.fileBytes else {
      throw .untrusted("the geometry file of channel \(name) is not sealed, or too short")
    }
    let page = try system { () throws(SystemError) in
      try Mapping.shared(fd, count: Geometry.fileBytes, writable: false, inheritedByChildren: false)
    }
    let geometry: Geometry
    do throws(GeometryError) {
      geometry = try Geometry(copyingUntrusted: page.base)
    } catch { throw .geometry(error) }
    guard count == geometry.openerFileBytes else {
      throw .untrusted("the geometry file of channel \(name) has the wrong length")
    }
    return geometry
  }

  /// What its opener left half done: pins that nobody will drop, a switch, a close. And its mark
  /// that what is unread was counted: it is not lost now.
  private func settle() {
    for buffer in buffers {
      readerStore(cpu: buffer.cpu)?.takeMarkBack()
      buffer.dropPins()
      _ = finishedRecords.withLock {
        buffer.sweep(owner: Channel.openerOwner, &$0[buffer.cpu, default: []])
      }
    }
    isClosed.withLock { $0 = buffers.contains { $0.loadCurrent().isClosed } }
  }
}

extension Channel {
  /// Where the reader of a CPU's buffer remembers its position; nil where it dies with the memory.
  func readerStore(cpu: Int) -> ReaderStore? {
    guard openerDescriptor != nil else { return nil }
    return ReaderStore(
      page.base + Geometry.storesOffset + cpu * ReaderStore.bytes,
      areas: page.base + geometry.areasOffset + cpu * 2 * geometry.areaBytes,
      areaBytes: geometry.areaBytes)
  }

  func noteSaved(cpu: Int) { LiveWords(page: page.base).setSaved(cpu) }

  func wasSaved(cpu: Int) -> Bool { LiveWords(page: page.base).isSaved(cpu) }

  /// Closes it for good, where `close` only says that this opener has no more use for it.
  public func end() {
    LiveWords(page: page.base).setEnded()
    close()
  }

  /// Whether `end` was called, by whatever process.
  public var isEnded: Bool { LiveWords(page: page.base).isEnded }

  /// Closed by `end` or `close`, or by who writes into the memory what it may not.
  public var isClosedNow: Bool { isClosed.withLock { $0 } }

  /// Its writers were sent to other memory.
  public var isRetired: Bool {
    // Acquire: pairs with the exchange in `retire` and its like.
    buffers.contains { $0.orphaned.pointee.load(ordering: .acquiring) != 0 }
  }

  /// Which daemon serves it, as the life page counts them.
  public var generation: UInt64 { LiveWords(page: page.base).generation }

  public func setGeneration(_ generation: UInt64) {
    LiveWords(page: page.base).setGeneration(generation)
  }

  /// This memory's own number: records with the same number in another incarnation are others.
  public var incarnation: UInt64 { LiveWords(page: era.pointee.page).incarnation }

  /// A page that only the opener can write, for what it wants to find again; nil as above.
  public var notes: UnsafeMutableRawBufferPointer? {
    guard openerDescriptor != nil else { return nil }
    return UnsafeMutableRawBufferPointer(
      start: page.base + Geometry.notesOffset, count: Geometry.notesBytes)
  }
}

extension Channel {
  /// Gives a channel's memory up for a new one of its name, which its writers are to use: they
  /// are refused here from now on, and what nobody has read is counted there as lost by a restart.
  /// Returns the number of records. 0 if somebody else has done it already.
  @discardableResult
  public func retire(into successor: Channel) -> UInt64 {
    var lost: UInt64 = 0
    for buffer in buffers {
      // Acquire-release: of all who know this memory, one counts. Before the close, by which
      // writers learn that they are to look elsewhere.
      guard buffer.orphaned.pointee.exchange(1, ordering: .acquiringAndReleasing) == 0 else {
        continue
      }
      buffer.close(wakeFD: wakeTarget)
      let unread = buffer.lostForGood(readerStore(cpu: buffer.cpu))
      let heir = successor.bufferIfPresent(cpu: buffer.cpu) ?? successor.buffers[0]
      heir.count(heir.lostRestart, unread)
      lost &+= unread
    }
    return lost
  }
}
