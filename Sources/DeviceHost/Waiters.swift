// SPDX-License-Identifier: Apache-2.0
// The polls and reads that are put aside at one device: which there are, and whose turn it is.

internal import LinuxIO

/// A poll or a read that is put aside.
struct Waiter {
  /// What it waits for. Those of one shared kind find the same.
  enum Kind: Int {
    /// Bytes, or whole records, at the cursor that files share.
    case bytes, frames
    /// What its own cursor comes to.
    case own

    static let shared = [Kind.bytes, .frames]
  }

  let file: Device.OpenFile
  /// As its file was when it was put aside.
  let kind: Kind
  /// A read's; nil: a poll.
  let request: OpaquePointer?
  let size: Int
  /// What the read is answered when there is nothing, 0 or an errno value; nil: it waits.
  let ifNothing: CInt?

  /// A poll.
  init(_ file: Device.OpenFile) { self.init(file, nil, size: 0, ifNothing: nil) }

  init(_ file: Device.OpenFile, _ request: OpaquePointer?, size: Int, ifNothing: CInt?) {
    self.file = file
    kind = file.kind
    self.request = request
    self.size = size
    self.ifNothing = ifNothing
  }
}

/// All of one device. Reads at the shared cursor are answered in their order. Of all others each is
/// looked at by itself, in rounds, of which one turn of the thread makes a part.
struct Waiters {
  /// What is known of a kind since its reads were tried.
  enum Finding {
    case nothing
    /// Not all of them could be tried, or what is there was not walked to its end.
    case notKnown
  }

  /// Reads at the shared cursor, first come, first served.
  private(set) var reads: [Waiter] = []
  /// Others: those that were looked at in this round, and those that were not.
  private var seen: [Waiter] = []
  private var unseen: ArraySlice<Waiter> = []
  /// Another round is to follow.
  var wantsRound = false
  private var findings: InlineArray<3, Finding> = [.nothing, .nothing, .nothing]
  private var counts: InlineArray<3, Int> = [0, 0, 0]
  private var readCounts: InlineArray<3, Int> = [0, 0, 0]
  /// Shared reads that do not wait for more, but for the end of the walk.
  private(set) var impatientReads = 0
  private var use = ShareUse()

  /// Reads that may wait for one buffer.
  private static let limit = Share(of: 4096, perUser: nil)

  /// Whether a read of that user may wait, too.
  func mayTakeRead(of uid: UInt32) -> Bool { use.shortage(of: Waiters.limit, uid) == nil }

  var isEmpty: Bool { reads.isEmpty && seen.isEmpty && unseen.isEmpty }

  func count(_ kind: Waiter.Kind) -> Int { counts[kind.rawValue] }
  func readCount(_ kind: Waiter.Kind) -> Int { readCounts[kind.rawValue] }

  /// - Parameter isSeen: it was found to have nothing just now.
  mutating func add(_ waiter: Waiter, isSeen: Bool) {
    note(waiter, 1)
    if waiter.request != nil, waiter.kind != .own {
      reads.append(waiter)
    } else if isSeen {
      seen.append(waiter)
    } else {
      unseen.append(waiter)
    }
  }

  private mutating func note(_ waiter: Waiter, _ count: Int) {
    counts[waiter.kind.rawValue] += count
    waiter.file.waiterCount += count
    guard waiter.request != nil else { return }
    readCounts[waiter.kind.rawValue] += count
    if waiter.kind != .own, waiter.ifNothing != nil { impatientReads += count }
    use.change(waiter.file.uid, by: count)
  }

  /// Takes those out of which it is so.
  mutating func remove(where isMeant: (Waiter) -> Bool) -> [Waiter] {
    var removed: [Waiter] = []
    func isKept(_ waiter: Waiter) -> Bool {
      guard isMeant(waiter) else { return true }
      removed.append(waiter)
      return false
    }
    reads = reads.filter(isKept)
    seen = seen.filter(isKept)
    unseen = unseen.filter(isKept)[...]
    for waiter in removed { note(waiter, -1) }
    return removed
  }

  mutating func remove(_ file: Device.OpenFile) -> [Waiter] {
    file.waiterCount == 0 ? [] : remove { $0.file === file }
  }

  /// Takes a read out. False: it is not here.
  mutating func remove(_ request: OpaquePointer) -> Bool {
    if let index = reads.firstIndex(where: { $0.request == request }) {
      note(reads.remove(at: index), -1)
    } else if let index = seen.firstIndex(where: { $0.request == request }) {
      note(seen.remove(at: index), -1)
    } else if let index = unseen.firstIndex(where: { $0.request == request }) {
      note(unseen.remove(at: index), -1)
    } else {
      return false
    }
    return true
  }
}

// One round.
extension Waiters {
  var isInRound: Bool { !unseen.isEmpty }

  mutating func beginRound() {
    wantsRound = false
    unseen += seen
    seen = []
  }

  /// Whose turn it is; nil: the round is over.
  var next: Waiter? { unseen.first }

  /// It was looked at.
  mutating func passNext(isDone: Bool) {
    let waiter = unseen.removeFirst()
    // Its memory, too.
    if unseen.isEmpty { unseen = [] }
    if isDone { note(waiter, -1) } else { seen.append(waiter) }
  }
}

// The reads in their order.
extension Waiters {
  /// What became of the first of them when they were tried, one after the other.
  struct Trial {
    fileprivate var kept: [Waiter] = []
    fileprivate var answered: [Waiter] = []
    fileprivate var findings: InlineArray<3, Finding?> = [nil, nil, nil]

    /// Its number among the reads.
    var next: Int { kept.count + answered.count }

    /// What an earlier one of the kind found, which the others of it wait behind.
    func finding(_ kind: Waiter.Kind) -> Finding? { findings[kind.rawValue] }

    /// - Parameter finding: what was found instead of an answer; nil: it was answered.
    mutating func note(_ read: Waiter, _ finding: Finding?) {
      if let finding {
        kept.append(read)
        findings[read.kind.rawValue] = finding
      } else {
        answered.append(read)
      }
    }
  }

  /// Whether all others wait behind one of their kind that found no answer.
  func isOver(_ trial: Trial) -> Bool {
    impatientReads == 0
      && Waiter.Kind.shared.allSatisfy { trial.finding($0) != nil || readCount($0) == 0 }
  }

  mutating func end(_ trial: Trial) {
    if !trial.answered.isEmpty {
      reads = trial.kept + reads[trial.next...]
      for read in trial.answered { note(read, -1) }
    }
    for kind in Waiter.Kind.shared {
      findings[kind.rawValue] = trial.finding(kind) ?? .notKnown
    }
  }

  /// There is nothing for those that wait now, or not in the way in which they wait.
  mutating func noteNothing() { findings = [.nothing, .nothing, .nothing] }

  /// Whether reads of a kind have to be tried again, though nothing new may come.
  func isUndecided(_ kind: Waiter.Kind) -> Bool {
    readCount(kind) > 0 && findings[kind.rawValue] == .notKnown
  }
}
