// SPDX-License-Identifier: Apache-2.0
// The bound on what one process keeps from the others by records that it never ends: it may hold
// all sub-buffers of a buffer but two. Everything here happens off the fast path, which reads
// nothing for it.
//
// 1. A record that stays open is noted. Whoever reserves right behind a BUSY entry is off the fast
//    path for that reason already, and notes the entry beside the sub-buffer's state; so does who
//    seals it, for the last entry. Four entries that are open at one time are noted, which is more
//    than there are but in a crowd of preempted writers; a fifth is missed.
// 2. Who leaves a sub-buffer in which a noted entry still is BUSY counts the sub-buffers that its
//    owner holds so, and, before it makes the next one current, names the owner in the header if
//    they are all but two.
// 3. While anybody is named there, a hint says that nothing fits behind it: so that every writer
//    takes the slow path, where the one that is named is refused. No good hint is ever stored in a
//    lap that began after the naming.
// 4. Nothing is taken back from the process that is named: it may go on with its open records at
//    any time. Each refusal, and each switch, counts again, and ends the naming where that is due.
//
// So the two that are left go round among the others. Two processes can still hold everything
// together. An earlier library neither notes nor looks, and stores good hints: with one among the
// writers the bound is late by what those let through, and no memory is ever used twice.

internal import CRelayABI
internal import Synchronization

extension ChannelBuffer {
  /// How many sub-buffers one process may hold; with fewer of them a single stopped thread would
  /// keep its process from writing, and more are too many to look at.
  static func heldLimit(_ subbufCount: Int) -> Int? {
    (4...1024).contains(subbufCount) ? subbufCount - 2 : nil
  }

  private var namedOwners: SharedWord { word(184) }
  private func note(_ subbuf: Int, _ i: Int) -> SharedWord {
    word(descriptor(subbuf) &+ 32 &+ i &* 8)
  }
  private static var noteCount: Int { 4 }

  /// The hint behind a record, on the slow path.
  func hint(_ seq: UInt64, count: Int, end: Int) -> Hint {
    // Relaxed: the load of `current` that found this lap acquired what stood here before the lap
    // began (`boundHolders`).
    let isAnyNamed = layout.heldLimit != nil && namedOwners.pointee.load(ordering: .relaxed) != 0
    // Beyond every sub-buffer.
    return Hint(seq: seq, count: count, end: isAnyNamed ? Int(Entry.endMask) : end)
  }

  /// Notes entry `i`, behind which somebody reserves, if it is BUSY.
  func noteIfOpen(_ subbuf: Int, seq: UInt64, entry i: Int) {
    guard layout.heldLimit != nil, loadEntry(index(subbuf), i).isBusy else { return }
    for k in 0..<ChannelBuffer.noteCount {
      let note = note(subbuf, k)
      // Relaxed: the entry that is noted says whether the note holds.
      let noted = HeldNote(raw: note.pointee.load(ordering: .relaxed))
      if noted == HeldNote(seq: seq, entry: i) { return }
      if openOwner(subbuf, seq, noted) != nil { continue }
      // Relaxed: as above. By a swap: who slept since an earlier lap writes over no later note.
      let isNoted = note.pointee.compareExchange(
        expected: noted.raw, desired: HeldNote(seq: seq, entry: i).raw, ordering: .relaxed
      ).exchanged
      if isNoted { return }
    }
  }

  /// Whose record is open where a note says so; nil: nobody's.
  private func openOwner(_ subbuf: Int, _ seq: UInt64, _ note: HeldNote) -> UInt16? {
    guard note.isFor(seq), note.entry < layout.entryCount else { return nil }
    let entry = loadEntry(index(subbuf), note.entry)
    return entry.isBusy ? entry.owner : nil
  }

  /// Whether a process keeps others from a sub-buffer of this lap.
  private func holds(_ owner: UInt16, _ subbuf: Int, _ seq: UInt64) -> Bool {
    (0..<ChannelBuffer.noteCount).contains { k in
      // Relaxed: as in `noteIfOpen`.
      let noted = HeldNote(raw: note(subbuf, k).pointee.load(ordering: .relaxed))
      return openOwner(subbuf, seq, noted) == owner
    }
  }

  private func holdsAllButTwo(_ owner: UInt16, _ limit: Int) -> Bool {
    var count = 0
    for subbuf in 0..<layout.subbufCount {
      let state = loadState(subbuf)
      if state.isHeld, holds(owner, subbuf, state.seq) { count += 1 }
      if count >= limit { return true }
    }
    return false
  }

  /// Before the sub-buffer behind the sealed `current` is made current.
  func boundHolders(leaving current: Current, entries: Int) {
    guard let limit = layout.heldLimit, current.seq != 0 else { return }
    if entries > 0, entries < layout.entryCount {
      noteIfOpen(current.subbuf, seq: current.seq, entry: entries - 1)
    }
    for k in 0..<ChannelBuffer.noteCount {
      // Relaxed: as in `noteIfOpen`.
      let noted = HeldNote(raw: note(current.subbuf, k).pointee.load(ordering: .relaxed))
      guard let owner = openOwner(current.subbuf, current.seq, noted) else { continue }
      // The opener commits in the same call.
      if owner != Channel.openerOwner, holdsAllButTwo(owner, limit) { name(owner) }
    }
    // Relaxed: nothing is published with it.
    var named = NamedOwners(raw: namedOwners.pointee.load(ordering: .relaxed))
    while let owner = named.removeFirst() {
      if !holdsAllButTwo(owner, limit) { unname(owner) }
    }
  }

  /// Whether some process may reserve nothing now.
  public var refusesAProcess: Bool {
    // Relaxed: as in `hint`.
    layout.heldLimit != nil && namedOwners.pointee.load(ordering: .relaxed) != 0
  }

  /// Whether a process may reserve nothing now.
  func isRefused(_ owner: UInt16) -> Bool {
    guard let limit = layout.heldLimit else { return false }
    // Relaxed: as in `hint`.
    let named = NamedOwners(raw: namedOwners.pointee.load(ordering: .relaxed))
    guard named.raw != 0, named.contains(owner) else { return false }
    if holdsAllButTwo(owner, limit) { return true }
    unname(owner)
    return false
  }

  private func name(_ owner: UInt16) { changeNamed { $0.insert(owner) } }

  func unname(_ owner: UInt16) { changeNamed { $0.remove(owner) } }

  private func changeNamed(_ change: (inout NamedOwners) -> Void) {
    // Who loses each time leaves it to the next switch.
    for _ in 0..<ChannelBuffer.stateAttempts {
      // Relaxed: the swap decides.
      let old = NamedOwners(raw: namedOwners.pointee.load(ordering: .relaxed))
      var new = old
      change(&new)
      if new.raw == old.raw { return }
      // Release: with the swap of `current` behind it, pairs with the acquiring loads of that.
      if namedOwners.pointee.compareExchange(
        expected: old.raw, desired: new.raw, ordering: .acquiringAndReleasing
      ).exchanged {
        return
      }
    }
  }
}

/// `descriptor.open`: an entry that was BUSY when the one behind it was reserved; all zero: none.
private struct HeldNote: Equatable {
  let raw: UInt64
  init(raw: UInt64) { self.raw = raw }
  init(seq: UInt64, entry: Int) { raw = seq << 24 | UInt64(truncatingIfNeeded: entry) & 0xff_ffff }
  /// By 40 bits: a note of another lap that agrees in them names an entry that is looked at, too.
  func isFor(_ seq: UInt64) -> Bool { raw != 0 && (raw >> 24 ^ seq) & (1 << 40 - 1) == 0 }
  var entry: Int { Int(raw & 0xff_ffff) }
}

/// `held_owners`: up to four owner ids of 16 bits, 0 for none.
private struct NamedOwners {
  fileprivate(set) var raw: UInt64

  private func lane(_ k: Int) -> UInt16 { UInt16(truncatingIfNeeded: raw >> UInt64(k * 16)) }
  private mutating func set(_ k: Int, _ owner: UInt16) {
    raw = raw & ~(0xffff << UInt64(k * 16)) | UInt64(owner) << UInt64(k * 16)
  }

  func contains(_ owner: UInt16) -> Bool { (0..<4).contains { lane($0) == owner } }

  /// A fifth finds no room.
  mutating func insert(_ owner: UInt16) {
    guard !contains(owner), let k = (0..<4).first(where: { lane($0) == 0 }) else { return }
    set(k, owner)
  }

  mutating func remove(_ owner: UInt16) {
    for k in 0..<4 where lane(k) == owner { set(k, 0) }
  }

  mutating func removeFirst() -> UInt16? {
    guard let k = (0..<4).first(where: { lane($0) != 0 }) else { return nil }
    defer { set(k, 0) }
    return lane(k)
  }
}
