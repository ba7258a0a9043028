// SPDX-License-Identifier: Apache-2.0
// Sub-buffers handed out as they lie in the ring, to somebody who has mapped it and says later that
// they were consumed. Until then they are pinned, and this reader goes on to work.

internal import Glibc

/// Committed bytes of one sub-buffer: where they are, not the bytes themselves.
public struct LentSubbuf: Equatable, Sendable {
  public struct Piece: Equatable, Sendable {
    /// Payload bytes before it in its sub-buffer.
    public var offset: Int
    public var length: Int

    public init(offset: Int, length: Int) {
      self.offset = offset
      self.length = length
    }
  }

  /// The sub-buffer's sequence number: 1 for a buffer's first one.
  public var seq: UInt64 = 0
  /// Which of the buffer's sub-buffers it is.
  public var subbuf = 0
  /// Ascending, with holes where records were cancelled; 1 to 64 of them.
  public var pieces: [Piece] = []
  /// The rest of a record of which another reader got the beginning: one piece, its offset counted
  /// from the place of such rests. `subbuf`, `isLast` and `padding` mean nothing then.
  public var isRest = false
  /// Nothing more comes of the sub-buffer.
  public var isLast = false
  /// Bytes left empty at its end; 0 unless `isLast`.
  public var padding = 0
  /// The number of the first record in it, counted as `RecordInfo.sequence`.
  public var firstRecord: UInt64 = 0
  /// Records that end in it.
  public var recordCount: UInt64 = 0
  /// Records lost right before it.
  public var lostBefore = Gap()
  /// Sub-buffers that writers have left, and that were consumed, since the start or the last reset.
  public var produced: UInt64 = 0
  public var consumed: UInt64 = 0

  public init() {}

  public var byteCount: Int { pieces.reduce(0) { $0 + $1.length } }
}

extension Reader {
  /// A claim that is neither consumed nor given back yet, put aside.
  struct Loan {
    var plan: Plan
    /// nil: the rest of a record, which is kept elsewhere.
    var pin: Pin?
  }

  /// What was lent and not taken back.
  public var loanCount: Int { loans.count }

  /// Whether one more may be lent: of so many sub-buffers as leave writers that overwrite the room
  /// that they need, and few of one sub-buffer.
  public var mayLend: Bool {
    let parts = loans.reversed().prefix { $0.pin?.seq == loans.last?.pin?.seq }.count
    return loans.count < Reader.loanLimit && parts < Reader.partLimit && lentSubbufs < pinLimit
  }

  /// How many sub-buffers are pinned by what is lent. Their numbers ascend.
  private var lentSubbufs: Int {
    var count = 0
    var last: UInt64 = 0
    for case .some(let pin) in loans.map(\.pin) where pin.seq != last {
      count += 1
      last = pin.seq
    }
    return count
  }

  /// Whether writers that overwrite would have nowhere to go while one is lent.
  public var lendsLastRoom: Bool { buffer.layout.overwrites && buffer.layout.subbufCount < 3 }

  static var loanLimit: Int { 64 }
  /// Each pins the sub-buffer, which has room for 15 pins.
  static var partLimit: Int { 8 }

  /// Hands out the next bytes, all of one sub-buffer; nil when there are none. A sub-buffer with
  /// more than 64 pieces comes in parts.
  /// - Parameter unfinished: also of the sub-buffer that writers are in; else only what they have
  ///   left, as relay does.
  /// - Precondition: `mayLend`.
  public func lend(unfinished: Bool) -> LentSubbuf? {
    precondition(mayLend)
    // More than there is: no record is cut.
    guard let lent = claimLoan({ planLoan(unfinished, 1 << 40) }) else { return nil }
    lookedBehindLoans = nil
    plan.gap = Gap()
    loans.append(Loan(plan: plan, pin: pinCount > 0 ? pinned[0] : nil))
    pinCount = 0
    hasClaim = false
    return lent
  }

  /// Whether `lend` would hand out something. Looks as far as the first byte, and not beyond the
  /// walk's limit: see `hasMoreToWalk`.
  public func canLend(unfinished: Bool) -> Bool {
    guard mayLend, claimLoan({ lookForLoan(unfinished) }) != nil else { return false }
    giveBack()
    return true
  }

  /// Claims as `once` plans it; nil, and no claim, where that is nothing.
  private func claimLoan(_ once: () -> LentSubbuf?) -> LentSubbuf? {
    var lent: LentSubbuf?
    if loans.isEmpty {
      claimInRounds {
        beginClaim()
        lent = once()
        if lent == nil { passNothing() }
        return lent != nil
      }
    } else {
      beginClaimBehindLoans()
      lent = once()
      hasMoreToWalk = lent == nil && walkLeft <= 0
      if lent == nil { giveBack() }
    }
    return lent
  }

  /// Whether a consumer that asks would learn something: there is more, or there will be no more.
  /// False, too, while `hasMoreToWalk`.
  public func hasForConsumer(unfinished: Bool) -> Bool {
    if canLend(unfinished: unfinished) { return true }
    return loanCount == 0 && !hasMoreToWalk && (isCorrupt || isDrained)
  }

  /// The first `count` of what was lent were consumed.
  /// - Precondition: so many were lent.
  public func takeBack(consumed count: Int) {
    precondition(count <= loans.count)
    for loan in loans.prefix(count) {
      resume(loan)
      consume()
    }
    loans.removeFirst(count)
    if mayReclaim { reclaim() }
  }

  /// All that was lent comes again.
  public func takeBackUnread() {
    for loan in loans {
      resume(loan)
      giveBack()
    }
    loans = []
  }

  /// The bytes of what was lent, in the memory of this process.
  public func bytes(of lent: LentSubbuf) -> [UnsafeRawBufferPointer] {
    let base = UnsafeRawPointer(lent.isRest ? restPlace : buffer.payload(lent.subbuf))
    return lent.pieces.map { UnsafeRawBufferPointer(start: base + $0.offset, count: $0.length) }
  }

  private func resume(_ loan: Loan) {
    precondition(!hasClaim)
    plan = loan.plan
    pinCount = 0
    if let pin = loan.pin {
      pinned[0] = pin
      pinCount = 1
    }
    hasClaim = true
  }

  private func beginClaimBehindLoans() {
    searchesLeft = Reader.searchLimit
    walkLeft = walkLimit
    beginClaim()
    plan.position = loans[loans.count - 1].plan.position
    let told = loans.reduce(0) { $0 &+ $1.plan.totals.restart }
    plan.totals.restart = plan.totals.restart.less(told)
    plan.gap = Gap()
    plan.gap.restart = plan.totals.restart
  }

  /// Without a limit of what is passed: a part is described with all that is in it.
  private func planLoan(_ unfinished: Bool, _ limit: Int) -> LentSubbuf? {
    walkLeft = Int.max
    return planWithinLimit(unfinished, limit)
  }

  /// Behind loans nothing is passed for good: the next look goes on where this one stops.
  private func lookForLoan(_ unfinished: Bool) -> LentSubbuf? {
    guard !loans.isEmpty else { return planWithinLimit(unfinished, 1) }
    var passed: [Stall.Passed] = []
    if let looked = lookedBehindLoans, looked.passed.allSatisfy(isStillBusy) {
      plan.position = looked.position
      passed = looked.passed
    }
    let lent = planWithinLimit(unfinished, 1)
    if lent == nil {
      passed += plan.passed.prefix(Stall.passedLimit - passed.count)
      lookedBehindLoans = Looked(position: plan.position, passed: passed)
    }
    return lent
  }

  private func planWithinLimit(_ unfinished: Bool, _ limit: Int) -> LentSubbuf? {
    if loans.isEmpty, !rest.isEmpty { return planRest() }
    var room = limit
    for _ in 0..<Reader.vectorLimit {
      guard !isCorrupt, enterSubbuf(), unfinished || isLeft(plan.position.seq) else { return nil }
      plan.firstRecord = nil
      let seq = plan.position.seq
      let recordsBefore = plan.totals.records
      let paddingBefore = plan.totals.padding
      let isAtNext = walk(&room)
      if plan.bytes == 0, isAtNext {
        letGo()
        continue
      }
      guard plan.bytes > 0 else { return nil }
      var lent = LentSubbuf()
      lent.seq = seq
      lent.subbuf = pinned[pinCount - 1].subbuf
      let payload = UnsafeRawPointer(buffer.payload(lent.subbuf))
      lent.pieces = (0..<vectorCount).map {
        LentSubbuf.Piece(
          offset: UnsafeRawPointer(vectors[$0].iov_base) - payload, length: vectors[$0].iov_len)
      }
      lent.isLast = isAtNext || isAtSeal(plan.position)
      if isAtNext {
        lent.padding = Int(plan.totals.padding &- paddingBefore)
      } else if lent.isLast {
        lent.padding = buffer.layout.subbufSize - plan.position.offset
      }
      lent.firstRecord = plan.firstRecord ?? plan.position.record
      lent.recordCount = plan.totals.records &- recordsBefore
      return told(lent)
    }
    return nil
  }

  /// Of the sub-buffer just passed, which held nothing: it is not lent, or only looked at, so it is
  /// not kept from writers either.
  func letGo() {
    pinned[pinCount - 1].isFinished = false
    unpinLast()
    plan.leavesUnpinned = true
  }

  private func planRest() -> LentSubbuf {
    let start = UnsafeRawPointer(rest.baseAddress!)
    plan.restTaken = rest.count
    append(start, rest.count)
    var lent = LentSubbuf()
    lent.isRest = true
    lent.pieces = [
      LentSubbuf.Piece(offset: start - UnsafeRawPointer(restPlace), length: rest.count)
    ]
    lent.firstRecord = restRecord.number
    return told(lent)
  }

  /// What is known about it beside its bytes.
  private func told(_ lent: LentSubbuf) -> LentSubbuf {
    var lent = lent
    lent.lostBefore = plan.gap
    lent.produced = buffer.loadCurrent().seq.less(origin.seq)
    lent.consumed = position.seq.less(origin.seq)
    return lent
  }

  /// Whether what comes next is a record that is being written where writers have left: then no
  /// switch comes before it, but its commit.
  var isHeldUp: Bool {
    let next = loans.last?.plan.position ?? position
    guard next.subbuf < buffer.layout.subbufCount, next.entry < buffer.layout.entryCount,
      isLeft(next.seq)
    else { return false }
    let state = buffer.loadState(next.subbuf)
    return state.isHeld && state.seq == next.seq
      && buffer.loadEntry(buffer.index(next.subbuf), next.entry).isBusy
  }

  /// Whether writers are in it no more.
  private func isLeft(_ seq: UInt64) -> Bool {
    let current = buffer.loadCurrent()
    return current.seq > seq || current.isClosed
  }
}
