// SPDX-License-Identifier: Apache-2.0
// Reading one record at a time, with what is known about it. For channels in this process.

internal import Glibc
internal import Synchronization

/// What a reader knows about a record beside its bytes.
public struct RecordInfo: Equatable, Sendable {
  /// Its number in its buffer, counting from 0 everything that was reserved there; what is missing
  /// between two records was lost, cancelled or aborted. Never goes back.
  public var sequence: UInt64
  /// When it was reserved, in nanoseconds of CLOCK_MONOTONIC; 0 where the channel's records carry
  /// no time.
  public var time: UInt64
  public var byteCount: Int
  /// Records lost right before it.
  public var lostBefore: Gap
}

public enum RecordResult: Equatable, Sendable {
  case record(RecordInfo)
  /// Nothing now.
  case none
  /// The channel is closed, and this was all.
  case end
  /// The next record has so many bytes, and the target fewer; nothing was consumed.
  case tooLong(Int)
  /// Another process damaged the shared memory; nothing more is read.
  case corrupt
}

extension Reader {
  /// Copies the next record and consumes it; an empty one is a record, too. If a read took the
  /// beginning of a record, its rest comes first, with that record's number.
  ///
  /// From the first call on, `hasData` and all that builds on it take an empty record for data,
  /// which a read passes.
  public func readRecord(into target: UnsafeMutableRawBufferPointer) -> RecordResult {
    isRecordwise = true
    if !rest.isEmpty { return readRest(into: target) }
    guard let entry = claimRecord() else {
      return isCorrupt ? .corrupt : isDrained ? .end : .none
    }
    let position = plan.position
    let count = entry.end - position.offset
    guard count <= target.count else {
      giveBack()
      return .tooLong(count)
    }
    let info = RecordInfo(
      sequence: position.record, time: recordTime(subbuf: position.subbuf, entry: position.entry),
      byteCount: count, lostBefore: plan.gap)
    if count > 0 {
      target.baseAddress!.copyMemory(
        from: buffer.payload(position.subbuf) + position.offset, byteCount: count)
    }
    plan.position.advance(by: 1, to: entry.end)
    plan.totals.records &+= 1
    plan.bytes = count
    // Told, also if there were no bytes behind it.
    plan.gap = Gap()
    consume()
    return .record(info)
  }

  private func readRest(into target: UnsafeMutableRawBufferPointer) -> RecordResult {
    let count = rest.count
    guard count <= target.count else { return .tooLong(count) }
    var info = RecordInfo(
      sequence: restRecord.number, time: restRecord.time, byteCount: count, lostBefore: Gap())
    let claim = claim(limit: count)
    info.lostBefore = claim.lostBefore
    target.baseAddress!.copyMemory(from: claim.vectors[0].iov_base, byteCount: count)
    consume()
    return .record(info)
  }

  /// Whether `readRecord` would return a record.
  var hasRecord: Bool {
    guard rest.isEmpty else { return true }
    guard claimRecord() != nil else { return false }
    giveBack()
    return true
  }

  /// A claim that ends before the next record, which is pinned; nil, and no claim: there is none.
  private func claimRecord() -> Entry? {
    var found: Entry?
    claimInRounds {
      beginClaim()
      found = findRecord()
      if found == nil { passNothing() }
      return found != nil
    }
    return found
  }

  /// Moves the plan to the next committed entry.
  private func findRecord() -> Entry? {
    while !isCorrupt, pinCount < pinLimit, enterSubbuf() {
      switch nextRecord(pinned[pinCount - 1].subbuf) {
      case .record(let entry): return entry
      case .left: continue
      case .nothing, .seal: return nil
      }
    }
    return nil
  }
}

extension Reader {
  /// What comes next in a sub-buffer.
  enum Next {
    case record(Entry)
    /// Nothing more: the next sub-buffer is there.
    case left
    /// Nothing more, and no next one yet.
    case seal
    case nothing
  }

  /// Passes what is no record, up to the next committed entry of the last sub-buffer pinned.
  func nextRecord(_ subbuf: Int) -> Next {
    let index = buffer.index(subbuf)
    plan.position.subbuf = subbuf
    while plan.position.entry < buffer.layout.entryCount {
      guard walkLeft > 0 else { return .nothing }
      let position = plan.position
      let entry = buffer.loadEntry(index, position.entry)
      if entry.isEmpty(position.seq) || entry.isBusy && !mayPassBusy(subbuf) { return .nothing }
      // Checked before use: another process can write anything here.
      guard entry.end >= position.offset, entry.end <= buffer.layout.subbufSize else { break }
      switch entry.tag {
      case .committed: return .record(entry)
      case .cancelled, .discarded:
        passDead(subbuf, entry)
      case .busy: passBusy(subbuf, entry)
      case .seal: return finish() ? .left : .seal
      default:
        markCorrupt()
        return .nothing
      }
    }
    markCorrupt()
    return .nothing
  }
}
