// SPDX-License-Identifier: Apache-2.0
// The backlog high-water mark: how many sub-buffers waited for their reader at most. It costs
// writers nothing: only they let the backlog grow and only the reader lets it shrink, so that it
// was largest right before the reader passed a sub-buffer, or is so now.

extension Reader {
  /// Notes the backlog; called before the position moves, `next` is where to.
  func noteBacklog(before next: Position) {
    guard next.seq != position.seq || isAtSeal(next),
      backlogMax < UInt64(buffer.layout.subbufCount)
    else { return }
    backlogMax = max(backlogMax, backlogNow)
  }

  /// Sub-buffers that writers have left and that this reader has not passed: relay's P − K, but
  /// never more than there are: as many mean that the buffer is full. Writers that overwrite do so
  /// then; from there on what they overwrite takes as much off as they add. One that was read to
  /// its end is passed, as its room is given back, by the read that goes on behind it.
  var backlogNow: UInt64 { buffer.backlog(behind: position) }

  /// Whether nothing more comes of the sub-buffer at `position`.
  func isAtSeal(_ position: Position) -> Bool { buffer.isAtSeal(position.subbuf, position) }
}

extension ChannelBuffer {
  func backlog(behind position: Reader.Position) -> UInt64 {
    let current = loadCurrent()
    guard current.seq != 0, current.subbuf < layout.subbufCount else { return 0 }
    let backlog = current.seq.less(position.seq)
    guard backlog < layout.subbufCount else { return UInt64(layout.subbufCount) }
    // Writers have left the current one, too, where there is none to move to, or after the close;
    // then no read goes on behind it.
    guard case .sealed = frontier(current) else { return backlog }
    let isPassed = position.seq == current.seq && isAtSeal(position.subbuf, position)
    return backlog + (isPassed ? 0 : 1)
  }

  func isAtSeal(_ subbuf: Int, _ position: Reader.Position) -> Bool {
    position.entry < layout.entryCount
      && loadEntry(index(subbuf), position.entry).isSeal(position.seq)
  }
}
