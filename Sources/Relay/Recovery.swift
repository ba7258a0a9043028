// SPDX-License-Identifier: Apache-2.0
// What is done for a producer that died: its unfinished records are discarded, the sub-buffers it
// was switching are put right. Only on proven death: a stopped process may still resume its copy.

internal import Synchronization

extension ChannelBuffer {
  /// Ends everything `owner` left unfinished in this buffer; returns the number of records.
  /// - Parameter finished: what earlier sweeps of the buffer found, by sub-buffer.
  /// - Precondition: no process writes with this owner id any more.
  package func sweep(owner: UInt16, _ finished: inout [FinishedRecords]) -> Int {
    if finished.isEmpty {
      finished = [FinishedRecords](repeating: FinishedRecords(), count: layout.subbufCount)
    }
    var discarded = 0
    for subbuf in 0..<layout.subbufCount {
      settleClaim(subbuf, owner: owner)
      // After the claim is settled: its owner may have written into it.
      discarded += discardBusy(subbuf, owner: owner, &finished[subbuf])
    }
    unname(owner)
    if discarded > 0 { count(aborted, UInt64(discarded)) }
    return discarded
  }

  /// Drops the pins of a reader that died.
  func dropPins() {
    for subbuf in 0..<layout.subbufCount {
      for _ in 0..<ChannelBuffer.stateAttempts {
        let state = loadState(subbuf)
        guard state.isHeld, state.pins > 0 else { break }
        if exchangeState(subbuf, state, state.with(pins: 0)) { break }
      }
    }
  }

  /// CLAIMED by the dead: OPEN if it got as far as making it current, else FREE, with the seq, so
  /// that no state recurs, and with the owner, which says that it may not be prepared.
  private func settleClaim(_ subbuf: Int, owner: UInt16) {
    let state = loadState(subbuf)
    guard state.phase == .claimed, state.owner == owner else { return }
    let current = loadCurrent()
    let isCurrent = current.subbuf == subbuf && current.seq == state.seq
    let settled = SubbufState(
      isCurrent ? .open : .free, seq: state.seq, owner: isCurrent ? 0 : owner)
    // Losing means that a living writer finished it.
    _ = exchangeState(subbuf, state, settled)
  }

  /// BUSY → DISCARDED. Stops at the first entry not used in this lap, so it touches no memory
  /// that writers did not. Begins behind the records that are known to be finished: none of them
  /// becomes BUSY again in its lap, and so the sweeps after many deaths look once at each.
  private func discardBusy(
    _ subbuf: Int, owner: UInt16, _ finished: inout FinishedRecords
  ) -> Int {
    let index = index(subbuf)
    let state = loadState(subbuf)
    guard state.seq != 0, state.phase != .free else { return 0 }
    var discarded = 0
    let first = finished.seq == state.seq ? finished.count : 0
    var firstBusy: Int?
    var end = first
    for i in first..<layout.entryCount {
      end = i
      let entry = loadEntry(index, i)
      if entry.isBusy {
        guard entry.owner == owner else {
          firstBusy = firstBusy ?? i
          continue
        }
        // While it is BUSY the sub-buffer is not recycled, so the state's seq is the entry's lap.
        // Release: pairs with the entry loads of the reader and of the claim scan.
        (index + i).pointee.store(
          Entry(.discarded, seq: loadState(subbuf).seq, end: entry.end).raw, ordering: .releasing)
        discarded += 1
      } else if entry.isEmpty(state.seq) || entry.isSeal(state.seq) {
        break
      }
    }
    // Of one lap from the first to the last; else the next sweep looks again.
    if loadState(subbuf).seq == state.seq {
      finished = FinishedRecords(seq: state.seq, count: firstBusy ?? end)
    }
    return discarded
  }
}

/// How many records at the start of a sub-buffer are committed, cancelled or discarded, for the
/// sequence number for which they were looked at.
package struct FinishedRecords {
  var seq: UInt64 = 0
  var count = 0
  package init() {}
  init(seq: UInt64, count: Int) {
    self.seq = seq
    self.count = count
  }
}

extension Channel {
  /// Sweeps all buffers after the process that wrote as `owner` has exited, and wakes everybody:
  /// it may have died between a commit and its signal. Returns the number of records discarded.
  @discardableResult
  public func sweep(owner: UInt16) -> Int {
    var discarded = 0
    for buffer in buffers {
      discarded += finishedRecords.withLock {
        buffer.sweep(owner: owner, &$0[buffer.cpu, default: []])
      }
      // Relaxed, both: a wish lost here costs one coarse tick.
      buffer.waiters.pointee.bitwiseAnd(~Wish.wake, ordering: .relaxed)
      buffer.switchWaiters.pointee.bitwiseAnd(~Wish.wake, ordering: .relaxed)
      Wake.writers(buffer)
    }
    wake()
    return discarded
  }
}
