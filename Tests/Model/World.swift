// SPDX-License-Identifier: Apache-2.0
// A world: its bounds, the rule that is broken in it, and the state it is in. What can happen next
// in it, and what the model notes of it.

struct World {
  let bounds: Bounds
  let broken: Rule?
  var s = State()
  /// What went wrong in the last step.
  private(set) var failure: String?
  /// The reader found nothing to read, and did nothing else.
  var hasRested = false

  let subbufCount: UInt8
  let entryCount: UInt8
  let size: UInt8
  /// How many sub-buffers the reader may have pinned at one moment.
  let pinLimit: Int
  let lapBits: Int
  private let lapMask: UInt8
  private let hintMask: UInt8
  /// For each record: its length, and the owner id of its writer.
  private let lengths: [UInt8]
  private let owners: [UInt8]

  /// A writer that comes later, and its only record.
  static let freshOwner: UInt8 = 4
  static let freshRecord: UInt8 = 8
  /// How often a writer looks at all sub-buffers. Two are enough for the one cursor that there is
  /// here; `ChannelBuffer.looksForRoom` is more, for several.
  static let looks: UInt8 = 2
  /// Where the reader's thread uses the writers' steps.
  static let handsOwner: UInt8 = 5

  init(_ bounds: Bounds, breaking broken: Rule? = nil) {
    precondition(bounds.programs.count <= State.writerCount && bounds.records <= 7)
    precondition(bounds.subbufs * bounds.entries <= 10 && bounds.subbufs * bounds.size <= 8)
    precondition(bounds.restarts == 0 || bounds.resets + bounds.passes == 0)
    precondition(bounds.passes == 0 || !bounds.failures)
    self.bounds = bounds
    self.broken = broken
    subbufCount = UInt8(bounds.subbufs)
    entryCount = UInt8(bounds.entries)
    size = UInt8(bounds.size)
    pinLimit = bounds.pinLimit + (broken == .pinsOneMore ? 1 : 0)
    lapBits = broken == .fewLapBits ? bounds.lapBits - 1 : bounds.lapBits
    lapMask = 1 << lapBits - 1
    hintMask = 1 << bounds.hintBits - 1
    var lengths: [UInt8] = [0]
    var owners: [UInt8] = [0]
    for (w, program) in bounds.programs.enumerated() {
      for operation in program where operation.isRecord {
        lengths.append(operation.length)
        owners.append(bounds.isOneProcess ? 1 : UInt8(w + 1))
      }
    }
    while lengths.count < World.freshRecord {
      lengths.append(0)
      owners.append(0)
    }
    self.lengths = lengths + [1]
    self.owners = owners + [World.freshOwner]
    s.memory.look = bounds.looks
    for w in 0..<State.writerCount {
      s.writers[w].step = .finished
      proceed(w)
    }
    for stop in bounds.stops {
      while (s.writers[stop.writer].next, s.writers[stop.writer].step) != (
        stop.operation, stop.step
      ) {
        perform(.write(stop.writer))
        precondition(s.writers[stop.writer].step != .finished, "a writer does not get to its stop")
      }
    }
  }
}

// The words, as the steps use them.
extension World {
  func lap(_ seq: UInt8) -> UInt8 { seq & lapMask }
  func hintBits(_ seq: UInt8) -> UInt8 { seq & hintMask }
  subscript(_ subbuf: UInt8) -> SubbufState { s.memory.states[Int(subbuf)] }
  func entry(_ subbuf: UInt8, _ i: UInt8) -> Entry { s.memory.index[Int(subbuf * entryCount + i)] }

  mutating func store(_ subbuf: UInt8, _ i: UInt8, _ entry: Entry) {
    s.memory.index[Int(subbuf * entryCount + i)] = entry
  }

  /// A compare-and-swap of a sub-buffer's state.
  mutating func swap(_ subbuf: UInt8, _ expected: SubbufState, _ desired: SubbufState) -> Bool {
    guard self[subbuf] == expected else { return false }
    s.memory.states[Int(subbuf)] = desired
    return true
  }

  mutating func fail(_ what: String) { if failure == nil { failure = what } }
}

// What the model notes of records.
extension World {
  mutating func noteReserved(_ t: Thread) {
    if s.closed || s.reader.step == .atEnd { fail("a record is reserved after the close") }
    s.records[Int(t.record)] = Record(fate: .reserved, seq: t.current.seq, rank: s.reserved)
    s.reserved += 1
  }

  mutating func noteCommitted(_ t: Thread, _ isCancelled: Bool) {
    // It came too late: the reader has gone past it.
    if s.records[Int(t.record)].fate == .passed { return }
    s.records[Int(t.record)].fate = .committed
    if isCancelled { s.records[Int(t.record)] = Record(fate: .dead) }
  }

  /// A held sub-buffer was claimed: what nobody read is lost, and that is as it should be.
  mutating func noteOverwritten(_ seq: UInt8) {
    for r in 1..<s.records.count
    where s.records[r].fate == .committed && s.records[r].seq == seq {
      s.records[r] = Record(fate: .overwritten)
    }
  }

  mutating func noteDiscarded(of owner: UInt8) {
    for r in 1..<s.records.count where s.records[r].fate == .reserved && owners[r] == owner {
      s.records[r] = Record(fate: .dead)
    }
  }

  /// The reader goes past the record it is at.
  mutating func notePassed() {
    let plan = s.reader.plan
    for r in 1..<s.records.count
    where s.records[r].seq == plan.seq && s.records[r].rank == plan.record {
      let fate = s.records[r].fate
      if fate == .reserved || fate == .committed { s.records[r].fate = .passed }
    }
  }

  /// The reader takes a record: the right one, whole, and for the first time?
  mutating func noteTaken(_ subbuf: UInt8, _ start: UInt8, _ end: UInt8) {
    let first = Int(subbuf * size + start)
    let last = Int(subbuf * size + end) - 1
    guard last >= first else { return fail("the reader finds corrupt entries") }
    let r = s.memory.payload[first]
    let record = s.records[Int(r)]
    for cell in first...last {
      if s.memory.payload[cell] != r { fail("a record is torn") }
      s.reader.claimed |= 1 << UInt8(cell)
    }
    if r == 0 || end - start != lengths[Int(r)] { return fail("a record is torn") }
    switch record.fate {
    case .committed: break
    case .delivered: return fail("a record is delivered twice")
    default: return fail("bytes of a record are read that is \(record.fate)")
    }
    if record.seq != s.reader.plan.seq { fail("a record is read in a foreign lap") }
    if record.rank != s.reader.plan.record {
      fail("record \(record.rank) is counted as \(s.reader.plan.record): the gap is not exact")
    }
  }

  mutating func noteDelivered() {
    for cell in 0..<s.memory.payload.count where s.reader.claimed & 1 << UInt8(cell) != 0 {
      s.records[Int(s.memory.payload[cell])] = Record(fate: .delivered)
    }
  }
}

/// What can happen next.
enum Action: Equatable {
  case write(Int)
  case kill(Int)
  case suspect(Int)
  case read, refuseReply, pass, reset, restart, sweep
}

extension World {
  /// Calls `body` for everything that can happen in this state.
  func actions(_ body: (Action) -> Void) {
    for w in 0..<bounds.programs.count {
      let step = s.writers[w].step
      guard step != .finished, step != .dead else { continue }
      if step != .asleep { body(.write(w)) }
      guard s.writers[w].isMidway, s.kills < bounds.kills, bounds.mortals.contains(w) else {
        continue
      }
      body(broken == .sweepOfTheLiving ? .suspect(w) : .kill(w))
    }
    if canRead { body(.read) }
    if s.reader.step == .send, bounds.failures { body(.refuseReply) }
    if canPass { body(.pass) }
    if s.reader.step == .idle, s.resets < bounds.resets { body(.reset) }
    if s.restarts < bounds.restarts { body(.restart) }
    if s.sweeper.step != .idle || nextToSweep != nil { body(.sweep) }
  }

  var canRead: Bool {
    s.reader.step != .atEnd && (s.reader.step != .asleep || s.memory.event)
  }

  func isUnswept(_ w: Int) -> Bool {
    s.writers[w].step == .dead && s.sweeper.swept & 1 << UInt8(w) == 0
  }

  func owner(_ w: Int) -> UInt8 { bounds.isOneProcess ? 1 : UInt8(w + 1) }

  /// A writer that is dead and was not swept yet.
  var nextToSweep: Int? {
    (0..<State.writerCount).first(where: isUnswept)
  }

  mutating func perform(_ action: Action) {
    failure = nil
    hasRested = false
    switch action {
    case .write(let w):
      // A copy: a step changes the thread and the world at once.
      var thread = s.writers[w]
      step(&thread, owner: owner(w))
      s.writers[w] = thread
      if thread.step == .finished { proceed(w) }
    case .kill(let w):
      for other in 0..<bounds.programs.count where owner(other) == owner(w) { kill(other) }
      s.kills += 1
    case .suspect(let w):
      startSweep(w)
      s.kills += 1
    case .read:
      stepReader()
      if bounds.isCoarse { readOn() }
    case .refuseReply: refuseReply()
    case .pass: seeBusy()
    case .reset: startReset()
    case .restart: restartReader()
    case .sweep:
      if s.sweeper.step == .idle, let w = nextToSweep { startSweep(w) }
      stepSweeper()
      while bounds.isCoarse, failure == nil, s.sweeper.step != .idle { stepSweeper() }
    }
  }

  private mutating func readOn() {
    for _ in 0..<400 {
      if failure != nil || s.reader.step.isResting { return }
      stepReader()
    }
    fail("the reader does not come to rest")
  }

  private mutating func kill(_ w: Int) {
    if s.writers[w].step != .finished { s.writers[w] = Thread(step: .dead) }
  }

  /// On to the writer's next operation.
  private mutating func proceed(_ w: Int) {
    let next = Int(s.writers[w].next)
    guard w < bounds.programs.count, next < bounds.programs[w].count else {
      s.writers[w] = Thread(step: .finished)
      return
    }
    var thread = Thread(operation: bounds.programs[w][next], next: UInt8(next + 1))
    if thread.operation.isRecord {
      let before = bounds.programs[..<w].joined().count { $0.isRecord }
      thread.record = UInt8(
        before + bounds.programs[w][...next].count { $0.isRecord })
    }
    s.writers[w] = thread
  }
}
