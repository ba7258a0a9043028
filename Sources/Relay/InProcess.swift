// SPDX-License-Identifier: Apache-2.0
// What relay's own API has beside writing and reading, for channels in this process: copying
// reads, sub-buffers consumed elsewhere, switches by hand, how full a buffer is, a descriptor to
// wait on.

internal import Glibc
internal import Synchronization

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

  /// Passes the next `count` sub-buffers that writers have left, as if they had been read.
  public func consumeSubbufs(_ count: Int) {
    var left = count
    while left > 0, hasFinishedSubbuf {
      // Past what hasData found to be overwritten, and at the sub-buffer's first live record.
      let seq = position.seq
      guard let seal = sealOfSubbuf else { return }
      // Exactly its bytes: where any are left in it, the claim ends behind its SEAL.
      let bytes = seal.end - position.offset
      if claim(limit: rest.count + bytes).byteCount > 0 { consume() }
      if bytes == 0 { skipEmptyRecords(before: seal.entry) }
      guard position.seq != seq else { return }
      left -= 1
    }
  }

  /// What is left of the sub-buffer at the position has no bytes.
  private func skipEmptyRecords(before seal: Int) {
    let count = UInt64(seal - position.entry)
    totals.records &+= count
    jump(
      to: Position(
        seq: position.seq + 1, subbuf: (position.subbuf + 1) % buffer.layout.subbufCount,
        record: position.record &+ count, lostBase: position.lostBase))
  }

  /// Where the records of the sub-buffer at the position end; nil while one of them is unfinished.
  private var sealOfSubbuf: (entry: Int, end: Int)? {
    let index = buffer.index(position.subbuf)
    for i in position.entry..<buffer.layout.entryCount {
      let entry = buffer.loadEntry(index, i)
      if entry.isSeal(position.seq) { return (i, entry.end) }
      if entry.isBusy || entry.isEmpty(position.seq) { return nil }
    }
    return nil
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

  /// The descriptor that its writers signal, where the channel wakes each buffer; -1: none.
  /// - Precondition: the memory is private.
  package func setWakeDescriptor(_ fd: CInt) {
    // Relaxed: the wish that is stored after it publishes it.
    wakeFDWord.pointee.store(UInt64(fd + 1), ordering: .relaxed)
  }
}

extension Channel {
  /// Counts a record that was refused elsewhere than in a writer.
  package func count(_ refusal: WriteResult, in buffer: ChannelBuffer) {
    buffer.countRefusal(refusal)
  }

  /// Leaves the buffer's current sub-buffer, even if it is empty.
  public func switchSubbuf(_ buffer: ChannelBuffer) -> FlushResult {
    let buffer = buffer.home
    return buffer.leave(buffer.loadCurrent(), owner: owner, wakeFD: wakeTarget)
  }
}

extension Writer {
  /// The CPU whose buffer this thread writes into now.
  public var cpu: Int { channel.home.cpu }
}
