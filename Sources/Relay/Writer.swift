// SPDX-License-Identifier: Apache-2.0
// The write path: reserve, commit, cancel. One compare-and-swap reserves the space and publishes
// its owner and extent; one plain store commits. Leaving a full sub-buffer is in Switch.swift.

public import CRelayABI
public import Synchronization

/// What became of a record. Everything but `.written` is counted as a loss by its cause.
@frozen
public enum WriteResult: Sendable, Equatable {
  case written
  /// No free sub-buffer (discard mode), or none that may be overwritten.
  case full
  /// Longer than a sub-buffer: can never be written.
  case tooBig
  /// The channel is closed for everyone.
  case closed
  /// Another process of this channel damaged the shared memory.
  case corrupt
  /// No relayd serves the channel any more, and none has been found for ten seconds that would; or
  /// the one that is there refuses this process. Writing goes on by itself once one takes records.
  case unserved
  /// This process keeps all sub-buffers but two from the others, by records it has not ended.
  case holding
}

/// Writes records into the buffer of the CPU it runs on, or of the lowest one that has a buffer if
/// that one has none yet. Immutable: any number of threads may
/// write through one, and none ever waits for another.
///
/// A record costs one locked instruction, no system call and no allocation.
@frozen
public struct Writer: ~Copyable, Sendable {
  /// Keeps the memory mapped.
  public let channel: Channel
  /// For its numbers only: where the memory is, the slots say.
  // Sendable: written once, before the first writer exists; owned by the channel.
  @usableFromInline nonisolated(unsafe) let layout: UnsafePointer<ChannelBuffer.Layout>
  @usableFromInline let slots: Slots
  @usableFromInline let rseqOffset: Int
  @usableFromInline let wakeTarget: WakeTarget

  init(
    channel: Channel, layout: UnsafePointer<ChannelBuffer.Layout>, slots: Slots,
    wakeTarget: WakeTarget
  ) {
    self.channel = channel
    self.layout = layout
    self.slots = slots
    rseqOffset = relay_rseq_offset()
    self.wakeTarget = wakeTarget
  }

  /// Where each CPU's slot is, in memory the channel owns: a load is faster than a product.
  // Sendable: what it leads to is atomic.
  @frozen @usableFromInline
  struct Slots: @unchecked Sendable {
    @usableFromInline let first: UnsafeMutablePointer<Slot>
    @usableFromInline let count: Int
  }

  /// A CPU's slot in the memory that is written into now, and in which name. On one line, so that
  /// the second costs nothing.
  @frozen @usableFromInline
  struct Slot: ~Copyable {
    /// Acquire: pairs with `Lifeline.begin`; who sees a base sees its owner.
    @usableFromInline let base: Atomic<UInt>
    @usableFromInline let owner: Atomic<UInt64>

    init(base: UnsafeMutableRawPointer, owner: UInt16) {
      self.base = Atomic(UInt(bitPattern: base))
      self.owner = Atomic(UInt64(owner))
    }
  }
}

extension Writer {
  /// Copies one record. Zero bytes are a legal record. A refusal is counted.
  @inlinable @inline(__always)
  public func write(_ record: UnsafeRawBufferPointer) -> WriteResult {
    let result = put(record)
    if result != .written { channel.countRefusal(result) }
    return result
  }

  @inlinable @inline(__always)
  func put(_ record: UnsafeRawBufferPointer) -> WriteResult {
    switch reserve(record.count, NoTestPoints.self) {
    case .stopped(let stop): return stop.result
    case .reserved(let reservation):
      if let source = record.baseAddress {
        relay_copy(reservation.bytes.baseAddress.unsafelyUnwrapped, source, record.count)
      }
      reservation.commit()
      return .written
    }
  }

  /// The same for the bytes of a span, such as `array.span.bytes`.
  @discardableResult
  public func write(_ record: RawSpan) -> WriteResult {
    record.withUnsafeBytes { write($0) }
  }

  /// The same for a text, in UTF-8 and without an end mark.
  @discardableResult
  public func write(_ record: String) -> WriteResult { write(record.utf8.span.bytes) }

  /// Reserves `length` bytes for one record in this CPU's buffer. A refusal is counted.
  @inlinable
  public func reserve(_ length: Int) -> ReserveResult {
    precondition(length >= 0)
    switch reserve(length, NoTestPoints.self) {
    case .reserved(let reservation): return .reserved(reservation)
    case .stopped(let stop):
      channel.countRefusal(stop.result)
      return .refused(stop.result)
    }
  }

  @inlinable @inline(__always)
  package func reserve<P: TestPoints>(
    _ length: Int, _ points: P.Type
  ) -> ChannelBuffer.Reserved {
    let cpu = Int(relay_cpu(rseqOffset))
    let slot = slots.first + (cpu < slots.count ? cpu : 0)
    let base = slot.pointee.base.load(ordering: .acquiring)
    let buffer = ChannelBuffer(
      base: UnsafeMutableRawPointer(bitPattern: base).unsafelyUnwrapped, layout: layout)
    // Relaxed: the load of the base acquired it.
    let owner = UInt16(truncatingIfNeeded: slot.pointee.owner.load(ordering: .relaxed))
    if let reserved = buffer.reserveAtHint(
      length, owner: owner, wakeFD: wakeTarget, points, NoStamps.self)
    {
      return reserved
    }
    if P.self == NoTestPoints.self {
      return channel.reserveOffPath(length, in: buffer, owner: owner)
    }
    return channel.reserveSlowly(length, points)
  }

  /// Like `write`, but sleeps while a discard channel is full, for at most `timeoutMilliseconds`
  /// in all; `.full` after that is not counted, so that the caller may try again.
  public func write(
    _ record: UnsafeRawBufferPointer, waitingMilliseconds timeoutMilliseconds: Int
  ) -> WriteResult {
    // A thousand years are without limit.
    let deadline = Clock.milliseconds() + min(timeoutMilliseconds, 1 << 45)
    while true {
      // Where it waits, and looked up anew each time round: a buffer may have been added.
      let buffer = channel.home
      let current = buffer.loadCurrent()
      let result = put(record)
      let left = deadline - Clock.milliseconds()
      guard result == .full, left > 0 else {
        if result != .written, result != .full { channel.countRefusal(result) }
        return result
      }
      Wake.waitForSpace(in: buffer, unless: current, milliseconds: left)
    }
  }

  /// Counts a record that the caller gave up after `.full` from a waiting write.
  public func countLostFull() { channel.countRefusal(.full) }
}

extension ChannelBuffer {
  /// Why a reservation stopped.
  @frozen @usableFromInline
  package enum Stop: Equatable {
    case full, tooBig, closed, corrupt, unserved, holding
    /// Before a switch: nobody serves the memory.
    case orphaned
    /// A test killed the writer at a test point.
    case killed

    @usableFromInline var result: WriteResult {
      switch self {
      case .full: .full
      case .tooBig: .tooBig
      case .closed: .closed
      case .unserved: .unserved
      case .holding: .holding
      case .corrupt, .orphaned, .killed: .corrupt
      }
    }
  }

  @frozen @usableFromInline
  package enum Reserved: ~Copyable {
    case reserved(Reservation)
    case stopped(Stop)
  }

  /// Where the next record would go, as seen at one moment.
  enum Frontier {
    case empty(Entry, at: Int, start: Int)
    case sealed(at: Int, end: Int)
    case corrupt
  }

  @inlinable @inline(__always)
  package func reserve<P: TestPoints>(
    _ length: Int, owner: UInt16, wakeFD: WakeTarget, _ points: P.Type
  ) -> Reserved {
    if let reserved = reserveAtHint(
      length, owner: owner, wakeFD: wakeFD, points, NoStamps.self)
    {
      return reserved
    }
    return reserveOffPath(length, owner: owner, wakeFD: wakeFD, points)
  }

  /// One try at the place the hint names; nil: whatever is unusual goes the long way.
  @inlinable @inline(__always)
  func reserveAtHint<P: TestPoints, S: Stamps>(
    _ length: Int, owner: UInt16, wakeFD: WakeTarget, _ points: P.Type, _ stamps: S.Type
  ) -> Reserved? {
    // Once: the compiler must load it again after every atomic access.
    let layout = layout
    let current = loadCurrent()
    guard P.reached(.loadedCurrent) else { return .stopped(.killed) }
    // Relaxed: the entry before it is what counts, and that is loaded with acquire.
    let hint = Hint(raw: self.hint.pointee.load(ordering: .relaxed))
    let i = hint.count
    let subbuf = current.subbuf
    // Not closed, and a sub-buffer that exists; more than zero records, so it was used. Now and
    // then the long way, which looks whether a daemon serves the memory.
    guard !current.isClosed, subbuf < layout.subbufCount, hint.isFor(current.seq),
      i & ChannelBuffer.lookMask != 0,
      i < (S.areTaken ? layout.entryCount &- 1 : layout.fastLimit),
      length <= layout.subbufSize &- hint.end
    else { return nil }
    let entry = word(layout.indexOffset &+ (subbuf &* layout.entryCount &+ i) &* 8)
    // The space starts where the hint says, so that no load stands between the hint and the
    // swap but the entry's own; that the record before ends there is checked beside it.
    let before = Entry(.committed, seq: current.seq, end: hint.end)
    guard loadEntry(entry, -1) == before else { return nil }
    let seen = loadEntry(entry, 0)
    guard seen.isSurelyEmpty(inLapOf: before) else { return nil }
    guard P.reached(.sawFrontier) else { return .stopped(.killed) }
    let place = Place(
      entry: entry, committed: before.extended(by: length), hint: hint.advanced(by: length))
    return take(place, length, current, seen, owner, wakeFD, points, stamps)
  }

  /// Records between two looks at the daemon's life, less one: a power of two, less one.
  @inlinable static var lookMask: Int { 511 }

  /// The general way: finds the frontier by walking, and switches where the record doesn't fit.
  /// Not inlined: the way of records with times leads by here.
  /// - Parameter era: looked at now and then, and before a switch; `.orphaned` if nobody serves it.
  @inline(never)
  func walkAndReserve<P: TestPoints, S: Stamps>(
    _ length: Int, owner: UInt16, wakeFD: WakeTarget, _ era: UnsafeMutablePointer<Era>?,
    _ points: P.Type, _ stamps: S.Type
  ) -> Reserved {
    guard length <= layout.subbufSize else { return .stopped(.tooBig) }
    var patience = Patience()
    while patience.lasts() {
      let current = loadCurrent()
      guard P.reached(.loadedCurrent) else { return .stopped(.killed) }
      // After `current`: a refused owner is named before the next sub-buffer becomes current.
      if isRefused(owner) { return .stopped(.holding) }
      let place = nextPlace(length, in: current)
      let isTimeToLook = ((place?.0.hint.count ?? 1) - 1) & ChannelBuffer.lookMask == 0
      if isTimeToLook, let era {
        if era.pointee.isOrphaned { return .stopped(.orphaned) }
        wakeFD.lifeline?.pointee.noteLook(by: self)
      }
      if let place {
        guard P.reached(.sawFrontier) else { return .stopped(.killed) }
        if let reserved = take(
          place.0, length, current, place.seen, owner, wakeFD, points, stamps)
        {
          return reserved
        }
      } else if let stop = switchSubbuf(
        from: current, owner: owner, wakeFD: wakeFD, &patience, points)
      {
        return .stopped(stop)
      }
    }
    return .stopped(.corrupt)
  }

  /// Where a record goes that fits into the current sub-buffer, and what stands there. nil: it
  /// doesn't fit, or that one takes no more.
  func nextPlace(_ length: Int, in current: Current) -> (Place, seen: Entry)? {
    guard current.seq != 0, !current.isClosed, current.subbuf < layout.subbufCount,
      case .empty(let seen, let i, let start) = frontier(current),
      i < layout.entryCount &- 1, start &+ length <= layout.subbufSize
    else { return nil }
    if i > 0 { noteIfOpen(current.subbuf, seq: current.seq, entry: i - 1) }
    let end = start + length
    let place = Place(
      entry: index(current.subbuf) + i, committed: Entry(.committed, seq: current.seq, end: end),
      hint: hint(current.seq, count: i + 1, end: end))
    return (place, seen)
  }

  /// Where one record goes, and the words that will say so.
  @frozen @usableFromInline
  struct Place {
    @usableFromInline let entry: SharedWord
    @usableFromInline let committed: Entry
    @usableFromInline let hint: Hint

    @inlinable
    init(entry: SharedWord, committed: Entry, hint: Hint) {
      self.entry = entry
      self.committed = committed
      self.hint = hint
    }
  }

  /// Takes the frontier entry as it was seen: the one swap that reserves. nil: lost the race.
  @inlinable @inline(__always)
  func take<P: TestPoints, S: Stamps>(
    _ place: Place, _ length: Int, _ current: Current, _ seen: Entry, _ owner: UInt16,
    _ wakeFD: WakeTarget, _ points: P.Type, _ stamps: S.Type
  ) -> Reserved? {
    // After the frontier was seen, and anew for each try: who sees our entry takes a later time.
    let time = S.now()
    // Relaxed: ordered after the frontier entry by that load's acquire. If `current` moved, the
    // EMPTY seen may belong to another lap.
    guard currentWord.pointee.load(ordering: .relaxed) == current.raw else { return nil }
    guard P.reached(.rereadCurrent) else { return .stopped(.killed) }
    // Acquire-release: pairs with every frontier load, and with the claim scan.
    guard
      place.entry.pointee.compareExchange(
        expected: seen.raw, desired: Entry(busy: owner, end: place.committed.end).raw,
        ordering: .acquiringAndReleasing
      ).exchanged
    else { return nil }
    guard P.reached(.reserved) else { return .stopped(.killed) }
    if S.areTaken {
      // Relaxed: the commit publishes it.
      (place.entry + layout.timeDistance).pointee.store(time, ordering: .relaxed)
    }
    // Relaxed: the hint is validated by who uses it. Before the commit: until then our BUSY
    // keeps this sub-buffer from being recycled.
    hint.pointee.store(place.hint.raw, ordering: .relaxed)
    guard P.reached(.hinted) else { return .stopped(.killed) }
    // Computed only now: before the swap, every value kept in a register costs time.
    let payload = payload(current.subbuf) + (place.committed.end &- length)
    return .reserved(
      Reservation(
        bytes: UnsafeMutableRawBufferPointer(start: payload, count: length),
        entry: place.entry, committed: place.committed, base: base, wakeFD: wakeFD))
  }

  /// Counts a refused record by its cause, where it would have gone. After close there is nothing
  /// to lose.
  func countRefusal(_ result: WriteResult) {
    let home = home
    switch result {
    case .full, .holding: home.count(home.lostFull)
    case .tooBig: home.count(home.lostTooBig)
    case .corrupt: home.count(home.corrupt)
    // The first is counted elsewhere.
    case .unserved, .closed, .written: break
    }
  }
}
