// SPDX-License-Identifier: Apache-2.0
// What a reader has to remember when its process dies: kept beside the geometry, in a file that
// producers cannot write. Whoever adopts the channel reads it as untrusted.

internal import Synchronization

/// The place of one reader's state: two copies, of which one is always whole, and two areas for the
/// rest of a record that was cut.
package struct ReaderStore {
  /// One copy: generation, checksum, and the words between.
  static let copyWords = 40
  static let bytes = 2 * copyWords * 8
  package static let words = copyWords - 2
  package typealias Values = InlineArray<38, UInt64>

  /// What each word is.
  enum Field: Int {
    case seq, subbuf, entry, offset, record, lostBase
    /// Bit 0: walked from the start, 1: may reclaim, 2: the area of the rest.
    case flags
    case restOffset, restCount
    case pendingOverwritten, pendingFull, pendingStalled
    case records, dead, stalled, bytes, padding, subbufs
    case originRecords, originBytes, originSeq, originPadding
    case originFull, originTooBig, originAborted, originCancelled, originCorrupt
    case pendingRestart, restart, originRestart
    case restRecord, restRecordLength, restRecordTime
    /// 0 also where a release that did not know it stored the rest: noted from then on.
    case backlogMax
    /// What of a loss was counted when the daemon ended; both 0: nothing.
    case countedUnread, countedUntold
  }

  private let base: SharedWord
  private let areas: UnsafeMutableRawPointer
  private let areaBytes: Int

  init(_ base: UnsafeMutableRawPointer, areas: UnsafeMutableRawPointer, areaBytes: Int) {
    self.base = SharedWord(base.assumingMemoryBound(to: Atomic<UInt64>.self))
    self.areas = areas
    self.areaBytes = areaBytes
  }

  func word(_ index: Int) -> SharedWord { base + index }

  func area(_ index: Int) -> UnsafeMutableRawPointer { areas + index * areaBytes }

  /// - Parameter generation: one more than at the last save; decides which copy it is.
  package func save(_ values: Values, generation: UInt64) {
    let copy = base + Int(generation & 1) * ReaderStore.copyWords
    // Sequentially consistent: no word below is stored before the old copy is invalid.
    copy.pointee.store(0, ordering: .sequentiallyConsistent)
    for i in 0..<ReaderStore.words {
      // Relaxed: the release below publishes them, to who looks after our death.
      (copy + 2 + i).pointee.store(values[i], ordering: .relaxed)
    }
    let sum = ReaderStore.checksum(values, generation)
    // Relaxed: as the words.
    (copy + 1).pointee.store(sum, ordering: .relaxed)
    // Release: pairs with the load in `newest`.
    copy.pointee.store(generation, ordering: .releasing)
  }

  /// The newest, if one is whole.
  package var latest: Values? { (try? newest())??.values }

  /// The newest whole copy; nil where none was ever saved.
  /// - Throws: `ChannelError.untrusted` where there are only damaged ones.
  func newest() throws(ChannelError) -> (values: Values, generation: UInt64)? {
    var newest: (values: Values, generation: UInt64)?
    var isDamaged = false
    for index in 0..<2 {
      let copy = base + index * ReaderStore.copyWords
      // Acquire: pairs with the release in `save`.
      let generation = copy.pointee.load(ordering: .acquiring)
      var values = Values(repeating: 0)
      for i in 0..<ReaderStore.words {
        // Relaxed: after the acquire above.
        values[i] = (copy + 2 + i).pointee.load(ordering: .relaxed)
      }
      // Relaxed: as the words.
      let sum = (copy + 1).pointee.load(ordering: .relaxed)
      // 0: never saved, or a save was cut short.
      guard generation != 0 else { continue }
      guard generation & 1 == UInt64(index), sum == ReaderStore.checksum(values, generation) else {
        isDamaged = true
        continue
      }
      if generation > newest?.generation ?? 0 { newest = (values, generation) }
    }
    guard newest != nil || !isDamaged else {
      throw .untrusted("its reader's position is damaged")
    }
    return newest
  }

  private static func checksum(_ values: Values, _ generation: UInt64) -> UInt64 {
    Checksum.of((0..<words).lazy.map { values[$0] }, seed: generation)
  }
}

/// FNV-1a, by words: finds what was damaged, not who did it.
package enum Checksum {
  package static func of(_ words: some Sequence<UInt64>, seed: UInt64 = 0) -> UInt64 {
    var sum: UInt64 = 0xcbf2_9ce4_8422_2325 ^ seed
    for word in words {
      sum ^= word
      sum = sum &* 0x100_0000_01b3
      sum ^= sum >> 29
    }
    return sum
  }
}

extension ReaderStore.Values {
  subscript(field: ReaderStore.Field) -> UInt64 {
    get { self[field.rawValue] }
    set { self[field.rawValue] = newValue }
  }
}

extension Reader {
  /// Remembers where it is and what it counted, before anything it passed is given up.
  func save() {
    guard let store else { return }
    generation &+= 1
    var v = ReaderStore.Values(repeating: 0)
    v[.seq] = position.seq
    v[.subbuf] = UInt64(position.subbuf)
    v[.entry] = UInt64(position.entry)
    v[.offset] = UInt64(position.offset)
    v[.record] = position.record
    v[.lostBase] = position.lostBase
    v[.flags] = (position.walkedFromStart ? 1 : 0) | (mayReclaim ? 2 : 0) | UInt64(restArea) << 2
    v[.restOffset] = UInt64(rest.count == 0 ? 0 : rest.baseAddress! - store.area(restArea))
    v[.restCount] = UInt64(rest.count)
    v[.pendingOverwritten] = pendingGap.overwritten
    v[.pendingFull] = pendingGap.full
    v[.pendingStalled] = pendingGap.stalled
    v[.records] = totals.records
    v[.dead] = totals.dead
    v[.stalled] = totals.stalled
    v[.bytes] = totals.bytes
    v[.padding] = totals.padding
    v[.subbufs] = totals.subbufs
    v[.originRecords] = origin.records
    v[.originBytes] = origin.bytes
    v[.originSeq] = origin.seq
    v[.originPadding] = origin.padding
    v[.originFull] = origin.counters.full
    v[.originTooBig] = origin.counters.tooBig
    v[.originAborted] = origin.counters.aborted
    v[.originCancelled] = origin.counters.cancelled
    v[.originCorrupt] = origin.counters.corrupt
    v[.pendingRestart] = pendingGap.restart
    v[.restart] = totals.restart
    v[.originRestart] = origin.counters.restart
    v[.restRecord] = restRecord.number
    v[.restRecordLength] = UInt64(restRecord.length)
    v[.restRecordTime] = restRecord.time
    v[.backlogMax] = backlogMax
    store.save(v, generation: generation)
    if generation == 1 { channel.noteSaved(cpu: buffer.cpu) }
  }

  /// Goes on where a reader that is gone stopped.
  /// - Throws: `ChannelError.untrusted` where that cannot be.
  func restore() throws(ChannelError) {
    guard let store else { return }
    guard let (v, generation) = try store.newest() else {
      guard !channel.wasSaved(cpu: buffer.cpu) else {
        throw .untrusted("its reader's position is damaged")
      }
      return
    }
    let layout = buffer.layout
    let area = Int(v[.flags] >> 2 & 1)
    let current = buffer.loadCurrent()
    guard v[.seq] >= 1, v[.seq] <= max(current.seq, 1), v[.subbuf] < layout.subbufCount,
      v[.entry] < layout.entryCount, v[.offset] <= layout.subbufSize,
      v[.restOffset] <= layout.subbufSize,
      v[.restCount] <= UInt64(layout.subbufSize) - v[.restOffset],
      v[.restRecordLength] <= layout.subbufSize,
      v[.restCount] <= v[.restRecordLength], v[.backlogMax] <= layout.subbufCount
    else { throw .untrusted("its reader's position is not in the channel") }
    self.generation = generation
    (position, totals, origin) = (v.position, v.totals, v.origin)
    restArea = area
    rest = UnsafeMutableRawBufferPointer(
      start: store.area(area) + Int(v[.restOffset]), count: Int(v[.restCount]))
    restRecord = CutRecord(
      number: v[.restRecord], length: Int(v[.restRecordLength]), time: v[.restRecordTime])
    pendingGap.overwritten = v[.pendingOverwritten]
    pendingGap.full = v[.pendingFull]
    pendingGap.stalled = v[.pendingStalled]
    pendingGap.restart = v[.pendingRestart]
    backlogMax = v[.backlogMax]
    // What was passed and not given up yet.
    mayReclaim = true
  }
}

extension ReaderStore {
  /// What `body` makes of what was saved last; from any thread, while the reader saves again and
  /// again. Where it has meanwhile, what `body` saw in the ring was of another time.
  func withProgress<R>(_ body: (Reader.Progress) -> R) -> R {
    var result: R?
    // A save spoils one copy at a time: two of them within one look are rare, and many in a row
    // are not the reader's doing.
    for _ in 0..<1000 {
      guard case .success(let newest) = look() else { continue }
      result = body(newest?.values.progress ?? Reader.Progress())
      if isNewest(newest?.generation ?? 0) { break }
    }
    return result ?? body(Reader.Progress())
  }

  /// Whether no save after that of `generation` (0: none) was completed.
  private func isNewest(_ generation: UInt64) -> Bool {
    func stored(_ generation: UInt64) -> UInt64 {
      // Acquire: pairs with the release in `save`.
      (base + Int(generation & 1) * ReaderStore.copyWords).pointee.load(ordering: .acquiring)
    }
    // The next one's copy first: 0 is the next save under way, or a later one, and that comes after
    // one in this copy.
    let next = stored(generation &+ 1)
    guard next == 0 || next == generation &- 1 else { return false }
    return stored(generation) == generation
  }

  private func look() -> Result<(values: Values, generation: UInt64)?, ChannelError> {
    do { return .success(try newest()) } catch { return .failure(error) }
  }
}

extension ReaderStore.Values {
  fileprivate var position: Reader.Position {
    Reader.Position(
      seq: self[.seq], subbuf: Int(self[.subbuf]), entry: Int(self[.entry]),
      offset: Int(self[.offset]), record: self[.record], lostBase: self[.lostBase],
      walkedFromStart: self[.flags] & 1 != 0)
  }

  fileprivate var totals: Reader.Totals {
    Reader.Totals(
      records: self[.records], dead: self[.dead], stalled: self[.stalled], bytes: self[.bytes],
      padding: self[.padding], subbufs: self[.subbufs], restart: self[.restart])
  }

  fileprivate var origin: Reader.Origin {
    var origin = Reader.Origin(
      records: self[.originRecords], bytes: self[.originBytes], seq: self[.originSeq],
      padding: self[.originPadding])
    origin.counters.full = self[.originFull]
    origin.counters.tooBig = self[.originTooBig]
    origin.counters.aborted = self[.originAborted]
    origin.counters.cancelled = self[.originCancelled]
    origin.counters.corrupt = self[.originCorrupt]
    origin.counters.restart = self[.originRestart]
    return origin
  }

  fileprivate var progress: Reader.Progress {
    Reader.Progress(
      position: position, totals: totals, origin: origin, backlogMax: self[.backlogMax],
      restBytes: self[.restCount])
  }
}
