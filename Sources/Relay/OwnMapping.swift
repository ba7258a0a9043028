// SPDX-License-Identifier: Apache-2.0
// An own buffer that is handed out where it lies: what a mapped consumer is to a daemon's.

internal import Glibc
public import LinuxIO

/// An own buffer in the hands of one consumer, which nobody else reads meanwhile. What it does not
/// report comes again with the next reader. One thread at a time.
public final class OwnMapping {
  public let buffer: OwnBuffer
  /// The channel is closed, and everything in the buffer was handed out.
  public private(set) var isAtEnd = false

  fileprivate init(_ buffer: OwnBuffer) { self.buffer = buffer }

  /// Unmaps the buffer; from inside a callback of its: once that has returned.
  deinit { buffer.unmap() }

  /// The next part of the buffer, where it lies. nil: nothing now, or, with `isAtEnd`, for ever. It
  /// stays as it is until `consumed` reports it.
  /// - Throws: `SystemError` with ESTALE: a reset took what was in hand, `next` goes on; ENOBUFS:
  ///   too much is in hand; EIO: damaged; EDEADLK: from inside a callback.
  public func next() throws(SystemError) -> MappedSubbuf? {
    do throws(SystemError) { return try buffer.next() } catch {
      guard error.code == EPIPE else { throw error }
      isAtEnd = true
      return nil
    }
  }

  /// The first `count` parts in hand are not needed any more: writers may have their room.
  /// - Throws: `SystemError` with EINVAL: so many are not in hand; ESTALE, EDEADLK: as above.
  public func consumed(_ count: Int) throws(SystemError) { try buffer.consumed(count) }

  /// For polling: readable when `next` would return something; at times also when it would not,
  /// until it is called. Owned by the channel.
  public func wakeDescriptor() throws(SystemError) -> CInt { try buffer.wakeDescriptor() }
}

/// Who has a buffer. All calls are for one consumer.
struct OwnLease {
  let unfinished: Bool
  /// Parts handed out and not reported.
  var inHand = 0

  var wakeup: Wakeup { unfinished ? .data : .subbuffer }
}

extension OwnBuffer {
  /// Gives the buffer to one consumer, as relay's mmap does; its channel's callbacks learn of it.
  /// There is no time-out.
  /// - Parameter takesUnfinished: also what is committed in the sub-buffer that writers are in;
  ///   else only sub-buffers that they have left.
  /// - Throws: `SystemError` with EBUSY: it is mapped; EOPNOTSUPP: its writers overwrite and have
  ///   only two sub-buffers, of which they need one beside what is in hand; EDEADLK: from inside a
  ///   callback.
  public func map(takesUnfinished: Bool = false) throws(SystemError) -> OwnMapping {
    try locked { (inner) throws(SystemError) in
      guard lease == nil else { throw SystemError(code: EBUSY, operation: "map \(name)") }
      // With a callback, which sub-buffers writers may have is for that to say.
      guard inner.callback != nil || !inner.reader.lendsLastRoom else {
        throw SystemError(
          code: EOPNOTSUPP, operation: "map \(name), of which writers overwrite 2 sub-buffers")
      }
      lease = OwnLease(unfinished: takesUnfinished)
      rearm(inner)
      callbacks.bufMapped?(self)
    }
    return OwnMapping(self)
  }

  /// What is in hand comes again.
  fileprivate func unmap() {
    if isHeldHere {
      isUnmapping = true
    } else {
      // Throws to its holder only.
      try? locked { (inner) throws(SystemError) in endLease(inner) }
    }
  }

  func endLease(_ inner: Inner) {
    inner.reader.takeBackUnread()
    lease = nil
    rearm(inner)
    callbacks.bufUnmapped?(self)
  }

  /// EPIPE at the end.
  fileprivate func next() throws(SystemError) -> MappedSubbuf? {
    try locked { (inner) throws(SystemError) in
      let reader = inner.reader
      try checkHand(inner)
      guard reader.mayLend else {
        rearm(inner)
        throw SystemError(code: ENOBUFS, operation: "hand out more of \(name)")
      }
      let lent = reader.lend(unfinished: lease!.unfinished)
      if lent != nil { lease!.inHand += 1 }
      rearm(inner)
      if let lent { return MappedSubbuf(lent: lent, bytes: reader.bytes(of: lent), memory: self) }
      try checkDamage(inner)
      if reader.isDrained { throw SystemError(code: EPIPE, operation: "read \(name)") }
      return nil
    }
  }

  fileprivate func consumed(_ count: Int) throws(SystemError) {
    try locked { (inner) throws(SystemError) in
      try checkHand(inner)
      guard count >= 0, count <= lease!.inHand else {
        throw SystemError(
          code: EINVAL, operation: "consume \(count) parts, with \(lease!.inHand) in hand")
      }
      inner.reader.takeBack(consumed: count)
      lease!.inHand -= count
      rearm(inner)
    }
  }

  /// ESTALE, once, where a reset took back what is in hand.
  private func checkHand(_ inner: Inner) throws(SystemError) {
    guard inner.reader.loanCount != lease!.inHand else { return }
    inner.reader.takeBackUnread()
    lease!.inHand = 0
    throw SystemError(code: ESTALE, operation: "keep what a reset of \(name) took")
  }
}
