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

extension Reader {
  /// Remembers where it is and what it counted, before anything it passed is given up.
  func save() {
    guard let store else { return }
    generation &+= 1
    var v = ReaderStore.Values(repeating: 0)
    v[0] = position.seq
    v[1] = UInt64(position.subbuf)
    v[2] = UInt64(position.entry)
    v[3] = UInt64(position.offset)
    v[4] = position.record
    v[5] = position.lostBase
    v[6] = (position.walkedFromStart ? 1 : 0) | (mayReclaim ? 2 : 0) | UInt64(restArea) << 2
    v[7] = UInt64(rest.count == 0 ? 0 : rest.baseAddress! - store.area(restArea))
    v[8] = UInt64(rest.count)
    v[9] = pendingGap.overwritten
    v[10] = pendingGap.full
    v[11] = pendingGap.stalled
    v[12] = totals.records
    v[13] = totals.dead
    v[14] = totals.stalled
    v[15] = totals.bytes
    v[16] = totals.padding
    v[17] = totals.subbufs
    v[18] = origin.records
    v[19] = origin.bytes
    v[20] = origin.seq
    v[21] = origin.padding
    v[22] = origin.counters.full
    v[23] = origin.counters.tooBig
    v[24] = origin.counters.aborted
    v[25] = origin.counters.cancelled
    v[26] = origin.counters.corrupt
    v[27] = pendingGap.restart
    v[28] = totals.restart
    v[29] = origin.counters.restart
    v[30] = restRecord.number
    v[31] = UInt64(restRecord.length)
    v[32] = restRecord.time
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
    let area = Int(v[6] >> 2 & 1)
    let current = buffer.loadCurrent()
    guard v[0] >= 1, v[0] <= max(current.seq, 1), v[1] < layout.subbufCount,
      v[2] < layout.entryCount, v[3] <= layout.subbufSize, v[7] <= layout.subbufSize,
      v[8] <= UInt64(layout.subbufSize) - v[7], v[31] <= layout.subbufSize,
      v[8] <= v[31]
    else { throw .untrusted("its reader's position is not in the channel") }
    self.generation = generation
    position = Position(
      seq: v[0], subbuf: Int(v[1]), entry: Int(v[2]), offset: Int(v[3]), record: v[4],
      lostBase: v[5], walkedFromStart: v[6] & 1 != 0)
    restArea = area
    rest = UnsafeMutableRawBufferPointer(start: store.area(area) + Int(v[7]), count: Int(v[8]))
    restRecord = CutRecord(number: v[30], length: Int(v[31]), time: v[32])
    pendingGap.overwritten = v[9]
    pendingGap.full = v[10]
    pendingGap.stalled = v[11]
    totals = Totals(
      records: v[12], dead: v[13], stalled: v[14], bytes: v[15], padding: v[16], subbufs: v[17])
    origin = Origin(records: v[18], bytes: v[19], seq: v[20], padding: v[21])
    origin.counters.full = v[22]
    origin.counters.tooBig = v[23]
    origin.counters.aborted = v[24]
    origin.counters.cancelled = v[25]
    origin.counters.corrupt = v[26]
    pendingGap.restart = v[27]
    totals.restart = v[28]
    origin.counters.restart = v[29]
    // What was passed and not given up yet.
    mayReclaim = true
  }
}
