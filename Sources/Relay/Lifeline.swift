// SPDX-License-Identifier: Apache-2.0
// A producer's tie to its daemon, of which there may be several, one after the other: whether the
// memory is served, and what leads to the next one's. The way there is in Rejoin.swift; what
// happens as long as there is none, in Outage.swift.

package import CLinux
internal import CRelayABI
internal import Glibc
internal import LinuxIO
internal import Synchronization

/// One memory of a channel, with what comes with it. At a fixed address, as long as the channel:
/// views of its buffers point to the layout.
struct Era {
  let layout: ChannelBuffer.Layout
  /// The geometry page; behind it what else of its file is mapped.
  let page: UnsafeMutableRawPointer
  let pageBytes: Int
  /// nil: the memory is this process's, or nobody says whether its daemon lives.
  let life: UnsafeRawPointer?
  let owner: UInt16
  /// The one before.
  let previous: UnsafeMutablePointer<Era>?
}

extension Era {
  /// Whether a daemon serves this memory.
  var isServed: Bool {
    guard let life else { return true }
    // In this order: while the life lasts, the generation is the living daemon's.
    guard clinux_life_lasts(life) != 0 else { return false }
    return LifeView.generation(of: life) == LiveWords(page: page).generation
  }

  /// Where the reader of a slot has stored its position; nil: that is not known, and it has read
  /// nothing.
  func store(_ slot: Int) -> ReaderStore? {
    let offset = Geometry.storesOffset + slot * ReaderStore.bytes
    guard offset + ReaderStore.bytes <= pageBytes else { return nil }
    return ReaderStore(page + offset, areas: page + offset, areaBytes: 0)
  }

  /// Nobody serves this memory, but not because it was closed.
  var isOrphaned: Bool { !isServed && !LiveWords(page: page).isEnded }
}

/// What an attached channel keeps to follow its daemon's successors. No call of it allocates, waits
/// for a lock, or otherwise does what a signal handler must not. At a fixed address.
// Sendable: what changes is atomic, or changed by `outage.holder` alone.
struct Lifeline: ~Copyable, @unchecked Sendable {
  /// A pointer to an `Era`.
  private let currentEra: Atomic<UInt>
  let slots: Writer.Slots
  let question: UnsafeMutablePointer<clinux_question>
  let replyHeader: UInt64
  let geometry: Geometry.Fixed
  /// The bell of the daemon that serves the current era, and the connection to it.
  let button: UnsafeMutablePointer<clinux_guarded>
  let connection: UnsafeMutablePointer<clinux_guarded>
  let outage = Outage()
  /// How fast each slot's buffer is.
  let paces: UnsafeMutablePointer<ChannelBuffer.Pace>
  /// A page of zeroes, for writers that are to find no place anywhere.
  let noBuffer: UnsafeMutableRawPointer

  init(
    _ first: UnsafeMutablePointer<Era>, slots: Writer.Slots, way: WayBack,
    geometry: Geometry.Fixed, button: GuardedDescriptor
  ) {
    currentEra = Atomic(UInt(bitPattern: first))
    self.slots = slots
    self.geometry = geometry
    self.button = button.words
    connection = way.connection.words
    paces = .allocate(capacity: slots.count)
    for slot in 0..<slots.count { (paces + slot).initialize(to: ChannelBuffer.Pace()) }
    noBuffer = .allocate(byteCount: 4096, alignment: 4096)
    memset(noBuffer, 0, 4096)
    question = .allocate(capacity: 1)
    question.initialize(to: clinux_question())
    question.pointee.path = UnsafePointer(strdup(way.path))
    withUnsafeMutableBytes(of: &question.pointee.request) { $0.copyBytes(from: way.request) }
    question.pointee.requestCount = way.request.count
    question.pointee.replyMilliseconds = Lifeline.replyMilliseconds
    question.pointee.laterMilliseconds = 10_000
    var header: UInt64 = 0
    withUnsafeMutableBytes(of: &header) { $0.copyBytes(from: way.replyHeader) }
    replyHeader = header
  }

  deinit {
    free(UnsafeMutablePointer(mutating: question.pointee.path))
    question.deallocate()
    paces.deallocate()
    noBuffer.deallocate()
  }

  static var replyMilliseconds: UInt32 { 100 }

  /// Acquire: pairs with `begin`, so whoever sees an era sees it whole.
  var era: UnsafeMutablePointer<Era> {
    UnsafeMutablePointer(bitPattern: currentEra.load(ordering: .acquiring)).unsafelyUnwrapped
  }

  /// From now on writers find this one.
  func begin(_ era: UnsafeMutablePointer<Era>) {
    currentEra.store(UInt(bitPattern: era), ordering: .releasing)
    direct(to: era)
  }

  /// Sends the fast path into its memory. By the holder alone: base and owner belong together.
  func direct(to era: UnsafeMutablePointer<Era>) {
    let layout = era.pointee.layout
    for cpu in 0..<slots.count {
      let base = layout.memory + cpu * layout.stride
      // Relaxed: the store of the base publishes it. In this order: who sees the new base writes
      // in the new name.
      slots.first[cpu].owner.store(UInt64(era.pointee.owner), ordering: .relaxed)
      slots.first[cpu].base.store(UInt(bitPattern: base), ordering: .releasing)
    }
  }
}

/// Whom a writer wakes, in one word, since every reservation carries it: a doorbell's button, one
/// of `Wake`'s special numbers, or the daemon at the end of a lifeline.
@frozen @usableFromInline
package struct WakeTarget: ExpressibleByIntegerLiteral, Equatable, Sendable {
  // Odd: a lifeline. Positive and even: a guarded descriptor. Negative and even: a number.
  private let raw: Int

  /// - Parameter descriptor: from -2 on.
  package init(descriptor: CInt) { raw = ~(Int(descriptor) + 2) << 1 }

  @usableFromInline
  package init(integerLiteral value: Int32) { self.init(descriptor: value) }

  init(_ lifeline: UnsafeMutablePointer<Lifeline>) {
    raw = Int(bitPattern: lifeline) | 1
  }

  init(_ button: UnsafeMutablePointer<clinux_guarded>) { raw = Int(bitPattern: button) }

  var lifeline: UnsafeMutablePointer<Lifeline>? {
    raw & 1 == 0 ? nil : UnsafeMutablePointer(bitPattern: raw & ~1)
  }

  private var guarded: UnsafeMutablePointer<clinux_guarded>? {
    if let lifeline { return lifeline.pointee.button }
    return raw > 0 ? UnsafeMutablePointer(bitPattern: raw) : nil
  }

  private var number: CInt { CInt(truncatingIfNeeded: ~(raw >> 1) - 2) }

  var isEachBuffer: Bool { raw & 1 == 0 && raw < 0 && number == Wake.eachBuffer }

  /// Rings the bell, if it is one.
  func ring() {
    if let guarded { return clinux_guarded_ring(guarded) }
    if number >= 0 { Doorbell.ring(number) }
  }
}

extension Channel {
  /// Of an attached channel with a connection: that, and the daemon's bell, at fixed addresses as
  /// long as the channel.
  package func withGuardedDescriptors<R>(
    _ body: (UnsafeMutablePointer<clinux_guarded>, UnsafeMutablePointer<clinux_guarded>) -> R
  ) -> R? {
    guard let connection, let button else { return nil }
    return body(connection.words, button.words)
  }

  /// All memory of the ring that is written into now.
  package var ringBytes: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(
      start: era.pointee.layout.memory, count: geometry.stride * geometry.slotCount)
  }

  /// Closes what a forked child has of its parent's attachment.
  package func closeGuardedDescriptors() {
    connection?.close()
    button?.close()
  }
}
