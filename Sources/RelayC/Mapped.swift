// SPDX-License-Identifier: Apache-2.0
// Mapped consumers: relay_map, relay_map_buffer … relay_unmap.

// The names are relay.h's.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CRelay
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

/// What a relay_mapping pointer points to.
private final class Consumer {
  private let source: Source
  /// The pieces of what is in hand.
  private var vectors: [UnsafeMutableBufferPointer<iovec>] = []

  enum Source {
    case daemon(MappedConsumer)
    case own(OwnMapping)
  }

  init(_ source: Source) { self.source = source }

  deinit { forget(vectors.count) }

  var pointer: OpaquePointer { OpaquePointer(Unmanaged.passRetained(self).toOpaque()) }

  static func of(_ map: OpaquePointer) -> Consumer {
    Unmanaged<Consumer>.fromOpaque(UnsafeRawPointer(map)).takeUnretainedValue()
  }

  func next() throws(Failure) -> relay_subbuf {
    let next = try nextSubbuf()
    let bytes = next.bytes
    let pieces = UnsafeMutableBufferPointer<iovec>.allocate(capacity: bytes.count)
    for (index, piece) in bytes.enumerated() {
      pieces.initializeElement(
        at: index,
        to: iovec(
          iov_base: UnsafeMutableRawPointer(mutating: piece.baseAddress), iov_len: piece.count))
    }
    vectors.append(pieces)
    return relay_subbuf(next.lent, pieces)
  }

  private func nextSubbuf() throws(Failure) -> MappedSubbuf {
    do throws(Failure) {
      let next: MappedSubbuf?
      let isAtEnd: Bool
      switch source {
      case .own(let mapping):
        next = try failing { () throws(SystemError) in try mapping.next() }
        isAtEnd = mapping.isAtEnd
      case .daemon(let mapped):
        next = try asked { () throws(ControlError) in try mapped.next() }
        isAtEnd = mapped.isAtEnd
      }
      guard let next else { throw Failure(isAtEnd ? EPIPE : EAGAIN) }
      return next
    } catch { throw noted(error) }
  }

  func consumed(_ count: Int) throws(Failure) {
    do throws(Failure) {
      switch source {
      case .own(let mapping):
        try failing { () throws(SystemError) in try mapping.consumed(count) }
      case .daemon(let mapped):
        try asked { () throws(ControlError) in try mapped.consumed(count) }
      }
    } catch { throw noted(error) }
    forget(count)
  }

  func descriptor() throws(Failure) -> CInt {
    let number: CInt
    switch source {
    case .own(let mapping):
      number = try failing { () throws(SystemError) in try mapping.wakeDescriptor() }
    case .daemon(let mapped): number = mapped.raw
    }
    return try stillThere(number)
  }

  private func asked<R>(_ body: () throws(ControlError) -> R) throws(Failure) -> R {
    do throws(ControlError) { return try body() } catch { throw Failure(error) }
  }

  /// What was given back is not in hand any more.
  private func noted(_ failure: Failure) -> Failure {
    if failure.code == ESTALE { forget(vectors.count) }
    return failure
  }

  private func forget(_ count: Int) {
    for pieces in vectors.prefix(count) { pieces.deallocate() }
    vectors.removeFirst(count)
  }
}

@c @implementation
public func relay_map(
  _ path: UnsafePointer<CChar>?, _ name: UnsafePointer<CChar>?, _ cpu: UInt32, _ flags: UInt32
) -> OpaquePointer? {
  do throws(Failure) {
    guard let name, name.pointee != 0, flags & ~UInt32(RELAY_MAP_UNFINISHED) == 0 else {
      throw Failure(EINVAL)
    }
    try requireMemory()
    do throws(ControlError) {
      let client = try ControlClient(
        path: path.map { String(cString: $0) } ?? ControlClient.defaultPath)
      let mapped = try MappedConsumer(
        channel: String(cString: name), cpu: Int(cpu),
        takesUnfinished: flags & UInt32(RELAY_MAP_UNFINISHED) != 0, client: client)
      return Consumer(.daemon(mapped)).pointer
    } catch { throw Failure(error) }
  } catch {
    errno = error.code
    return nil
  }
}

@c @implementation
public func relay_map_buffer(_ buf: OpaquePointer?, _ flags: UInt32) -> OpaquePointer? {
  do throws(Failure) {
    guard let buf, flags & ~UInt32(RELAY_MAP_UNFINISHED) == 0 else { throw Failure(EINVAL) }
    let (handle, buffer) = try Handle.ofBuffer(buf)
    guard case .own(let channel) = handle.kind else { throw Failure(EOPNOTSUPP) }
    try requireMemory()
    let own = channel.buffer(cpu: buffer.cpu)!
    let mapping = try failing { () throws(SystemError) in
      try own.map(takesUnfinished: flags & UInt32(RELAY_MAP_UNFINISHED) != 0)
    }
    return Consumer(.own(mapping)).pointer
  } catch {
    errno = error.code
    return nil
  }
}

@c @implementation
public func relay_map_next(
  _ map: OpaquePointer?, _ subbuf: UnsafeMutablePointer<relay_subbuf>?, _ size: Int
) -> CInt {
  code { () throws(Failure) in
    guard let map, let subbuf, size >= 0 else { throw Failure(EINVAL) }
    var known = try Consumer.of(map).next()
    fill(UnsafeMutableRawPointer(subbuf), size, from: &known)
  }
}

@c @implementation
public func relay_map_consumed(_ map: OpaquePointer?, _ n: Int) -> CInt {
  code { () throws(Failure) in
    guard let map, n >= 0 else { throw Failure(EINVAL) }
    try Consumer.of(map).consumed(n)
  }
}

@c @implementation
public func relay_map_fd(_ map: OpaquePointer?) -> CInt {
  guard let map else { return 0 - EINVAL }
  do throws(Failure) { return try Consumer.of(map).descriptor() } catch { return 0 - error.code }
}

@c @implementation
public func relay_unmap(_ map: OpaquePointer?) {
  if let map { Unmanaged<Consumer>.fromOpaque(UnsafeRawPointer(map)).release() }
}

extension relay_subbuf {
  fileprivate init(_ lent: LentSubbuf, _ pieces: UnsafeMutableBufferPointer<iovec>) {
    let lost = lent.lostBefore
    self.init(
      seq: lent.seq, first_record: lent.firstRecord, records: lent.recordCount,
      bytes: UInt64(lent.byteCount), lost_full: lost.full, lost_overwritten: lost.overwritten,
      lost_stalled: lost.stalled, lost_restart: lost.restart, produced: lent.produced,
      consumed: lent.consumed, pieces: UnsafePointer(pieces.baseAddress),
      n_pieces: UInt32(pieces.count), index: UInt32(lent.subbuf), padding: UInt32(lent.padding),
      flags: (lent.isLast ? UInt32(RELAY_SUBBUF_LAST) : 0)
        | (lent.isRest ? UInt32(RELAY_SUBBUF_REST) : 0))
  }
}
