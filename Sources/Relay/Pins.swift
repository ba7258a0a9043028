// SPDX-License-Identifier: Apache-2.0
// What a reader holds of a buffer, so that it is not overwritten meanwhile: how much that may be,
// and how it becomes free again.

extension Reader {
  /// How many sub-buffers a claim, or all that is lent, may pin. Where writers overwrite, this
  /// leaves three: the current one, one in which another writer may be stopped, and one to go on
  /// in. So of two writers neither is refused, if there are four or more. Where they do not, a pin
  /// takes nothing from them: what was not read is kept from them anyway.
  ///
  /// One claim or one lease is all that one buffer's readers hold at a time: they share a thread,
  /// and a reader that has lent something claims nothing else meanwhile.
  var pinLimit: Int {
    guard buffer.layout.overwrites else { return Reader.vectorLimit }
    return min(Reader.vectorLimit, max(1, buffer.layout.subbufCount - 3))
  }

  /// Pins a held sub-buffer of `seq`: while pinned it is never recycled, so what is being sent
  /// cannot be torn.
  func pin(_ subbuf: Int, seq: UInt64) -> Bool {
    for _ in 0..<ChannelBuffer.stateAttempts {
      let state = buffer.loadState(subbuf)
      guard state.isHeld, state.seq == seq, state.pins < 15 else { return false }
      if buffer.exchangeState(subbuf, state, state.with(pins: state.pins + 1)) {
        pinned[pinCount] = Pin(subbuf: subbuf, seq: seq, isFinished: false)
        pinCount += 1
        return true
      }
    }
    return false
  }

  /// Drops a pin; true when the sub-buffer became free with it.
  func unpin(_ pin: Pin) -> Bool {
    for _ in 0..<ChannelBuffer.stateAttempts {
      let state = buffer.loadState(pin.subbuf)
      guard state.isHeld, state.seq == pin.seq, state.pins > 0 else { break }
      let free = pin.isFinished && !isPeeking && state.pins == 1
      let next = free ? SubbufState(.free, seq: pin.seq) : state.with(pins: state.pins - 1)
      if buffer.exchangeState(pin.subbuf, state, next) {
        if pin.isFinished, !free, !isPeeking { mayReclaim = true }
        return free
      }
    }
    // A pinned sub-buffer keeps its seq: only hostile memory gets here.
    markCorrupt()
    return false
  }

  func unpinLast() {
    pinCount -= 1
    _ = unpin(pinned[pinCount])
  }
}
