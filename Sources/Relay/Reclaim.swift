// SPDX-License-Identifier: Apache-2.0
// Giving sub-buffers back that were passed while a writer was still inside of them, or somebody
// else had them pinned.

extension Reader {
  /// Frees what is behind the position and that no writer is inside of any more.
  func reclaim() {
    mayReclaim = false
    guard !isPeeking else { return }
    var freed = false
    for subbuf in 0..<buffer.layout.subbufCount {
      let state = buffer.loadState(subbuf)
      guard state.isHeld, state.seq < position.seq else { continue }
      guard state.pins == 0, isFinished(subbuf, state.seq) else {
        mayReclaim = true
        continue
      }
      settlePassed(in: subbuf)
      if buffer.exchangeState(subbuf, state, SubbufState(.free, seq: state.seq)) {
        freed = true
      } else {
        mayReclaim = true
      }
    }
    if freed { Wake.writers(buffer) }
  }

  /// Whether no writer is inside of what this reader has passed. Looks at each record once, however
  /// long one of them stays open.
  private func isFinished(_ subbuf: Int, _ seq: UInt64) -> Bool {
    let known = finished[subbuf] ?? FinishedRecords()
    let start = known.seq == seq ? known.count : 0
    let unfinished = buffer.firstUnfinished(subbuf, seq: seq, from: start)
    finished[subbuf] = unfinished.map { FinishedRecords(seq: seq, count: $0) }
    return unfinished == nil
  }
}
