// SPDX-License-Identifier: Apache-2.0
// The way from memory that nobody serves any more to that of the next daemon, taken by whichever
// thread notices, in a signal handler, too: system calls only, no allocation, no lock to wait for.

internal import CLinux
internal import CRelayABI
internal import Glibc
internal import LinuxIO
internal import Synchronization

extension Lifeline {
  /// Of a writer whose memory was left by others, before it is refused.
  private static var waitMilliseconds: Int { 300 }
  /// Of one that finds another thread trying.
  private static var otherThreadMilliseconds: Int { 20 }

  /// Looks for the next daemon's memory where nobody serves this one's, not too often. Returns
  /// whether there is another memory now than `seen`.
  func rejoin(from seen: UnsafeMutablePointer<Era>, _ urgency: Urgency) -> Bool {
    let saved = errno
    defer { errno = saved }
    let start = Clock.milliseconds()
    var wait = urgency == .left ? Lifeline.waitMilliseconds : 0
    while true {
      guard era == seen else { return true }
      let attempt = tryOnce(from: seen, urgency)
      guard era == seen else { return true }
      if attempt == .byAnother { wait = min(wait, Lifeline.otherThreadMilliseconds) }
      // Relaxed: all that can be missed is a turn.
      let isOver =
        attempt == .vain || outage.wasRefused.load(ordering: .relaxed)
        || outage.isReplaced.load(ordering: .relaxed)
      if isOver || Clock.milliseconds() >= start + wait {
        if urgency == .left, attempt == .made { outage.backOff() }
        return false
      }
      _ = poll(nil, 0, 5)
    }
  }

  private enum Attempt {
    case made
    /// Another thread makes one.
    case byAnother
    /// Not now: too early, or not from inside the one that this thread makes.
    case vain
  }

  private func tryOnce(from seen: UnsafeMutablePointer<Era>, _ urgency: Urgency) -> Attempt {
    let thread = UInt32(truncatingIfNeeded: clinux_thread())
    // Acquire, with the release at the end: a holder sees what the one before did.
    let (isMine, other) = outage.holder.compareExchange(
      expected: 0, desired: thread, ordering: .acquiring)
    // Where this interrupted the holder itself, waiting would be for ever.
    guard isMine else { return other == thread ? .vain : .byAnother }
    defer { outage.holder.store(0, ordering: .releasing) }
    guard era == seen, seen.pointee.isOrphaned, !outage.isTooEarly(urgency) else { return .vain }
    outage.lastTry.value = Clock.milliseconds()
    ask(from: seen)
    return .made
  }

  private func ask(from old: UnsafeMutablePointer<Era>) {
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
    let owner = UInt16(littleEndian: reply.owner)
    let isReply =
      count == 10 && reply.header == replyHeader && (1...Channel.highestOwner).contains(owner)
    // Relaxed: read by the holder, and by threads that wait for it.
    outage.wasRefused.store(count >= 0 && !isReply, ordering: .relaxed)
    // Where many ask at once the socket says EAGAIN, but that takes no time.
    if count == -Int(ETIMEDOUT) { outage.backOff() }
    guard isReply, new.life >= 0, let isSame = isSameGeometry(new.geometry) else { return }
    guard isSame else {
      // The daemon that answered may have adopted this memory before.
      if old.pointee.isOrphaned { leave(old) }
      return
    }
    guard let era = map(new, owner: owner, after: old) else { return }
    // As above.
    guard old.pointee.isOrphaned else { return unmap(era) }
    follow(era, new)
    // Relaxed: as above. The end of the new daemon begins another outage.
    outage.isReplaced.store(false, ordering: .relaxed)
    outage.lastTry.value = .min / 2
  }

  /// The channel has other sizes now, whatever its length in all: this one is closed for good. What
  /// is lost in it is counted in this process, until it meets memory of the next daemon's.
  private func leave(_ era: UnsafeMutablePointer<Era>) {
    // Relaxed: read by the holder, and by threads that wait for it.
    outage.isReplaced.store(true, ordering: .relaxed)
    for cpu in 0..<slots.count where era.pointee.layout.present.contains(cpu) {
      if let lost = giveUp(era.buffer(cpu), era.pointee.store(cpu)) {
        // Relaxed: a statistic.
        outage.refused.wrappingAdd(lost, ordering: .relaxed)
      }
    }
  }

  /// Whether a geometry file is of a channel like this one; nil: it is no such file.
  private func isSameGeometry(_ file: CInt) -> Bool? {
    withUnsafeTemporaryAllocation(of: Geometry.Fixed.self, capacity: 1) { other in
      let bytes = UnsafeMutableRawBufferPointer(other)
      guard pread(file, bytes.baseAddress!, bytes.count, 0) == bytes.count else { return nil }
      return withUnsafeBytes(of: geometry) {
        memcmp(bytes.baseAddress!, $0.baseAddress!, $0.count) == 0
      }
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
    // Before `begin`: a writer that finds the new memory must ring the new daemon's bell.
    _ = clinux_guarded_replace(button, new.wake)
    _ = clinux_guarded_replace(connection, new.connection)
    begin(era)
    for cpu in 0..<slots.count where old.pointee.layout.present.contains(cpu) {
      let heir = era.heir(cpu)
      if let lost = giveUp(old.buffer(cpu), old.pointee.store(cpu)), lost > 0 {
        heir.count(heir.lostRestart, lost)
      }
    }
    countRefused(in: era.heir(0))
    endOutageHeld()
    // Late writers keep valid addresses there; the memory itself is freed.
    if let older = old.pointee.previous { release(older) }
  }

  /// The memory was left by all who know. Returns what is lost in it, for one to count: nil for all
  /// others.
  private func giveUp(_ buffer: ChannelBuffer, _ store: ReaderStore?) -> UInt64? {
    // Acquire-release: of all its producers, one counts.
    guard
      buffer.orphaned.pointee.compareExchange(
        expected: 0, desired: 1, ordering: .acquiringAndReleasing
      ).exchanged
    else {
      buffer.close(wakeFD: -1)
      return nil
    }
    // Nobody listens; writers of other processes are sent the same way.
    buffer.close(wakeFD: -1)
    return buffer.lostForGood(store)
  }
}

// Memory of eras but the first: one page for the era itself, then three mappings: the geometry with
// the readers' stores, the life page, the ring.
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
    let page = Lifeline.pageSize
    let total = slots.count * layout.stride
    let hasStores = isSealed(new.geometry, storesEnd, atLeast: true)
    let pageBytes = hasStores ? storesEnd : page
    guard hasStores || isSealed(new.geometry, page, atLeast: true),
      isSealed(new.life, page, atLeast: true), isSealed(new.ring, total, atLeast: false),
      let base = clinux_map(nil, UInt64(2 * page + pageBytes + total), -1, 1)
    else { return nil }
    let geometry = base + page
    let life = geometry + pageBytes
    let ring = life + page
    guard clinux_map(geometry, UInt64(pageBytes), new.geometry, 0) != nil,
      clinux_map(life, UInt64(page), new.life, 0) != nil,
      clinux_map(ring, UInt64(total), new.ring, 1) != nil
    else {
      munmap(base, 2 * page + pageBytes + total)
      return nil
    }
    let era = base.assumingMemoryBound(to: Era.self)
    era.initialize(
      to: Era(
        layout: layout.with(
          memory: ring, present: PresentCPUs(page: geometry, slotCount: slots.count)),
        page: geometry, pageBytes: pageBytes, life: UnsafeRawPointer(life), owner: owner,
        previous: old))
    return era
  }

  /// Where the stores of all slots end in the geometry file, in whole pages.
  private var storesEnd: Int {
    let end = Geometry.storesOffset + slots.count * ReaderStore.bytes
    return (end + Lifeline.pageSize - 1) / Lifeline.pageSize * Lifeline.pageSize
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
    let mapped = 2 * Lifeline.pageSize + era.pointee.pageBytes
    munmap(era, mapped + slots.count * era.pointee.layout.stride)
  }

  /// Replaces the mappings by anonymous memory: the addresses stay valid for late writers, whose
  /// data is dropped.
  private func release(_ era: UnsafeMutablePointer<Era>) {
    let layout = era.pointee.layout
    let page = UInt64(Lifeline.pageSize)
    _ = clinux_map(layout.memory, UInt64(slots.count * layout.stride), -1, 1)
    _ = clinux_map(era.pointee.page, UInt64(era.pointee.pageBytes), -1, 1)
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
