// SPDX-License-Identifier: Apache-2.0
// What relay's own API has beside writing and waiting: reads that copy, sub-buffers consumed
// elsewhere, switches by hand, how full a buffer is.

internal import Glibc

extension Reader {
  /// Copies what one read(2) of a device would give, at most `target.count` bytes, and consumes it.
  public func read(into target: UnsafeMutableRawBufferPointer) -> Int {
    let claim = claim(limit: target.count)
    guard claim.byteCount > 0, var to = target.baseAddress else { return 0 }
    for vector in claim.vectors {
      to.copyMemory(from: vector.iov_base, byteCount: vector.iov_len)
      to += vector.iov_len
    }
    consume()
    return claim.byteCount
  }

  /// Passes the next `count` sub-buffers, of those that writers have left when this is called, as
  /// if they had been read; ends before one in which a record is unfinished. A loss before them is
  /// told with what is read next.
  public func consumeSubbufs(_ count: Int) {
    let end = buffer.loadCurrent().seq
    var left = count
    while left > 0, consumeSubbuf(before: end) { left -= 1 }
  }

  /// What is left of the sub-buffer at the position, and no more. False, and nothing consumed: its
  /// number is not below `end`, or a record in it is unfinished.
  private func consumeSubbuf(before end: UInt64) -> Bool {
    settle()
    let seq = position.seq
    beginClaim()
    guard !isCorrupt, enterSubbuf(), plan.position.seq < end else {
      giveBack()
      return false
    }
    plan.restTaken = rest.count
    plan.bytes = rest.count
    // What is left of one that was overwritten since is one, too.
    if !rest.isEmpty, pinned[0].seq > seq {
      consume()
      return true
    }
    while case .record(let entry) = nextRecord(pinned[0].subbuf) {
      plan.bytes += entry.end - plan.position.offset
      plan.totals.records &+= 1
      plan.position.advance(by: 1, to: entry.end)
    }
    // Its end was passed.
    guard pinned[0].seq < plan.position.seq else {
      giveBack()
      return false
    }
    consume()
    return true
  }
}

extension ChannelBuffer {
  /// Whether a switch would be refused, or overwrite: no sub-buffer is free.
  public var isFull: Bool {
    guard !hasFreeSubbuf else { return false }
    let current = loadCurrent()
    guard !layout.overwrites, current.subbuf < layout.subbufCount else { return true }
    if case .sealed = frontier(current) { return true }
    return false
  }

  /// Whether the current sub-buffer is the only one that readers are not done with.
  public var isEmpty: Bool {
    let current = loadCurrent()
    return (0..<layout.subbufCount).allSatisfy {
      let state = loadState($0)
      return !state.isHeld || state.seq >= current.seq
    }
  }
}

extension Channel {
  /// Counts a record that was refused elsewhere than in a writer.
  package func count(_ refusal: WriteResult, in buffer: ChannelBuffer) {
    buffer.countRefusal(refusal)
  }

  /// Leaves the buffer's current sub-buffer, even if it is empty or was never written to.
  public func switchSubbuf(_ buffer: ChannelBuffer) -> FlushResult {
    let buffer = buffer.home
    var current = buffer.loadCurrent()
    if current.seq == 0 {
      // Nothing is current yet: the first one has to be started before it can be left.
      let started = buffer.leave(current, owner: owner, wakeFD: wakeTarget)
      guard started == .flushed else { return started }
      current = buffer.loadCurrent()
    }
    return buffer.leave(current, owner: owner, wakeFD: wakeTarget)
  }
}

extension Writer {
  /// The CPU whose buffer this thread writes into now.
  public var cpu: Int { channel.home.cpu }
}
