// SPDX-License-Identifier: Apache-2.0
// The way from memory that nobody serves any more to that of the next daemon, taken by whichever
// thread notices, in a signal handler, too: system calls only, no allocation, no lock to wait for.

internal import CLinux
internal import CRelayABI
internal import Glibc
internal import LinuxIO
internal import Synchronization

/// How soon the next try may come.
enum Urgency: Int {
  /// Writing goes on anyway.
  case none = 1000
  /// Nothing can be written, as far as is known by anybody's will.
  case closed = 100
  /// Somebody asked.
  case asked = 20
  /// Nothing can be written, because others have found the next daemon: worth waiting for.
  case left = 0
}

extension Lifeline {
  /// Of a writer whose memory was left by others, before it is refused.
  private static var waitMilliseconds: Int { 500 }

  /// Whether nobody serves the memory; looks for the next, then.
  func isCut() -> Bool {
    let era = era
    guard era.pointee.isOrphaned else { return false }
    _ = rejoin(from: era, .none)
    return true
  }

  /// Looks for the next daemon's memory where nobody serves this one's, not too often. Returns
  /// whether there is another memory now than `seen`.
  func rejoin(from seen: UnsafeMutablePointer<Era>, _ urgency: Urgency) -> Bool {
    let saved = errno
    defer { errno = saved }
    let end = Clock.milliseconds() + (urgency == .left ? Lifeline.waitMilliseconds : 0)
    while true {
      guard era == seen else { return true }
      let isOver = tryOnce(from: seen, urgency)
      guard era == seen else { return true }
      // Relaxed: all that can be missed is a turn.
      if isOver || Clock.milliseconds() >= end || wasRefused.load(ordering: .relaxed) {
        return false
      }
      _ = poll(nil, 0, 5)
    }
  }

  /// True: another try now would be in vain.
  private func tryOnce(from seen: UnsafeMutablePointer<Era>, _ urgency: Urgency) -> Bool {
    let thread = UInt32(truncatingIfNeeded: clinux_thread())
    // Acquire, with the release at the end: a holder sees what the one before did.
    let (isMine, other) = holder.compareExchange(
      expected: 0, desired: thread, ordering: .acquiring)
    // Where this interrupted the holder itself, waiting would be for ever.
    guard isMine else { return other == thread }
    defer { holder.store(0, ordering: .releasing) }
    guard era == seen, seen.pointee.isOrphaned else { return true }
    let now = Clock.milliseconds()
    // Relaxed, both: for the holder alone.
    guard now >= lastTry.load(ordering: .relaxed) + urgency.rawValue else { return false }
    lastTry.store(now, ordering: .relaxed)
    return ask(from: seen)
  }

  private func ask(from old: UnsafeMutablePointer<Era>) -> Bool {
    var reply: (header: UInt64, owner: UInt16, rest: UInt32) = (0, 0, 0)
    var received: (CInt, CInt, CInt, CInt) = (-1, -1, -1, -1)
    var connection: CInt = -1
    let count = withUnsafeMutableBytes(of: &reply) { reply in
      withUnsafeMutableBytes(of: &received) {
        clinux_ask(
          question, reply.baseAddress, reply.count,
          $0.baseAddress!.assumingMemoryBound(to: CInt.self), 4, &connection)
      }
    }
    let new = Received(
      geometry: received.0, ring: received.1, wake: received.2, life: received.3,
      connection: connection)
    defer { new.closeAll() }
    let isReply = count == 10 && reply.header == replyHeader
    // Relaxed: for the holder alone.
    wasRefused.store(count >= 0 && !isReply, ordering: .relaxed)
    guard isReply, (1...Channel.highestOwner).contains(UInt16(littleEndian: reply.owner)),
      new.life >= 0, let era = map(new, owner: UInt16(littleEndian: reply.owner), after: old)
    else { return false }
    // Who answered may have gone on with this memory before.
    guard old.pointee.isOrphaned else {
      unmap(era)
      return false
    }
    guard era.pointee.page.isSameGeometry(as: geometry) else {
      // Relaxed: as above.
      wasRefused.store(true, ordering: .relaxed)
      unmap(era)
      close(old)
      return false
    }
    follow(era, new)
    // Relaxed: for the holder alone. The new one's end is another matter.
    lastTry.store(-Urgency.none.rawValue, ordering: .relaxed)
    return true
  }

  /// The channel is another one now: writers are told.
  private func close(_ era: UnsafeMutablePointer<Era>) {
    for cpu in 0..<slots.count where era.pointee.layout.present.contains(cpu) {
      era.buffer(cpu).close(wakeFD: -1)
    }
  }

  /// What came with the reply; -1 where nothing did.
  struct Received {
    let geometry, ring, wake, life, connection: CInt

    func closeAll() {
      func end(_ fd: CInt) { if fd >= 0 { Glibc.close(fd) } }
      end(geometry)
      end(ring)
      end(wake)
      end(life)
      end(connection)
    }
  }

  private func follow(_ era: UnsafeMutablePointer<Era>, _ new: Received) {
    let old = era.pointee.previous.unsafelyUnwrapped
    let layout = era.pointee.layout
    // Where the readers of the old memory were; 0: that is not known, and they read nothing.
    let (start, count) = storesRange(layout)
    let stores =
      isLongEnough(files.geometry, start + count)
      ? clinux_map(nil, UInt64(start + count), files.geometry, 0) : nil
    // What is known by its number stays that, for the fork that closes it, too. Before the swap:
    // who writes there rings there.
    _ = clinux_replace(new.wake, files.wake)
    _ = clinux_replace(new.geometry, files.geometry)
    _ = clinux_replace(new.ring, files.ring)
    _ = clinux_replace(new.connection, connection)
    begin(era)
    for cpu in 0..<slots.count where old.pointee.layout.present.contains(cpu) {
      let store = stores.map { $0 + start + cpu * ReaderStore.bytes }
      giveUp(old.buffer(cpu), store, in: era.heir(cpu))
    }
    if let stores { munmap(stores, start + count) }
    // Who still writes in there is not disturbed; its memory goes.
    if let older = old.pointee.previous { release(older) }
  }

  /// The memory was left by all who know: what is lost in it is counted, once.
  private func giveUp(
    _ buffer: ChannelBuffer, _ store: UnsafeMutableRawPointer?, in heir: ChannelBuffer
  ) {
    // Acquire-release: of all its producers, one counts.
    guard
      buffer.orphaned.pointee.compareExchange(
        expected: 0, desired: 1, ordering: .acquiringAndReleasing
      ).exchanged
    else { return }
    // Nobody listens; writers of other processes are sent the same way.
    buffer.close(wakeFD: -1)
    let lost = buffer.lostForGood(
      store.map { ReaderStore($0, areas: $0, areaBytes: 0) })
    if lost > 0 { heir.count(heir.lostRestart, lost) }
  }

  private func storesRange(_ layout: ChannelBuffer.Layout) -> (start: Int, count: Int) {
    (Geometry.storesOffset, slots.count * ReaderStore.bytes)
  }

  private func isLongEnough(_ fd: CInt, _ count: Int) -> Bool {
    var status = stat()
    return fstat(fd, &status) == 0 && Int(status.st_size) >= count
  }
}

// Memory of eras but the first: one page for the era itself, then three mappings.
extension Lifeline {
  private static var pageSize: Int { Geometry.pageSize }

  private func isSealed(_ fd: CInt, _ count: Int, atLeast: Bool) -> Bool {
    let shrink: CInt = 0x2
    var status = stat()
    let seals = clinux_get_seals(fd)
    guard seals >= 0, seals & shrink != 0, fstat(fd, &status) == 0 else { return false }
    return atLeast ? Int(status.st_size) >= count : Int(status.st_size) == count
  }

  private func map(
    _ new: Received, owner: UInt16, after old: UnsafeMutablePointer<Era>
  ) -> UnsafeMutablePointer<Era>? {
    let layout = old.pointee.layout
    let page = UInt64(Lifeline.pageSize)
    let total = UInt64(slots.count * layout.stride)
    guard isSealed(new.geometry, Lifeline.pageSize, atLeast: true),
      isSealed(new.life, Lifeline.pageSize, atLeast: true),
      isSealed(new.ring, Int(total), atLeast: false),
      let base = clinux_map(nil, 3 * page + total, -1, 1)
    else { return nil }
    let geometry = base + Lifeline.pageSize
    let life = geometry + Lifeline.pageSize
    let ring = life + Lifeline.pageSize
    guard clinux_map(geometry, page, new.geometry, 0) != nil,
      clinux_map(life, page, new.life, 0) != nil, clinux_map(ring, total, new.ring, 1) != nil
    else {
      munmap(base, Int(3 * page + total))
      return nil
    }
    let era = base.assumingMemoryBound(to: Era.self)
    era.initialize(
      to: Era(
        layout: layout.with(
          memory: ring, present: PresentCPUs(page: geometry, slotCount: slots.count)),
        page: geometry, life: UnsafeRawPointer(life), owner: owner, previous: old))
    return era
  }

  /// All but the first one, whose memory is its owner's; nobody writes any more.
  func unmapEras() {
    var next = era
    while let previous = next.pointee.previous {
      unmap(next)
      next = previous
    }
  }

  private func unmap(_ era: UnsafeMutablePointer<Era>) {
    munmap(era, 3 * Lifeline.pageSize + slots.count * era.pointee.layout.stride)
  }

  /// Keeps the place of an era's memory, and nothing else: who still writes there writes nowhere.
  private func release(_ era: UnsafeMutablePointer<Era>) {
    let layout = era.pointee.layout
    let page = UInt64(Lifeline.pageSize)
    _ = clinux_map(layout.memory, UInt64(slots.count * layout.stride), -1, 1)
    _ = clinux_map(era.pointee.page, page, -1, 1)
    if let life = era.pointee.life {
      _ = clinux_map(UnsafeMutableRawPointer(mutating: life), page, -1, 1)
    }
  }
}

extension UnsafeMutablePointer<Era> {
  /// The slot of a CPU, with a buffer in it or without.
  func buffer(_ cpu: Int) -> ChannelBuffer {
    let layout = pointee.layout
    return ChannelBuffer(
      base: layout.memory + cpu * layout.stride,
      layout: UnsafeRawPointer(self).assumingMemoryBound(to: ChannelBuffer.Layout.self))
  }

  /// The buffer that a CPU's records go into.
  func heir(_ cpu: Int) -> ChannelBuffer {
    let present = pointee.layout.present
    return buffer(present.contains(cpu) ? cpu : present.lowest ?? 0)
  }
}

extension UnsafeMutableRawPointer {
  fileprivate func isSameGeometry(as other: Geometry.Fixed) -> Bool {
    withUnsafeBytes(of: other) { memcmp(self, $0.baseAddress!, $0.count) == 0 }
  }
}
