// SPDX-License-Identifier: Apache-2.0
// The worlds that are visited, all of them in about a minute, and for each rule the one in which
// breaking it must be noticed.
//
// Named after how many records each writer writes. N = 2, M = 2, S = 1, discard mode and one kill
// unless it says otherwise.

extension Bounds {
  /// In each of them everything must go well.
  static let all =
    alone + together + threes + flushing + waiting + wrapping + holding + neverRefusing

  /// One writer against the reader: every step of both.
  private static let alone = [
    Bounds(name: "4", programs: [writes(4)]),
    Bounds(name: "4 overwriting", programs: [writes(4)], overwrites: true, failures: true),
    Bounds(name: "4 impatient", programs: [writes(4)], overwrites: true, patience: 0),
    Bounds(name: "4 N=3", programs: [writes(4)], overwrites: true, subbufs: 3),
    Bounds(name: "3 S=2", programs: [writes(3)], size: 2),
    Bounds(name: "2 restarted", programs: [writes(2)], restarts: 2),
    Bounds(name: "3 restarted", programs: [writes(3)], overwrites: true, restarts: 2),
    Bounds(name: "2 reset", programs: [writes(2)], resets: 2),
    Bounds(name: "3 reset", programs: [writes(3)], overwrites: true, resets: 1),
    Bounds(name: "3 asleep", programs: [writes(3)], overwrites: true, sleeps: true),
    Bounds(
      name: "mixed", programs: [[.write, .cancel, .writeTwo, .flush, .write]], overwrites: true,
      entries: 4, size: 2, lapBits: 2, hintBits: 1),
  ]

  /// Two writers.
  private static let together = [
    Bounds(name: "1+2 unharmed", programs: [writes(1), writes(2)], overwrites: true, kills: 0),
    Bounds(name: "1+1", programs: [writes(1), writes(1)]),
    Bounds(name: "1+1 overwriting", programs: [writes(1), writes(1)], overwrites: true),
    Bounds(name: "1+3", programs: [writes(1), writes(3)], overwrites: true, isCoarse: true),
    Bounds(name: "2+2", programs: [writes(2), writes(2)], kills: 2, isCoarse: true),
    Bounds(
      name: "2+2 overwriting", programs: [writes(2), writes(2)], overwrites: true, isCoarse: true),
    Bounds(
      name: "1+4 M=3 S=2", programs: [writes(1), writes(4)], overwrites: true, entries: 3, size: 2,
      isCoarse: true),
    Bounds(
      name: "1+2 threads", programs: [writes(1), writes(2)], overwrites: true, isOneProcess: true,
      isCoarse: true),
    Bounds(
      name: "1+2 reset", programs: [writes(1), writes(2)], overwrites: true, resets: 2,
      isCoarse: true),
    Bounds(
      name: "1+2 restarted", programs: [writes(1), writes(2)], overwrites: true, restarts: 1,
      isCoarse: true),
    Bounds(
      name: "2+3 passed", programs: [writes(2), writes(3)], entries: 3, size: 2, passes: 2,
      isCoarse: true),
    Bounds(
      name: "2+3 passed overwriting", programs: [writes(2), writes(3)], overwrites: true,
      entries: 3, size: 2, passes: 2, isCoarse: true),
    Bounds(
      name: "1+2 passed", programs: [writes(1), writes(2)], overwrites: true, entries: 3, size: 2,
      kills: 0, passes: 1),
    Bounds(
      name: "mixed+mixed", programs: [[.writeTwo, .cancel], [.write, .flush]], overwrites: true,
      entries: 3, size: 2, isCoarse: true),
  ]

  /// Three writers.
  private static let threes = [
    Bounds(name: "1+1+1", programs: [writes(1), writes(1), writes(1)], isCoarse: true),
    Bounds(
      name: "1+1+1 overwriting", programs: [writes(1), writes(1), writes(1)], overwrites: true,
      isCoarse: true),
    Bounds(
      name: "1+1+1 N=3", programs: [writes(1), writes(1), writes(1)], overwrites: true, subbufs: 3,
      kills: 0,
      isCoarse: true),
    // One stands still inside of its record.
    Bounds(
      name: "1+3 N=3", programs: [[.write], writes(3)], overwrites: true, subbufs: 3,
      isCoarse: true, stops: [Stop(writer: 0, operation: 1, step: .copy)]),
    // One is about to claim the first sub-buffer, one to open it; the third claims it again.
    Bounds(
      name: "1+2+2", programs: [[.write], [.write, .flush], writes(2)], mortals: 2...2,
      isCoarse: true,
      stops: [
        Stop(writer: 0, operation: 1, step: .claim), Stop(writer: 1, operation: 2, step: .openLoad),
      ]),
  ]

  /// Flush and close.
  private static let flushing = [
    Bounds(name: "2 flushed", programs: [[.flush], writes(2)]),
    Bounds(name: "2 closed", programs: [writes(2), [.close]]),
    Bounds(name: "2 closed overwriting", programs: [writes(2), [.close]], overwrites: true),
    Bounds(
      name: "1+1 closed", programs: [writes(1), writes(1), [.close]], kills: 0, isCoarse: true),
  ]

  /// Readers and writers that sleep.
  private static let waiting = [
    Bounds(name: "1+1 asleep", programs: [writes(1), writes(1)], kills: 0, sleeps: true),
    Bounds(name: "2 asleep closed", programs: [writes(2), [.close]], kills: 0, sleeps: true),
    Bounds(
      name: "1+1 asleep closed", programs: [writes(1), writes(1), [.close]], mortals: 0...1,
      sleeps: true, isCoarse: true),
    Bounds(
      name: "3 looking", programs: [writes(3)], overwrites: true, sleeps: true, looks: true),
    Bounds(
      name: "1+1 looking", programs: [writes(1), writes(1)], kills: 0, sleeps: true, looks: true),
    Bounds(name: "4 waiting", programs: [writes(4)], waits: true),
    Bounds(name: "2+2 waiting", programs: [writes(2), writes(2)], waits: true, isCoarse: true),
    Bounds(
      name: "1+3 waiting", programs: [writes(1), writes(3)], entries: 3, size: 2, waits: true,
      isCoarse: true),
    Bounds(
      name: "1+1+1 waiting", programs: [writes(1), writes(1), writes(1)], waits: true,
      isCoarse: true),
    Bounds(name: "3 waiting closed", programs: [writes(3), [.close]], kills: 0, waits: true),
  ]

  /// One leaves its records open, and goes on.
  private static let holding = [
    Bounds(
      name: "3 left", programs: [[.leave, .leave, .leave]], overwrites: true, isBounded: true,
      subbufs: 3, entries: 3, size: 2, kills: 0),
    Bounds(
      name: "3 left+3", programs: [[.leave, .leave, .leave], writes(3)], overwrites: true,
      isBounded: true, subbufs: 3, entries: 3, size: 2, kills: 0, isCoarse: true),
    Bounds(
      name: "2 left+3 passed", programs: [[.leave, .leave], writes(3)], isBounded: true,
      subbufs: 3, entries: 3, size: 2, kills: 0, passes: 2, isCoarse: true),
  ]

  /// There is always room, whatever the reader has pinned and wherever another writer stands still.
  private static let neverRefusing = [
    Bounds(name: "6 N=3", programs: [writes(6)], overwrites: true, subbufs: 3, kills: 0),
    Bounds(name: "7 N=5", programs: [writes(7)], overwrites: true, subbufs: 5, kills: 0),
    Bounds(
      name: "1+5 N=4", programs: [writes(1), writes(5)], overwrites: true, subbufs: 4, kills: 0,
      isCoarse: true,
      stops: [
        Stop(writer: 1, operation: 3, step: .start), Stop(writer: 0, operation: 1, step: .copy),
      ]),
    Bounds(
      name: "1+5 N=4 claimed", programs: [writes(1), writes(5)], overwrites: true, subbufs: 4,
      kills: 0, isCoarse: true,
      stops: [
        Stop(writer: 1, operation: 5, step: .start), Stop(writer: 0, operation: 1, step: .publish),
      ]),
    Bounds(
      name: "2+4 N=4", programs: [writes(2), writes(4)], overwrites: true, subbufs: 4, kills: 0,
      isCoarse: true,
      stops: [
        Stop(writer: 1, operation: 4, step: .start), Stop(writer: 0, operation: 1, step: .copy),
      ]),
    Bounds(
      name: "1+6 N=5", programs: [writes(1), writes(6)], overwrites: true, subbufs: 5, kills: 0,
      isCoarse: true,
      stops: [
        Stop(writer: 1, operation: 4, step: .start), Stop(writer: 0, operation: 1, step: .copy),
      ]),
  ]

  /// The lap comes round.
  private static let wrapping = [
    Bounds(
      name: "5 w=1", programs: [writes(5)], overwrites: true, entries: 3, size: 2, lapBits: 1,
      hintBits: 1),
    Bounds(
      name: "2+2 w=2", programs: [writes(2), writes(2)], overwrites: true, lapBits: 2,
      hintBits: 1, isCoarse: true),
    Bounds(name: "1+4 w=2", programs: [writes(1), writes(4)], lapBits: 2, isCoarse: true),
    // The first slept since the first lap.
    Bounds(
      name: "1+5 w=3", programs: [writes(1), writes(5)], lapBits: 3, kills: 0, isCoarse: true,
      stops: [Stop(writer: 0, operation: 1, step: .reserve)]),
  ]
}

extension Rule {
  /// The name of the world in which it is broken.
  var world: String {
    switch self {
    case .zeroIsASubbuf, .committedBeforeCopied, .noSeal, .noGiveBack, .lateRecordBase,
      .pinsDropped, .filledBlindly, .unpinsBeforeSending, .sweepOfTheLiving, .busyNotSwept,
      .claimNotOpened, .claimNotFreed, .claimNotSearched:
      "1+1"
    case .claimsPinned, .claimsCurrent, .leavesCurrent, .consumesFailedReply,
      .descriptorsBeforeCurrent, .jumpsAhead:
      "4 overwriting"
    case .refusesAtFirstLook: "6 N=3"
    case .pinsOneMore: "1+6 N=5"
    case .recordInLastEntry: "3 S=2"
    case .hintTrusted: "mixed"
    case .noRereadBeforeReserving, .noRereadBeforeSeal, .inexactSwap: "1+3"
    case .leftUnopened, .noBusyScan: "2+2 overwriting"
    case .noLookBeforeClaim, .freesDespiteBusy, .freesUnwalked: "1+2 reset"
    case .noReclaim, .claimLeavesUnfreed: "2 reset"
    case .pinsOutliveReader: "2 restarted"
    case .quarantineEndsSearch: "1+3 N=3"
    case .statesRecur: "1+2+2"
    case .unboundFlush: "2 flushed"
    case .openNotNoted, .namedLate, .hintsGoodWhileNamed: "3 left+3"
    case .closeWithoutSeal, .endBeforeSeal: "2 closed"
    case .sleepsWithoutLooking, .sweepWakesNobody: "3 asleep"
    case .wishTakenWithLook, .lookClearTakesWish, .armDropsLook, .disarmDropsLook,
      .sweepDropsLook:
      "3 looking"
    case .waitsWithoutLooking, .freeWakesNobody: "4 waiting"
    case .switchWakesNobody: "1+3 waiting"
    case .closeWakesNobody: "3 waiting closed"
    case .noWrapClearing, .unpreparedUnmarked: "5 w=1"
    case .clearedToZero: "1+4 w=2"
    case .fewLapBits: "1+5 w=3"
    }
  }
}
