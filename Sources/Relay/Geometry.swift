// SPDX-License-Identifier: Apache-2.0
// What a channel is: its sizes, mode and CPUs, their limits, and where each part of a buffer lies.

internal import CRelayABI
internal import Glibc
public import LinuxIO

/// What a full channel does with a new record.
public enum ChannelMode: String, Sendable, CaseIterable {
  /// Refuse it and count it (relay's no-overwrite mode).
  case discard
  /// Overwrite the oldest sub-buffer and count what was in it (flight recorder).
  case overwrite
}

/// Why a geometry cannot be: the limit it breaks, with the numbers.
public struct GeometryError: Error, Equatable, CustomStringConvertible {
  public let description: String
}

/// The sizes and mode of a channel. A value of this type has been checked against every limit.
public struct Geometry: Equatable, Sendable {
  /// Payload bytes per sub-buffer.
  public let subbufSize: Int
  /// Sub-buffers per channel buffer.
  public let subbufCount: Int
  /// Index words per sub-buffer; one less than this is the most records it holds.
  public let entryCount: Int
  public let mode: ChannelMode
  /// One buffer for all CPUs instead of one each.
  public let isGlobal: Bool
  /// What the records' times are taken from; nil where they carry none.
  package let clock: RecordClock?
  /// Each record carries the time at which it was reserved.
  public var hasTimestamps: Bool { clock != nil }
  /// The CPUs that had a buffer of their own when the channel was opened, or when this process
  /// attached, ascending; [0] for a global channel. `Channel.cpus` are those that have one now.
  public let initialCPUs: [Int]
  /// Buffers laid out: highest possible CPU + 1, or 1. Untouched ones cost nothing.
  public let slotCount: Int

  public static let maximumSubbufSize = 32 << 20
  public static let maximumSubbufCount = 65536
  package static let maximumCPU = Int(RELAY_ABI_CPU_WORDS) * 64 - 1
  static let pageSize = 4096

  /// - Parameters:
  ///   - online: CPUs that get a buffer at once; ignored for a global channel.
  ///   - possible: CPUs that memory is laid out for.
  ///   - memory: bytes this machine has; nil skips that check.
  /// - Throws: `GeometryError` that names the limit.
  public init(
    subbufSize: Int, subbufCount: Int, mode: ChannelMode = .discard, isGlobal: Bool = false,
    hasTimestamps: Bool = false, online: CPUSet, possible: CPUSet,
    memory: Int? = Geometry.physicalMemory
  ) throws(GeometryError) {
    try self.init(
      subbufSize: subbufSize, subbufCount: subbufCount, entryCount: nil, mode: mode,
      isGlobal: isGlobal, clock: hasTimestamps ? .best : nil, cpus: isGlobal ? [0] : online.cpus,
      slotCount: isGlobal ? 1 : (possible.highest ?? 0) + 1)
    guard let memory, worstCaseBytes > memory else { return }
    throw GeometryError(
      description: """
        \(initialCPUs.count) × \(subbufCount) sub-buffers of \(subbufSize) bytes can take \
        \(worstCaseBytes) bytes with their index, and this machine has \(memory)
        """)
  }

  package init(
    subbufSize: Int, subbufCount: Int, entryCount: Int?, mode: ChannelMode = .discard,
    isGlobal: Bool = false, clock: RecordClock? = nil, cpus: [Int] = [0], slotCount: Int = 1
  ) throws(GeometryError) {
    func refuse(_ reason: String) -> GeometryError { GeometryError(description: reason) }
    guard subbufSize > 0 else {
      throw refuse("a sub-buffer of \(subbufSize) bytes cannot hold a record; use 1 or more")
    }
    guard subbufSize <= Geometry.maximumSubbufSize else {
      throw refuse(
        "sub-buffer size \(subbufSize) is over the limit of \(Geometry.maximumSubbufSize) bytes")
    }
    guard subbufCount > 0 else {
      throw refuse("\(subbufCount) sub-buffers cannot hold anything; use 2 or more")
    }
    guard subbufCount > 1 else {
      throw refuse(
        "one sub-buffer is not enough: a writer could never leave it while it is being read; "
          + "use 2 or more")
    }
    guard subbufCount <= Geometry.maximumSubbufCount else {
      throw refuse(
        "\(subbufCount) sub-buffers are over the limit of \(Geometry.maximumSubbufCount)")
    }
    guard let highest = cpus.last, cpus.first! >= 0, highest < slotCount,
      slotCount <= Geometry.maximumCPU + 1
    else { throw refuse("CPU numbers go from 0 to \(Geometry.maximumCPU)") }
    // Room for records of 8 bytes on average; of any size where that costs no more than a page.
    let entryCount = entryCount ?? max(subbufSize / 8, min(subbufSize, 510)) + 2
    precondition(entryCount >= 2 && entryCount <= 1 << 24)
    self.subbufSize = subbufSize
    self.subbufCount = subbufCount
    self.entryCount = entryCount
    self.mode = mode
    self.isGlobal = isGlobal
    self.clock = clock
    initialCPUs = cpus
    self.slotCount = slotCount
  }

  /// Bytes of memory this machine has.
  public static var physicalMemory: Int {
    sysconf(CInt(_SC_PHYS_PAGES)) * sysconf(CInt(_SC_PAGESIZE))
  }

  /// The most memory that one CPU's buffer can touch: payload, a full index, and the headers.
  public var bufferBytes: Int { stride }
  /// Payload bytes of the buffers there are at the start.
  public var payloadBytes: Int { initialCPUs.count * subbufCount * subbufSize }
  /// The most memory those can touch.
  public var worstCaseBytes: Int { initialCPUs.count * bufferBytes }

  // Where the parts of one buffer lie, in bytes from its base.
  var indexOffset: Int {
    roundUp(
      MemoryLayout<relay_abi_header>.size
        + subbufCount * MemoryLayout<relay_abi_descriptor>.size)
  }
  var timeOffset: Int { roundUp(indexOffset + subbufCount * entryCount * 8) }
  var payloadOffset: Int {
    roundUp(timeOffset + (hasTimestamps ? subbufCount * entryCount * 8 : 0))
  }
  /// Bytes from one buffer to the next.
  var stride: Int { roundUp(payloadOffset + subbufCount * subbufSize) }
  /// Bytes of the ring file: all limits together keep them below 2^57.
  var totalBytes: Int { stride * slotCount }

  private func roundUp(_ bytes: Int) -> Int {
    (bytes + Geometry.pageSize - 1) / Geometry.pageSize * Geometry.pageSize
  }
}

// The geometry page: written by the side that opens the channel, read by every producer.
extension Geometry {
  static let fileBytes = pageSize

  // Behind that page, for the opener alone: what it wants to find again, then the readers' stores,
  // then two areas for the rests of each.
  static let notesOffset = pageSize
  static let notesBytes = pageSize
  static let storesOffset = notesOffset + notesBytes
  /// No store of any slot lies beyond.
  static let storesLimit = storesOffset + Int(RELAY_ABI_CPU_WORDS) * 64 * ReaderStore.bytes
  var areasOffset: Int { roundUp(Geometry.storesOffset + slotCount * ReaderStore.bytes) }
  var areaBytes: Int { roundUp(subbufSize) }
  /// Bytes of the opener's file, most of them never touched.
  var openerFileBytes: Int { areasOffset + slotCount * 2 * areaBytes }

  /// Bytes of addresses that a channel in memory files takes in its opener.
  public var mappedBytes: Int { totalBytes + openerFileBytes }

  /// What of the page never changes.
  typealias Fixed = relay_abi_geometry

  /// - Precondition: `page` is all zero.
  func store(to page: UnsafeMutableRawPointer) {
    var words = relay_abi_geometry()
    words.magic = RELAY_ABI_MAGIC
    words.version = RELAY_ABI_VERSION
    words.flags =
      (mode == .overwrite ? RELAY_ABI_OVERWRITE : 0) | (isGlobal ? RELAY_ABI_GLOBAL : 0)
      | (clock?.flags ?? 0)
    words.subbuf_size = UInt32(subbufSize)
    words.n_subbufs = UInt32(subbufCount)
    words.n_entries = UInt32(entryCount)
    words.n_slots = UInt32(slotCount)
    page.copyMemory(from: &words, byteCount: MemoryLayout<relay_abi_geometry>.size)
    let present = PresentCPUs(page: page, slotCount: slotCount)
    for cpu in initialCPUs { present.insert(cpu) }
    LiveWords(page: page).setIncarnation(UInt64.random(in: 1...UInt64.max))
    if let clock { LiveWords(page: page).setClockBase(ClockSample(of: clock)) }
  }

  /// Reads what another process stored, and trusts none of it.
  init(copyingUntrusted page: UnsafeRawPointer) throws(GeometryError) {
    let words = page.loadUnaligned(as: relay_abi_geometry.self)
    guard words.magic == RELAY_ABI_MAGIC else {
      throw GeometryError(description: "not the geometry of a relay channel")
    }
    guard words.version == RELAY_ABI_VERSION else {
      throw GeometryError(
        description: """
          shared-memory layout version \(words.version); this program knows \(RELAY_ABI_VERSION)
          """)
    }
    let isGlobal = words.flags & RELAY_ABI_GLOBAL != 0
    let clockFlags = words.flags & (RELAY_ABI_TIMESTAMPS | RELAY_ABI_TSC)
    let clock = RecordClock.allCases.first { $0.flags == clockFlags }
    let known = RELAY_ABI_OVERWRITE | RELAY_ABI_GLOBAL | (clock?.flags ?? 0)
    guard words.flags & ~known == 0, words.n_entries >= 2, words.n_entries <= 1 << 24,
      !isGlobal || words.n_slots == 1, words.n_slots <= RELAY_ABI_CPU_WORDS * 64
    else { throw GeometryError(description: "a damaged geometry") }
    let cpus = PresentCPUs(page: page, slotCount: Int(words.n_slots)).all
    guard !cpus.isEmpty else {
      throw GeometryError(description: "a damaged geometry: no CPU has a buffer")
    }
    try self.init(
      subbufSize: Int(words.subbuf_size), subbufCount: Int(words.n_subbufs),
      entryCount: Int(words.n_entries),
      mode: words.flags & RELAY_ABI_OVERWRITE != 0 ? .overwrite : .discard,
      isGlobal: isGlobal, clock: clock, cpus: cpus, slotCount: Int(words.n_slots))
  }
}
