// SPDX-License-Identifier: Apache-2.0
// A producer's tie to its daemon, of which there may be several, one after the other: whether the
// memory is served, and what leads to the next one's. The way there is in Rejoin.swift.

internal import CLinux
internal import CRelayABI
internal import Glibc
internal import LinuxIO
internal import Synchronization

/// One memory of a channel, with what comes with it. At a fixed address, as long as the channel:
/// views of its buffers point to the layout.
struct Era {
  let layout: ChannelBuffer.Layout
  /// The geometry page.
  let page: UnsafeMutableRawPointer
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

  /// Nobody serves this memory, but not because it was closed.
  var isOrphaned: Bool { !isServed && !LiveWords(page: page).isEnded }
}

/// What an attached channel keeps to follow its daemon's successors. No call of it allocates, waits
/// for a lock, or otherwise does what a signal handler must not. At a fixed address.
// Sendable: what changes is atomic, or changed by `holder` alone.
struct Lifeline: ~Copyable, @unchecked Sendable {
  /// A pointer to an `Era`.
  private let currentEra: Atomic<UInt>
  let slots: Writer.Slots
  let question: UnsafeMutablePointer<clinux_question>
  let replyHeader: UInt64
  let geometry: Geometry.Fixed
  /// Numbers that stay the same, whatever is behind them.
  let files: Channel.Numbers
  let connection: CInt
  /// The thread that looks for the next memory; 0: none does.
  let holder = Atomic<UInt32>(0)
  /// When that was tried last, by the monotonic clock, in milliseconds.
  let lastTry = Atomic<Int>(-Urgency.none.rawValue)
  /// The last try met a daemon, and was refused.
  let wasRefused = Atomic<Bool>(false)

  init(
    _ first: UnsafeMutablePointer<Era>, slots: Writer.Slots, way: WayBack,
    geometry: Geometry.Fixed, files: Channel.Numbers
  ) {
    currentEra = Atomic(UInt(bitPattern: first))
    self.slots = slots
    self.geometry = geometry
    self.files = files
    connection = way.connection.raw
    question = .allocate(capacity: 1)
    question.initialize(to: clinux_question())
    withUnsafeMutableBytes(of: &question.pointee.path) {
      $0.dropLast().copyBytes(from: way.path.utf8.prefix($0.count - 1))
    }
    withUnsafeMutableBytes(of: &question.pointee.request) { $0.copyBytes(from: way.request) }
    question.pointee.requestCount = way.request.count
    question.pointee.replyMilliseconds = Lifeline.replyMilliseconds
    question.pointee.laterMilliseconds = 10_000
    var header: UInt64 = 0
    withUnsafeMutableBytes(of: &header) { $0.copyBytes(from: way.replyHeader) }
    replyHeader = header
  }

  deinit { question.deallocate() }

  static var replyMilliseconds: UInt32 { 100 }

  /// Acquire: pairs with `begin`, so whoever sees an era sees it whole.
  var era: UnsafeMutablePointer<Era> {
    UnsafeMutablePointer(bitPattern: currentEra.load(ordering: .acquiring)).unsafelyUnwrapped
  }

  /// From now on writers find this one.
  func begin(_ era: UnsafeMutablePointer<Era>) {
    currentEra.store(UInt(bitPattern: era), ordering: .releasing)
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
  private let raw: Int

  package init(descriptor: CInt) { raw = Int(descriptor) << 1 }

  @usableFromInline
  package init(integerLiteral value: Int32) { self.init(descriptor: value) }

  init(_ lifeline: UnsafeMutablePointer<Lifeline>) {
    raw = Int(bitPattern: lifeline) | 1
  }

  var lifeline: UnsafeMutablePointer<Lifeline>? {
    raw & 1 == 0 ? nil : UnsafeMutablePointer(bitPattern: raw & ~1)
  }

  var descriptor: CInt {
    if let lifeline { return lifeline.pointee.files.wake }
    return CInt(truncatingIfNeeded: raw >> 1)
  }
}
