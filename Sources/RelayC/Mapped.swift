// SPDX-License-Identifier: Apache-2.0
// Mapped consumers: relay_map … relay_unmap.

// The names are relay.h's.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CRelay
internal import Glibc
internal import Relay
internal import RelayControl

/// What a relay_mapping pointer points to.
private final class Consumer {
  let mapped: MappedConsumer
  /// The pieces of what is in hand.
  private var vectors: [UnsafeMutableBufferPointer<iovec>] = []

  init(_ mapped: MappedConsumer) { self.mapped = mapped }

  deinit { forget(vectors.count) }

  static func of(_ map: OpaquePointer) -> Consumer {
    Unmanaged<Consumer>.fromOpaque(UnsafeRawPointer(map)).takeUnretainedValue()
  }

  func next() throws(Failure) -> relay_subbuf {
    let next: MappedSubbuf?
    do throws(ControlError) {
      next = try mapped.next()
    } catch { throw noted(error) }
    guard let next else { throw Failure(mapped.isAtEnd ? EPIPE : EAGAIN) }
    let pieces = UnsafeMutableBufferPointer<iovec>.allocate(capacity: next.bytes.count)
    for (index, piece) in next.bytes.enumerated() {
      pieces.initializeElement(
        at: index,
        to: iovec(
          iov_base: UnsafeMutableRawPointer(mutating: piece.baseAddress), iov_len: piece.count))
    }
    vectors.append(pieces)
    return relay_subbuf(next.lent, pieces)
  }

  func consumed(_ count: Int) throws(Failure) {
    do throws(ControlError) {
      try mapped.consumed(count)
    } catch { throw noted(error) }
    forget(count)
  }

  /// What was given back is not in hand any more.
  private func noted(_ error: ControlError) -> Failure {
    forget(vectors.count - mapped.inHand.count)
    return Failure(error)
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
    do throws(ControlError) {
      let client = try ControlClient(
        path: path.map { String(cString: $0) } ?? ControlClient.defaultPath)
      let mapped = try MappedConsumer(
        channel: String(cString: name), cpu: Int(cpu),
        takesUnfinished: flags & UInt32(RELAY_MAP_UNFINISHED) != 0, client: client)
      return OpaquePointer(Unmanaged.passRetained(Consumer(mapped)).toOpaque())
    } catch { throw Failure(error) }
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
  map.map { Consumer.of($0).mapped.raw } ?? 0 - EINVAL
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
