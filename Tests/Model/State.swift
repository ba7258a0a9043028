// SPDX-License-Identifier: Apache-2.0
// One state of the world: the shared memory, how far everybody is, what the model knows besides.
// Bytes only, without gaps: two states are equal when their bytes are.

/// The part of the state that any process can see.
struct Memory {
  var current = Current()
  var hint = Hint()
  /// The reader's wish for a wake, and the eventfd. Kept for the data only, not for the switch:
  /// both wishes take the same steps.
  var waiters = false
  var event = false
  /// The second bit of that word: writers of a slow buffer look, at each commit, whether relayd
  /// lives. Set by relayd, cleared by a writer that finds the buffer fast.
  var look = false
  /// The writers' wish for a wake when there is space.
  var spaceWaiters = false
  var states: InlineArray<5, SubbufState> = .init(repeating: SubbufState())
  var recordBase: InlineArray<5, UInt8> = .init(repeating: 0)
  /// For each sub-buffer, of which lap the notes of open entries are; and a bit for each of these.
  var noteSeq: InlineArray<5, UInt8> = .init(repeating: 0)
  var notes: InlineArray<5, UInt8> = .init(repeating: 0)
  /// Which owners may reserve nothing: a bit for each.
  var named: UInt8 = 0
  var index: InlineArray<10, Entry> = .init(repeating: Entry())
  /// Whose bytes stand where: record numbers, 0 for none.
  var payload: InlineArray<8, UInt8> = .init(repeating: 0)
}

/// What one thread is doing in the writers' code: its next access and its live variables. Those
/// that are dead are zero, so that states that differ in nothing else are one.
struct Thread {
  var step = WriterStep.start
  var operation = Operation.write
  /// The number of its record, 0 for none, and of its next operation.
  var record: UInt8 = 0
  var next: UInt8 = 0
  var current = Current()
  var purpose = Purpose.reserve
  var i: UInt8 = 0
  var start: UInt8 = 0
  var seen = Entry()
  /// The sub-buffer looked at or claimed, and its state.
  var subbuf: UInt8 = 0
  var state = SubbufState()
  /// In the search for the oldest sub-buffer.
  var k: UInt8 = 0
  var newerThan: UInt8 = 0
  /// How many times it has looked at all sub-buffers and found none.
  var looks: UInt8 = 0
  /// Entries sealed; then the record base of the next sub-buffer.
  var entries: UInt8 = 0
  /// Behind its record a hint says that nothing fits.
  var hintsEnd = false

  /// Why it looks for the frontier.
  enum Purpose: UInt8 { case reserve, seal, flush }

  var isMidway: Bool { step != .start && step != .finished && step != .dead }
}

struct Position: Equatable {
  var seq: UInt8 = 1
  var subbuf: UInt8 = 0
  var entry: UInt8 = 0
  var offset: UInt8 = 0
  var record: UInt8 = 0
  var walkedFromStart = true
}

struct ReaderState {
  var step = ReaderStep.idle
  var position = Position()
  var plan = Position()
  var mayReclaim = false
  /// What it is after: to read, to look once more before it sleeps, to see whether this is the
  /// end, to reset.
  var purpose = Purpose.read
  var current = Current()
  /// `current` when it began to ask whether this is the end.
  var atEnd = Current()
  var attempt: UInt8 = 0
  var k: UInt8 = 0
  var j: UInt8 = 0
  var subbuf: UInt8 = 0
  var seq: UInt8 = 0
  var state = SubbufState()
  /// The seq each sub-buffer is pinned for, 0 if it is not; and whether it is finished.
  var pinned: InlineArray<5, UInt8> = .init(repeating: 0)
  var isFinished: InlineArray<5, Bool> = .init(repeating: false)
  /// Which payload bytes it has claimed: a bit for each.
  var claimed: UInt8 = 0
  /// The last claim brought nothing and moved nothing.
  var hasNothing = false
  /// It brought nothing but went on: it is followed by another round.
  var hasMoved = false
  /// In this claim it left a sub-buffer behind.
  var hasLeft = false
  /// It reclaims at the end of a claim, not at the beginning.
  var isReclaimingLast = false
  /// It made a sub-buffer free, and has not told the writers who wait.
  var hasFreed = false

  enum Purpose: UInt8 { case read, beforeSleep, end, reset }
}

struct SweeperState {
  var step = SweeperStep.idle
  var owner: UInt8 = 0
  var k: UInt8 = 0
  var j: UInt8 = 0
  var state = SubbufState()
  var current = Current()
  /// Which owners were swept: a bit for each.
  var swept: UInt8 = 0
}

struct State {
  var memory = Memory()
  static let writerCount = 3

  var writers: InlineArray<3, Thread> = .init(repeating: Thread())
  var reader = ReaderState()
  /// The reader's thread, where it seals and flushes for a reset.
  var hands = Thread()
  var sweeper = SweeperState()
  var records: InlineArray<9, Record> = .init(repeating: Record())
  /// Records reserved so far: the rank of the next one.
  var reserved: UInt8 = 0
  var kills: UInt8 = 0
  var resets: UInt8 = 0
  var restarts: UInt8 = 0
  var passes: UInt8 = 0
  /// Records of a lower rank were forgotten by a reset.
  var forgotten: UInt8 = 0
  /// A writer found the buffer fast enough to clear `look`.
  var lookCleared = false
  /// close() has returned.
  var closed = false
}
