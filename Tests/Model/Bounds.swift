// SPDX-License-Identifier: Apache-2.0
// How small a world is: sizes, what its writers do, what else may happen in it.

/// What a writer does next.
enum Operation: UInt8 {
  case write, writeTwo, cancel, flush, close
  /// Reserves a record and never ends it.
  case leave
  /// The reader's own use of the writers' steps: to the end of a sub-buffer, for its reset.
  case sealEnd

  var isRecord: Bool { self == .write || self == .writeTwo || self == .cancel || self == .leave }
  /// Payload bytes of the record.
  var length: UInt8 { self == .writeTwo ? 2 : isRecord ? 1 : 0 }
}

/// A writer before this step of its operation of this number (from 1).
struct Stop {
  let writer: Int
  let operation: UInt8
  let step: WriterStep
}

struct Bounds {
  let name: String
  /// What each writer does; at most three writers, seven records in all.
  var programs: [[Operation]]
  var overwrites = false
  /// One process may hold all sub-buffers but two, by records that it has not ended.
  var isBounded = false
  /// N, M and S; N is at most 5, N × M at most 10, N × S at most 8.
  var subbufs = 2
  var entries = 2
  var size = 1
  /// How many low bits of the sequence number an index entry and the hint hold.
  var lapBits = 5
  var hintBits = 5
  /// The writers are threads of one process: they have one owner id, and are killed together.
  var isOneProcess = false
  /// How many processes may be killed in the middle of something while all others go on.
  var kills = 1
  /// Which writers may be.
  var mortals = 0...2
  /// How many times the reader may reset.
  var resets = 0
  /// Replies may fail, and then the data is given back.
  var failures = false
  /// How many times the reader's process may die, wherever it is, and another one go on.
  var restarts = 0
  /// How many records the reader may go past while they are being written.
  var passes = 0
  /// Writers wait for space instead of being refused.
  var waits = false
  /// The reader sleeps when there is nothing, instead of looking again and again.
  var sleeps = false
  /// relayd set `look`; writers find the buffer fast at each record with an even number.
  var looks = false
  /// The reader claims in one step and sends and lets go in another; a sweep is one step. For
  /// worlds that are about several writers.
  var isCoarse = false
  /// Where writers stand still when it begins: each in turn goes there, alone.
  var stops: [Stop] = []
  /// After how many lost races the reader takes the current sub-buffer (12 in the code).
  var patience = 3

  /// How many sub-buffers one claim may pin, as `Reader.pinLimit`.
  var pinLimit: Int { overwrites ? max(1, subbufs - 3) : subbufs }

  /// Whether each record must find room: writers overwrite, and beside the current sub-buffer, what
  /// the reader pins and the one that each other writer may hold, stopped, there is one more. The
  /// reader writes, too, where it resets; who leaves records open holds more.
  var refusesNothing: Bool {
    guard overwrites, !programs.joined().contains(.leave) else { return false }
    let writers = programs.count { $0 != [.close] } + (resets > 0 ? 1 : 0)
    return pinLimit + writers + 1 <= subbufs
  }

  static func writes(_ count: Int) -> [Operation] { Array(repeating: .write, count: count) }
  var records: Int { programs.joined().count { $0.isRecord } }
  var closes: Bool { programs.joined().contains(.close) }
}
