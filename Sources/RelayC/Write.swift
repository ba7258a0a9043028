// SPDX-License-Identifier: Apache-2.0
// Records: relay_write … relay_cancel. The fast way touches the hot page and the ring, allocates
// and locks nothing; whatever is unusual goes the slow way.

// The names are relay.h's.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CRelay
internal import Glibc
internal import LinuxIO
internal import Relay
internal import Synchronization

@inline(__always)
private func code(_ result: WriteResult) -> CInt {
  switch result {
  case .written: 0
  case .full: 0 - ENOBUFS
  case .tooBig: 0 - EMSGSIZE
  case .closed: 0 - EPIPE
  case .corrupt: 0 - EIO
  case .unserved: 0 - ENOTCONN
  case .holding: 0 - EBUSY
  }
}

@c @implementation
public func relay_write(
  _ chan: OpaquePointer?, _ data: UnsafeRawPointer?, _ length: Int
) -> CInt {
  if let chan, let data, length >= 0 {
    let hot = Hot(chan)
    if hot.isFast {
      return code(hot.writer.pointee.write(UnsafeRawBufferPointer(start: data, count: length)))
    }
  }
  return writeSlowly(chan, data, length)
}

@inline(never)
private func writeSlowly(
  _ chan: OpaquePointer?, _ data: UnsafeRawPointer?, _ length: Int
) -> CInt {
  guard data != nil || length == 0 else { return 0 - EINVAL }
  let piece = iovec(
    iov_base: UnsafeMutableRawPointer(mutating: data), iov_len: length)
  return withUnsafePointer(to: piece) { write(chan, UnsafeBufferPointer(start: $0, count: 1)) }
}

@c @implementation
public func relay_writev(
  _ chan: OpaquePointer?, _ pieces: UnsafePointer<iovec>?, _ count: CInt
) -> CInt {
  guard count >= 0, pieces != nil || count == 0 else { return 0 - EINVAL }
  return write(chan, UnsafeBufferPointer(start: pieces, count: Int(count)))
}

private func write(_ chan: OpaquePointer?, _ pieces: UnsafeBufferPointer<iovec>) -> CInt {
  var length: UInt = 0
  for piece in pieces {
    guard piece.iov_base != nil || piece.iov_len == 0 else { return 0 - EINVAL }
    let (sum, overflows) = length.addingReportingOverflow(UInt(bitPattern: piece.iov_len))
    length = overflows ? .max : sum
  }
  // Whatever is longer than memory is too big in any case.
  switch reserve(chan, Int(clamping: length)) {
  case .failure(let code): return 0 - code
  case .space(let reservation):
    var to = reservation.bytes.baseAddress.unsafelyUnwrapped
    for piece in pieces where piece.iov_len != 0 {
      memcpy(to, piece.iov_base, piece.iov_len)
      to += piece.iov_len
    }
    reservation.commit()
    return 0
  }
}

/// How a reservation ended: with space, or with a positive errno value.
private enum Reserved: ~Copyable {
  case space(Reservation)
  case failure(CInt)
}

private func reserve(_ chan: OpaquePointer?, _ length: Int) -> Reserved {
  guard let chan else { return .failure(EINVAL) }
  let hot = Hot(chan)
  if hot.isFast { return unpack(hot.writer.pointee.reserve(length)) }
  return reserveSlowly(chan, length)
}

@inline(never)
private func reserveSlowly(_ chan: OpaquePointer, _ length: Int) -> Reserved {
  let handle = Handle.of(chan)
  do throws(Failure) {
    try handle.makeReadyToWrite()
    if case .own(let own) = handle.kind {
      return unpack(try failing { () throws(SystemError) in try own.reserve(length) })
    }
    return unpack(handle.hot.writer.pointee.reserve(length))
  } catch { return .failure(error.code) }
}

@inline(__always)
private func unpack(_ result: consuming ReserveResult) -> Reserved {
  switch consume result {
  case .reserved(let reservation): return .space(reservation)
  case .refused(let refusal): return .failure(0 - code(refusal))
  }
}

@c @implementation
public func relay_write_wait(
  _ chan: OpaquePointer?, _ data: UnsafeRawPointer?, _ length: Int, _ timeoutMilliseconds: CInt
) -> CInt {
  guard let chan, data != nil || length == 0 else { return 0 - EINVAL }
  // Over half of the address space: first, because a buffer of it is undefined behaviour.
  guard length >= 0 else { return writeSlowly(chan, data, length) }
  let saved = errno
  defer { errno = saved }
  let record = UnsafeRawBufferPointer(start: data, count: length)
  let handle = Handle.of(chan)
  do throws(Failure) {
    try handle.makeReadyToWrite()
    var left = timeoutMilliseconds < 0 ? Int.max : Int(timeoutMilliseconds)
    // For as long as that the daemon may be gone: another one may come.
    var turnsWithoutReader = 10
    while true {
      let turn = min(left, 500)
      let result = try write(record, handle, waitingMilliseconds: turn)
      left -= turn
      turnsWithoutReader = handle.channel.isServed ? 10 : turnsWithoutReader - 1
      if result != .full || left == 0 || turnsWithoutReader == 0 { return code(result) }
    }
  } catch { return 0 - error.code }
}

private func write(
  _ record: UnsafeRawBufferPointer, _ handle: Handle, waitingMilliseconds milliseconds: Int
) throws(Failure) -> WriteResult {
  guard case .own(let own) = handle.kind else {
    return handle.hot.writer.pointee.write(record, waitingMilliseconds: milliseconds)
  }
  return try failing { () throws(SystemError) in
    try own.write(record, waitingMilliseconds: milliseconds)
  }
}

/// What a relay_reservation holds. The reservation comes first, at its own alignment.
private struct Held {
  private let base: UnsafeMutableRawPointer

  init(_ reservation: UnsafeMutablePointer<relay_reservation>) {
    base = UnsafeMutableRawPointer(reservation)
  }

  var reservation: UnsafeMutablePointer<Reservation> {
    base.assumingMemoryBound(to: Reservation.self)
  }

  /// nil: nothing was reserved, or it has ended.
  var chan: UnsafeMutablePointer<OpaquePointer?> {
    (base + 48).assumingMemoryBound(to: OpaquePointer?.self)
  }

  var epoch: UnsafeMutablePointer<UInt64> {
    (base + 56).assumingMemoryBound(to: UInt64.self)
  }

  func hold(_ reservation: consuming Reservation, of chan: OpaquePointer) {
    precondition(MemoryLayout<Reservation>.size <= 48)
    self.reservation.initialize(to: reservation)
    self.chan.pointee = chan
    // Relaxed: this thread has seen the attachment.
    epoch.pointee = Hot(chan).epoch.pointee.load(ordering: .relaxed)
  }

  /// nil: ended before, or a parent's, whose memory is not here.
  func take() -> Reservation? {
    guard let chan = chan.pointee else { return nil }
    self.chan.pointee = nil
    // Relaxed: it only ever differs in a forked child.
    guard Hot(chan).epoch.pointee.load(ordering: .relaxed) == epoch.pointee else { return nil }
    return reservation.move()
  }
}

@c @implementation
public func relay_reserve(
  _ chan: OpaquePointer?, _ length: Int, _ reservation: UnsafeMutablePointer<relay_reservation>?
) -> UnsafeMutableRawPointer? {
  // Whatever comes of it, committing it does nothing.
  if let reservation { Held(reservation).chan.pointee = nil }
  guard let chan, let reservation else {
    errno = EINVAL
    return nil
  }
  let held = Held(reservation)
  switch reserve(chan, length >= 0 ? length : .max) {
  case .failure(let code):
    errno = code
    return nil
  case .space(let reservation):
    let bytes = reservation.bytes.baseAddress
    held.hold(reservation, of: chan)
    return bytes
  }
}

@c @implementation
public func relay_commit(_ reservation: UnsafeMutablePointer<relay_reservation>?) {
  guard let reservation, let taken = Held(reservation).take() else { return }
  taken.commit()
}

@c @implementation
public func relay_cancel(_ reservation: UnsafeMutablePointer<relay_reservation>?) {
  guard let reservation, let taken = Held(reservation).take() else { return }
  taken.cancel()
}
