// SPDX-License-Identifier: Apache-2.0
// One channel buffer: where its words are. Loads and stores only; what they mean together is in
// Writer, Switch, Reader and Recovery.

internal import CRelayABI
public import Synchronization

/// One channel buffer of a `Channel`, which owns the memory and must outlive this view.
// Sendable: a view of shared memory whose every word is accessed atomically.
@frozen
public struct ChannelBuffer: @unchecked Sendable {
  @usableFromInline let base: UnsafeMutableRawPointer
  // A pointer: two words travel in registers, the whole layout would go over the stack.
  @usableFromInline let layoutPointer: UnsafePointer<Layout>

  @inlinable
  init(base: UnsafeMutableRawPointer, layout: UnsafePointer<Layout>) {
    self.base = base
    layoutPointer = layout
  }

  /// The CPU whose slot this is; 0 for a global channel.
  public var cpu: Int { (base - layout.memory) / layout.stride }

  @inlinable @inline(__always) var layout: Layout { layoutPointer.pointee }

  /// The geometry as plain numbers in private memory: what every address is computed from.
  // Sendable: an address, never changed.
  @frozen @usableFromInline
  struct Layout: @unchecked Sendable {
    @usableFromInline let subbufSize: Int
    @usableFromInline let subbufCount: Int
    @usableFromInline let entryCount: Int
    @usableFromInline let indexOffset: Int
    /// Below this many records the next one may be tried where the hint says; 0 for a channel with
    /// times, so that without them they cost nothing there.
    @usableFromInline let fastLimit: Int
    @usableFromInline let payloadOffset: Int
    @usableFromInline let overwrites: Bool
    /// From an index word to its record's time, in words.
    @usableFromInline let timeDistance: Int
    @usableFromInline let clock: RecordClock?
    /// Where the first slot's buffer is, and how far apart they are.
    @usableFromInline private(set) var memory: UnsafeMutableRawPointer
    @usableFromInline let stride: Int
    @usableFromInline private(set) var present: PresentCPUs
    /// How many sub-buffers one process may hold by open records; nil: as many as there are.
    let heldLimit: Int?

    init(
      _ geometry: Geometry, memory: UnsafeMutableRawPointer, present: PresentCPUs, isShared: Bool
    ) {
      subbufSize = geometry.subbufSize
      subbufCount = geometry.subbufCount
      entryCount = geometry.entryCount
      indexOffset = geometry.indexOffset
      fastLimit = geometry.hasTimestamps ? 0 : geometry.entryCount - 1
      payloadOffset = geometry.payloadOffset
      overwrites = geometry.mode == .overwrite
      timeDistance = (geometry.timeOffset - geometry.indexOffset) / 8
      clock = geometry.clock
      self.memory = memory
      stride = geometry.stride
      self.present = present
      heldLimit = isShared ? ChannelBuffer.heldLimit(geometry.subbufCount) : nil
    }

    /// The same elsewhere.
    func with(memory: UnsafeMutableRawPointer, present: PresentCPUs) -> Layout {
      var layout = self
      layout.memory = memory
      layout.present = present
      return layout
    }
  }
}

/// A 64-bit atomic word at an address in shared memory.
@usableFromInline typealias SharedWord = UnsafePointer<Atomic<UInt64>>

extension ChannelBuffer {
  @inlinable @inline(__always)
  func word(_ offset: Int) -> SharedWord {
    SharedWord((base + offset).assumingMemoryBound(to: Atomic<UInt64>.self))
  }

  @inlinable static var cancelledOffset: Int { 152 }

  // relay_abi.h asserts these offsets.
  @inlinable var currentWord: SharedWord { word(0) }
  @inlinable var waiters: SharedWord { word(8) }
  @inlinable var hint: SharedWord { word(16) }
  @inlinable var switchWaiters: SharedWord { word(24) }
  @inlinable var ownButtonWord: SharedWord { word(32) }
  @inlinable var spaceWaiters: SharedWord { word(64) }
  @inlinable var lostFull: SharedWord { word(128) }
  @inlinable var lostTooBig: SharedWord { word(136) }
  @inlinable var aborted: SharedWord { word(144) }
  @inlinable var cancelled: SharedWord { word(ChannelBuffer.cancelledOffset) }
  @inlinable var corrupt: SharedWord { word(160) }
  var lostRestart: SharedWord { word(168) }
  var orphaned: SharedWord { word(176) }

  // Callers keep `subbuf` below subbufCount and `entry` below entryCount.
  @inlinable func descriptor(_ subbuf: Int) -> Int { 256 + subbuf &* 64 }
  @inlinable func stateWord(_ subbuf: Int) -> SharedWord { word(descriptor(subbuf)) }
  @inlinable func recordBase(_ subbuf: Int) -> SharedWord { word(descriptor(subbuf) &+ 8) }
  @inlinable func byteBase(_ subbuf: Int) -> SharedWord { word(descriptor(subbuf) &+ 16) }
  @inlinable func lostBase(_ subbuf: Int) -> SharedWord { word(descriptor(subbuf) &+ 24) }
  @inlinable func index(_ subbuf: Int) -> SharedWord {
    word(layout.indexOffset &+ subbuf &* layout.entryCount &* 8)
  }
  @inlinable package func payload(_ subbuf: Int) -> UnsafeMutableRawPointer {
    base + (layout.payloadOffset &+ subbuf &* layout.subbufSize)
  }
}

extension ChannelBuffer {
  /// Acquire: pairs with the switch's CAS of `current`, so the sub-buffer it names is set up.
  @inlinable
  func loadCurrent() -> Current { Current(raw: currentWord.pointee.load(ordering: .acquiring)) }

  /// Acquire: pairs with the releasing CASes of the state (claim, open, fill, pin, unpin, free).
  @inlinable
  func loadState(_ subbuf: Int) -> SubbufState {
    SubbufState(raw: stateWord(subbuf).pointee.load(ordering: .acquiring))
  }

  /// Acquire-release: as claimer it needs what unpin and FREE released; as opener, filler and
  /// freer it publishes what was stored before.
  @inlinable
  func exchangeState(_ subbuf: Int, _ expected: SubbufState, _ desired: SubbufState) -> Bool {
    stateWord(subbuf).pointee.compareExchange(
      expected: expected.raw, desired: desired.raw, ordering: .acquiringAndReleasing
    ).exchanged
  }

  /// Acquire: pairs with the releasing reserve, commit, cancel, discard, SEAL and wrap clearing.
  @inlinable
  func loadEntry(_ index: SharedWord, _ i: Int) -> Entry {
    Entry(raw: index[i].load(ordering: .acquiring))
  }

  /// Adds to a counter that stands alone.
  @usableFromInline
  func count(_ word: SharedWord, _ n: UInt64 = 1) {
    // Relaxed: a statistic; nothing is published through it.
    word.pointee.wrappingAdd(n, ordering: .relaxed)
  }

  /// CLAIMED → OPEN once `current` names the sub-buffer: its claimer may have stopped before.
  @usableFromInline
  func openIfClaimed(_ current: Current) {
    let state = loadState(current.subbuf)
    guard state.phase == .claimed, state.seq == current.seq else { return }
    // Losing means that somebody else opened it.
    _ = exchangeState(current.subbuf, state, SubbufState(.open, seq: state.seq))
  }
}
