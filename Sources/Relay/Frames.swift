// SPDX-License-Identifier: Apache-2.0
// Reading whole records: each with its number, its length and its time, and every loss at its
// place. What a frame looks like is in relay_ioctl.h.

internal import CRelayIoctl
internal import Glibc
internal import Synchronization

extension Reader {
  /// Room for the frame of a loss, and with that for a piece of any record.
  public static let smallestFrames = MemoryLayout<relay_frame>.size + shortLoss

  /// Of a `relay_loss`, as releases had it that did not number losses.
  static let shortLoss = MemoryLayout<relay_loss>.offset(of: \.full_before)!

  /// Copies as many whole frames as fit and are there, and claims what is in them; returns their
  /// bytes, of which every frame begins at a multiple of 8. 0: there are none, and then nothing has
  /// to be given back. A record is cut only where it comes first and does not fit by itself; the
  /// rest comes first next time.
  /// - Precondition: `bytes` has room for `smallestFrames` and is aligned to 8.
  public func claimFrames(into bytes: UnsafeMutableRawBufferPointer) -> Int {
    precondition(bytes.count >= Reader.smallestFrames)
    var output = Frames(bytes)
    claimInRounds {
      beginClaim()
      planFrames(&output)
      if output.used == 0 { passNothing() }
      return output.used > 0
    }
    return output.used
  }

  /// Whether a read would return at least one frame now.
  public var hasFrames: Bool {
    withUnsafeTemporaryAllocation(byteCount: Reader.smallestFrames, alignment: 8) {
      guard claimFrames(into: $0) > 0 else { return false }
      giveBack()
      return true
    }
  }

  private func planFrames(_ output: inout Frames) {
    plan.isFramed = true
    if !rest.isEmpty {
      let header = relay_frame(
        restRecord, offset: restRecord.length - rest.count,
        length: min(rest.count, output.payloadRoom))
      plan.restTaken = Int(header.length)
      plan.bytes = plan.restTaken
      output.put(header, UnsafeRawPointer(rest.baseAddress!))
    }
    guard plan.restTaken == rest.count, !isCorrupt else { return }
    while pinCount < pinLimit, enterSubbuf(), walk(&output) {}
    // Losses are told though nothing may come behind them.
    _ = putLoss(&output)
  }

  /// As `walk` for bytes.
  private func walk(_ output: inout Frames) -> Bool {
    let subbuf = pinned[pinCount - 1].subbuf
    let payload = UnsafeRawPointer(buffer.payload(subbuf))
    while true {
      switch nextRecord(subbuf) {
      case .record(let entry):
        guard putLoss(&output), putRecord(&output, payload, entry) else { return false }
      case .left: return true
      case .seal:
        noteLastLosses()
        return false
      case .nothing: return false
      }
    }
  }

  /// False: there is no room for it, or not for its end.
  private func putRecord(
    _ output: inout Frames, _ payload: UnsafeRawPointer, _ entry: Entry
  ) -> Bool {
    let position = plan.position
    let left = entry.end - position.offset
    let take = min(left, output.payloadRoom)
    guard take == left || output.used == 0 else { return false }
    let record = CutRecord(
      number: position.record, length: left + position.skipped,
      time: recordTime(subbuf: position.subbuf, entry: position.entry))
    output.put(
      relay_frame(record, offset: position.skipped, length: take), payload + position.offset)
    plan.bytes += take
    guard take == left else {
      cut(payload, entry, take: take)
      return false
    }
    plan.position.advance(by: 1, to: entry.end)
    plan.totals.records &+= 1
    return true
  }

  /// False: there is no room for it.
  private func putLoss(_ output: inout Frames) -> Bool {
    guard !plan.gap.isEmpty else { return true }
    var loss = relay_loss(plan.gap)
    // All losses found so far, without those that this frame reports.
    loss.full_before = plan.position.lostBase &- plan.gap.full
    loss.restart_before = totals.restart &+ plan.totals.restart &- plan.gap.restart
    var header = relay_frame(CutRecord(number: plan.position.record), offset: 0, length: 0)
    header.type = UInt32(RELAY_FRAME_LOST)
    header.length = UInt32(MemoryLayout<relay_loss>.size)
    if output.used == 0, output.payloadRoom < Int(header.length) {
      header.length = UInt32(Reader.shortLoss)
    }
    guard output.payloadRoom >= Int(header.length) else { return false }
    output.put(header, &loss)
    plan.gap = Gap()
    plan.tellsLoss = true
    return true
  }

  /// Losses are told where the next sub-buffer begins; behind the last one of a closed channel,
  /// here.
  private func noteLastLosses() {
    let current = buffer.loadCurrent()
    guard current.isClosed, current.seq == plan.position.seq else { return }
    // Relaxed: it grows only before the close, which the load above acquired.
    let lost = buffer.lostFull.pointee.load(ordering: .relaxed)
    plan.gap.full &+= lost.less(plan.position.lostBase)
    plan.position.lostBase = max(lost, plan.position.lostBase)
  }
}

/// Where frames are put, one behind the other.
private struct Frames {
  private let bytes: UnsafeMutableRawBufferPointer
  private(set) var used = 0

  init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

  /// A multiple of 8 as `used` is, so that what fits does so with its padding.
  var payloadRoom: Int { bytes.count & ~7 - used - MemoryLayout<relay_frame>.size }

  /// - Precondition: `payloadRoom` is not less than the header's length.
  mutating func put(_ header: relay_frame, _ payload: UnsafeRawPointer) {
    let length = Int(header.length)
    let padding = -length & 7
    let start = bytes.baseAddress! + used
    start.storeBytes(of: header, as: relay_frame.self)
    let body = start + MemoryLayout<relay_frame>.size
    body.copyMemory(from: payload, byteCount: length)
    // What stood there may be another channel's.
    memset(body + length, 0, padding)
    used += MemoryLayout<relay_frame>.size + length + padding
  }
}

extension relay_frame {
  /// Of a record.
  fileprivate init(_ record: Reader.CutRecord, offset: Int, length: Int) {
    self.init(
      size: UInt32(MemoryLayout<relay_frame>.size), type: UInt32(RELAY_FRAME_RECORD),
      sequence: record.number, time: record.time, length: UInt32(length), offset: UInt32(offset),
      record_length: UInt32(record.length), reserved: 0)
  }
}

extension relay_loss {
  fileprivate init(_ gap: Gap) {
    self.init(
      overwritten: gap.overwritten, full: gap.full, stalled: gap.stalled, restart: gap.restart,
      full_before: 0, restart_before: 0)
  }
}
