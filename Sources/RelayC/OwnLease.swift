// SPDX-License-Identifier: Apache-2.0
// An own buffer that is handed out where it lies: what a mapped consumer is to a daemon's.

internal import Glibc
internal import Relay

/// Who has the buffer. All calls are for one consumer.
struct OwnLease {
  let unfinished: Bool
  /// Parts handed out and not reported.
  var inHand = 0

  var wakeup: Wakeup { unfinished ? .data : .subbuffer }
}

extension OwnBuffer {
  /// EBUSY where it is mapped already.
  func map(unfinished: Bool) throws(Failure) {
    try locked { () throws(Failure) in
      guard lease == nil else { throw Failure(EBUSY) }
      // With a callback, which sub-buffers writers may have is for that to say.
      guard hasCallback || !reader.lendsLastRoom else { throw Failure(EOPNOTSUPP) }
      lease = OwnLease(unfinished: unfinished)
      rearm()
    }
  }

  /// What is in hand comes again. From inside the callback: once that has returned.
  func unmap() {
    if isHeldHere {
      isUnmapping = true
    } else {
      // Throws to its holder only.
      try? locked { () throws(Failure) in endLease() }
    }
  }

  func endLease() {
    reader.takeBackUnread()
    lease = nil
    rearm()
  }

  func next() throws(Failure) -> (LentSubbuf, [UnsafeRawBufferPointer]) {
    try locked { () throws(Failure) in
      try checkHand()
      guard reader.mayLend else { throw Failure(ENOBUFS) }
      let lent = reader.lend(unfinished: lease!.unfinished)
      if lent != nil { lease!.inHand += 1 }
      rearm()
      if let lent { return (lent, reader.bytes(of: lent)) }
      throw Failure(reader.isCorrupt ? EIO : reader.isDrained ? EPIPE : EAGAIN)
    }
  }

  func consumed(_ count: Int) throws(Failure) {
    try locked { () throws(Failure) in
      try checkHand()
      guard count <= lease!.inHand else { throw Failure(EINVAL) }
      reader.takeBack(consumed: count)
      lease!.inHand -= count
      rearm()
    }
  }

  /// ESTALE, once, where a reset took back what is in hand.
  private func checkHand() throws(Failure) {
    guard reader.loanCount != lease!.inHand else { return }
    reader.takeBackUnread()
    lease!.inHand = 0
    throw Failure(ESTALE)
  }
}
