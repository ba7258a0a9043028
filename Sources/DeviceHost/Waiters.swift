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
  /// A read with a cursor of its own whose walk goes on. It gets what a new read would get, not
  /// only what a poll would be told of.
  var isUndecided = false

  /// A poll.
  init(_ file: Device.OpenFile) { self.init(file, nil, size: 0, ifNothing: nil) }

  init(_ file: Device.OpenFile, _ request: OpaquePointer?, size: Int, ifNothing: CInt?) {
    self.file = file
    kind = file.kind
    self.request = request
    self.size = size
    self.ifNothing = ifNothing
  }

  fileprivate var isSharedRead: Bool { request != nil && kind != .own }
  /// It waits for records, not only for the end of the walk.
  fileprivate var isPatientRead: Bool { request != nil && ifNothing == nil }
}

/// All of one device. Reads at the shared cursor are answered in their order. Of all others each is
/// looked at by itself, in rounds, of which one turn of the thread makes a part: first those with
/// cursors of their own, since what the shared reads consume is gone for them. A round is for those
/// that wait when it begins, so that the shared reads come in each.
struct Waiters {
  /// What is known of a kind since its reads were tried.
  enum Finding {
    /// A look found nothing for these reads; with wakeup = subbuffer, no finished sub-buffer.
    case nothing
    /// Not all of them could be tried, or what is there was not walked to its end. They get what a
    /// new read would get.
    case notKnown
  }

  /// Reads at the shared cursor, first come, first served.
  private(set) var reads: [Waiter] = []
  /// Others: those that were looked at in this round, and those that were not.
  private var seen: [Waiter] = []
  private var unseen: ArraySlice<Waiter> = []
  /// Another round is to follow.
  var wantsRound = false
  private(set) var isInRound = false
  private var findings: InlineArray<3, Finding> = [.nothing, .nothing, .nothing]
  private var counts: InlineArray<3, Int> = [0, 0, 0]
  private var readCounts: InlineArray<3, Int> = [0, 0, 0]
  /// Shared reads that do not wait for more, but for the end of the walk.
  private(set) var impatientReads = 0
  private var use = ShareUse()

  /// Reads that may wait for records of one buffer.
  private static let limit = Share(of: 4096, perUser: nil)

  /// Whether a read of that user may wait, too.
  func mayTakeRead(of uid: UInt32) -> Bool { use.shortage(of: Waiters.limit, uid) == nil }

  var isEmpty: Bool { reads.isEmpty && seen.isEmpty && unseen.isEmpty }

  func count(_ kind: Waiter.Kind) -> Int { counts[kind.rawValue] }
  func readCount(_ kind: Waiter.Kind) -> Int { readCounts[kind.rawValue] }

  /// - Parameter isSeen: it was found to have nothing just now.
  mutating func add(_ waiter: Waiter, isSeen: Bool) {
    if waiter.isSharedRead {
      if !isSeen {
        findings[waiter.kind.rawValue] = .notKnown
      } else if readCount(waiter.kind) == 0 {
        findings[waiter.kind.rawValue] = .nothing
      }
      reads.append(waiter)
    } else {
      var waiter = waiter
      waiter.isUndecided = !isSeen
      seen.append(waiter)
      if !isSeen { wantsRound = true }
    }
    note(waiter, 1)
  }

  /// After its file's cursor or form of reading changed: all that wait through it are looked at
  /// again. A shared read that stays one keeps its place.
  mutating func renew(_ file: Device.OpenFile) {
    guard file.waiterCount > 0 else { return }
    let blocks = file.device.blocks(file)
    var renewed: [(old: Waiter, new: Waiter)] = []
    var moved: [Waiter] = []
    func renewal(_ old: Waiter) -> Waiter? {
      guard old.file === file else { return old }
      var new = Waiter(
        file, old.request, size: old.size, ifNothing: blocks ? old.ifNothing : 0)
      new.isUndecided = true
      renewed.append((old, new))
      if old.isSharedRead == new.isSharedRead { return new }
      moved.append(new)
      return nil
    }
    reads = reads.compactMap(renewal)
    seen = seen.compactMap(renewal)
    unseen = unseen.compactMap(renewal)[...]
    for (old, new) in renewed {
      note(old, -1)
      note(new, 1)
      if new.isSharedRead { findings[new.kind.rawValue] = .notKnown }
    }
    for waiter in moved {
      note(waiter, -1)
      add(waiter, isSeen: false)
    }
    wantsRound = true
  }

  private mutating func note(_ waiter: Waiter, _ count: Int) {
    counts[waiter.kind.rawValue] += count
    waiter.file.waiterCount += count
    guard waiter.request != nil else { return }
    readCounts[waiter.kind.rawValue] += count
    if waiter.kind != .own, waiter.ifNothing != nil { impatientReads += count }
    if waiter.isPatientRead { use.change(waiter.file.uid, by: count) }
  }

  /// Removes and returns the waiters for which `isMeant` is true.
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
  mutating func beginRound() {
    wantsRound = false
    isInRound = true
    unseen = (seen.filter { $0.kind == .own } + seen.filter { $0.kind != .own })[...]
    seen = []
  }

  /// Once the shared reads were tried, too.
  mutating func endRoundIfAllSeen() { if unseen.isEmpty { isInRound = false } }

  /// The one to look at next; nil: all were looked at.
  var next: Waiter? { unseen.first }
  var isNextOwn: Bool { next?.kind == .own }

  /// It was looked at.
  /// - Parameter finding: what was found instead of an answer; nil: it was answered.
  mutating func passNext(_ finding: Finding?) {
    var waiter = unseen.removeFirst()
    // Releases the array that the empty slice still keeps.
    if unseen.isEmpty { unseen = [] }
    guard let finding else { return note(waiter, -1) }
    waiter.isUndecided = finding == .notKnown
    seen.append(waiter)
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

  /// - Parameter isWhole: it did not end for lack of effort.
  mutating func end(_ trial: Trial, isWhole: Bool) {
    if !trial.answered.isEmpty {
      reads = trial.kept + reads[trial.next...]
      for read in trial.answered { note(read, -1) }
    }
    // Some of those not tried may be answered whatever the others of their kind found.
    for kind in Waiter.Kind.shared {
      findings[kind.rawValue] = isWhole ? trial.finding(kind) ?? .nothing : .notKnown
    }
  }

  /// Whether reads of a kind have to be tried again, though nothing new may come.
  func isUndecided(_ kind: Waiter.Kind) -> Bool {
    readCount(kind) > 0 && findings[kind.rawValue] == .notKnown
  }
}
