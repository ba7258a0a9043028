// SPDX-License-Identifier: Apache-2.0
// The reading side of one channel buffer: claim committed bytes where they lie, then consume them
// or give them back. The walk over the entries is in Walk.swift, the counts in Statistics.swift.

public import Glibc
internal import Synchronization

/// Committed bytes, gathered straight from the ring; valid until `consume` or `giveBack`.
public struct Claim {
  public let vectors: UnsafeBufferPointer<iovec>
  public let byteCount: Int
  /// Records lost right before these bytes.
  public let lostBefore: Gap
}

/// Records missing at one place in a buffer's stream.
public struct Gap: Equatable, Sendable {
  /// Overwritten before they were read (cancelled ones among them included).
  public var overwritten: UInt64 = 0
  /// Refused because the buffer was full.
  public var full: UInt64 = 0
  /// Passed because their writer had stopped.
  public var stalled: UInt64 = 0
  /// Written into memory that a restarted daemon did not go on with.
  public var restart: UInt64 = 0
  public init() {}
  var isEmpty: Bool { self == Gap() }
}

/// The one reader of a channel buffer: a cursor that all open files share, as in relay.
///
/// Not thread-safe: one serving thread. Nothing it does makes a writer wait.
public final class Reader {
  public let channel: Channel
  public let buffer: ChannelBuffer
  var position = Position()
  var totals = Totals()
  /// What the counters and positions held at the last reset.
  var origin = Origin()
  /// The largest backlog noted since then: see Backlog.swift.
  var backlogMax: UInt64 = 0
  /// Found while there was nothing to deliver yet: goes before the next bytes.
  var pendingGap = Gap()
  /// Sub-buffers behind the position wait for a stopped writer, or for another pin.
  var mayReclaim = false
  /// Of those with a stopped writer.
  var finished: [Int: FinishedRecords] = [:]
  var lappedRecords: UInt64 = 0
  var stall = Stall()
  let isSettled = Atomic(true)
  var paceSample = ChannelBuffer.PaceSample()
  var teller = TimeTeller()
  /// The time told of the last record that was consumed.
  private(set) var lastTime: UInt64 = 0
  /// Read by records: an empty one is data.
  public var isRecordwise = false
  /// Another process wrote what no writer writes; nothing more is read.
  public internal(set) var isCorrupt = false
  /// A reader of whole records goes on here: looking consumes no records without bytes, which only
  /// that one can see.
  public var keepsEmptyRecords = false
  /// Consumes nothing: the buffer has another reader, which does.
  let isPeeking: Bool

  /// The rest of a record whose beginning was delivered, kept aside so that overwriting cannot
  /// tear it.
  package internal(set) var rest: UnsafeMutableRawBufferPointer
  /// Of which record that is the rest.
  var restRecord = CutRecord()
  /// Two, of a sub-buffer's length: the one in use stays whole while the next one is filled. Where
  /// there is no store; most readers never need them.
  private var restAreas: UnsafeMutableRawPointer?
  var restArea = 0
  /// Where this is remembered; nil for a channel in private memory.
  package let store: ReaderStore?
  var generation: UInt64 = 0

  var plan = Plan(position: Position())
  /// Looks at all states that this claim may still take to find where to go on.
  var searchesLeft = 0
  /// Entries that one claim, or one look, passes at most beside those that have bytes for it. A
  /// reader that others wait behind has a limit, and goes on where `hasMoreToWalk` says so.
  public var walkLimit = Int.max
  /// Of them, those that this claim may still pass.
  var walkLeft = Int.max
  /// The last claim, or look, found nothing as far as it came, which was its limit: what is behind
  /// is for the next one.
  public internal(set) var hasMoreToWalk = false
  /// Where a look that passes nothing came to.
  var looked: Looked?
  /// The same for a look behind what is lent.
  var lookedBehindLoans: Looked?
  package internal(set) var hasClaim = false
  /// Lent and not taken back, in the order of the stream.
  var loans: [Loan] = []
  /// Whether the last consumed claim moved the position.
  private var hasAdvanced = false
  let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: Reader.vectorLimit)
  let pinned = UnsafeMutablePointer<Pin>.allocate(capacity: Reader.vectorLimit)
  var vectorCount = 0
  var pinCount = 0

  static let vectorLimit = 64
  static let searchLimit = 128

  /// Where reading goes on: at entry `entry` of the sub-buffer with sequence number `seq`.
  struct Position {
    var seq: UInt64 = 1
    /// Where that sub-buffer probably is.
    var subbuf = 0
    var entry = 0
    /// The payload offset there.
    var offset = 0
    /// How many bytes of that entry's record are before it: of one that was delivered in part and
    /// not kept aside.
    var skipped = 0
    /// That entry's number, counted over the buffer's life.
    var record: UInt64 = 0
    /// lost_full when that sub-buffer was started.
    var lostBase: UInt64 = 0
    /// Every entry before this one was seen finished: the sub-buffer can be freed at its end.
    var walkedFromStart = true

    /// Something of its sub-buffer was passed; or there is nothing before it.
    var isInside: Bool { entry > 0 || skipped > 0 || seq == 1 }

    func isBehind(_ other: Position) -> Bool { (seq, entry) > (other.seq, other.entry) }

    mutating func advance(by entries: Int, to end: Int) {
      entry += entries
      offset = end
      if entries > 0 { skipped = 0 }
      record &+= UInt64(truncatingIfNeeded: entries)
    }
  }

  struct Pin {
    var subbuf: Int
    var seq: UInt64
    var isFinished: Bool
  }

  /// A record that was delivered in part.
  struct CutRecord {
    var number: UInt64 = 0
    var length = 0
    var time: UInt64 = 0
  }

  /// What consuming the claim will do.
  struct Plan {
    var position: Position
    var bytes = 0
    var restTaken = 0
    /// The number of the first record whose bytes are in it.
    var firstRecord: UInt64?
    /// The rest of a record that the claim's limit cuts.
    var cut = UnsafeRawBufferPointer(start: nil, count: 0)
    var cutRecord = CutRecord()
    var totals = Totals()
    /// Found and not told yet.
    var gap = Gap()
    /// A frame says it.
    var tellsLoss = false
    /// Found overwritten.
    var lapped: UInt64 = 0
    /// Losses stand in the stream as frames do, also behind bytes.
    var isFramed = false
    /// A sub-buffer that held nothing was passed and is not pinned any more.
    var leavesUnpinned = false
    /// Records gone past while somebody was writing them.
    var passed: [Stall.Passed] = []
  }

  /// - Precondition: no other reader serves this buffer.
  public convenience init(_ channel: Channel, _ buffer: ChannelBuffer) {
    self.init(channel, buffer, isPeeking: false)
  }

  init(_ channel: Channel, _ buffer: ChannelBuffer, isPeeking: Bool) {
    self.channel = channel
    self.buffer = buffer
    self.isPeeking = isPeeking
    store = isPeeking ? nil : channel.readerStore(cpu: buffer.cpu)
    rest = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    // Of a buffer whose pace is not known.
    if store != nil { buffer.askForLooks() }
  }

  /// The reader of a channel that was adopted.
  /// - Throws: `ChannelError.untrusted` where what it remembers is damaged.
  public convenience init(adopting channel: Channel, _ buffer: ChannelBuffer) throws(ChannelError) {
    self.init(channel, buffer)
    try restore()
  }

  deinit {
    if hasClaim { giveBack() }
    takeBackUnread()
    restAreas?.deallocate()
    vectors.deallocate()
    pinned.deallocate()
  }
}

extension Reader {
  /// Claims up to `limit` bytes and pins where they lie; `byteCount` 0 when there are none, and
  /// then nothing has to be given back. Ends early before a gap, after 64 pieces, after
  /// `pinLimit` sub-buffers and after `walkLimit` entries that have no bytes.
  public func claim(limit: Int) -> Claim {
    precondition(limit >= 0)
    // No claim is longer, and the sum with an offset cannot overflow.
    let limit = min(limit, 1 << 40)
    var gap = Gap()
    claimInRounds {
      planBytes(limit)
      gap = plan.gap
      if plan.bytes > 0 { plan.gap = Gap() } else { passNothing() }
      return plan.bytes > 0
    }
    return Claim(
      vectors: UnsafeBufferPointer(start: vectors, count: plan.bytes == 0 ? 0 : vectorCount),
      byteCount: plan.bytes, lostBefore: gap)
  }

  /// Claims by `once`, which says whether it found something to deliver and has consumed where it
  /// did not: then what it passed were cancelled records and gaps, and there may be more behind.
  func claimInRounds(_ once: () -> Bool) {
    keepPace()
    settle()
    let first = position.seq
    var isFound = once()
    // Each round passes `pinLimit` sub-buffers or is the last but one; more of them than there are
    // means that somebody plays with the words, and the next claim goes on from there.
    var roundsLeft = buffer.layout.subbufCount / pinLimit + 2
    while !isFound, hasAdvanced, roundsLeft > 0, walkLeft > 0 {
      isFound = once()
      roundsLeft -= 1
    }
    // While something is lent nothing is passed, and the next claim would come no further.
    hasMoreToWalk = !isFound && walkLeft <= 0 && loans.isEmpty
    // Who finds nothing may not come again soon: what was left just now must not wait for that.
    if !isFound, mayReclaim, position.seq > first { reclaim() }
  }

  /// Before a claim: what was left behind for later.
  func settle() {
    precondition(!hasClaim)
    if mayReclaim { reclaim() }
    settlePassed()
    searchesLeft = Reader.searchLimit
    walkLeft = walkLimit
  }

  /// What the last claim, or look, cost, in entries.
  public var walked: Int { walkLimit &- walkLeft }

  /// An empty claim, to be consumed or given back.
  func beginClaim() {
    plan = Plan(position: position)
    plan.gap = pendingGap
    plan.totals.restart = Counters.restart(buffer).less(totals.restart)
    plan.gap.restart &+= plan.totals.restart
    vectorCount = 0
    pinCount = 0
    hasClaim = true
  }

  /// Claims up to `limit` bytes in one round.
  func planBytes(_ limit: Int) {
    beginClaim()
    var room = limit
    if !rest.isEmpty {
      plan.restTaken = min(rest.count, room)
      append(UnsafeRawPointer(rest.baseAddress!), plan.restTaken)
      room -= plan.restTaken
    }
    guard plan.restTaken == rest.count, !isCorrupt else { return }
    while room > 0, vectorCount < Reader.vectorLimit, pinCount < pinLimit, enterSubbuf(),
      walk(&room)
    {}
  }

  /// The claimed bytes were delivered: the position moves past them, finished sub-buffers become
  /// free and waiting writers wake.
  public func consume() {
    precondition(hasClaim)
    hasClaim = false
    if plan.restTaken > 0 {
      rest = UnsafeMutableRawBufferPointer(rebasing: rest[plan.restTaken...])
    }
    if let source = plan.cut.baseAddress {
      // Before the unpin: then the ring may be overwritten.
      restArea = 1 - restArea
      let area = restMemory
      area.copyMemory(from: source, byteCount: plan.cut.count)
      rest = UnsafeMutableRawBufferPointer(start: area, count: plan.cut.count)
      restRecord = plan.cutRecord
    }
    let gapBefore = pendingGap
    pendingGap = plan.gap
    hasAdvanced = (plan.position.seq, plan.position.entry) != (position.seq, position.entry)
    noteBacklog(before: plan.position)
    position = plan.position
    totals.add(plan.totals)
    lappedRecords &+= plan.lapped
    notePassed(plan.passed)
    lastTime = teller.last
    if plan.leavesUnpinned { mayReclaim = true }
    totals.bytes &+= UInt64(plan.bytes)
    if hasAdvanced || plan.bytes > 0 || plan.tellsLoss || pendingGap != gapBefore { save() }
    var freed = false
    for i in 0..<pinCount where unpin(pinned[i]) { freed = true }
    pinCount = 0
    if freed { Wake.writers(buffer) }
  }

  /// Ends a claim that brought nothing to deliver. The position moves past what it passed, but not
  /// while something is lent: taking that back moves it.
  func passNothing() {
    if loans.isEmpty { return consume() }
    hasAdvanced = false
    giveBack()
  }

  /// The claimed bytes were not delivered: they come again with the next claim.
  public func giveBack() {
    precondition(hasClaim)
    hasClaim = false
    for i in 0..<pinCount {
      pinned[i].isFinished = false
      _ = unpin(pinned[i])
    }
    pinCount = 0
    teller.goBack(to: lastTime)
  }

  /// Where both areas are.
  var restPlace: UnsafeMutableRawPointer {
    if let store { return store.area(0) }
    let areas =
      restAreas ?? .allocate(byteCount: 2 * buffer.layout.subbufSize, alignment: 64)
    restAreas = areas
    return areas
  }

  private var restMemory: UnsafeMutableRawPointer {
    store?.area(restArea) ?? restPlace + restArea * buffer.layout.subbufSize
  }

  func append(_ bytes: UnsafeRawPointer, _ count: Int) {
    guard count > 0 else { return }
    plan.bytes += count
    if vectorCount > 0 {
      let last = vectors + (vectorCount - 1)
      if last.pointee.iov_base + last.pointee.iov_len == bytes {
        last.pointee.iov_len += count
        return
      }
    }
    vectors[vectorCount] = iovec(
      iov_base: UnsafeMutableRawPointer(mutating: bytes), iov_len: count)
    vectorCount += 1
  }

  func markCorrupt() {
    guard !isCorrupt else { return }
    isCorrupt = true
    buffer.count(buffer.corrupt)
  }

  /// Drops everything before `position`, a rest included.
  func jump(to position: Position) {
    precondition(!hasClaim)
    noteBacklog(before: position)
    self.position = position
    pendingGap = Gap()
    stall.forgetAll()
    rest = UnsafeMutableRawBufferPointer(start: nil, count: 0)
    mayReclaim = true
    save()
    reclaim()
  }
}
