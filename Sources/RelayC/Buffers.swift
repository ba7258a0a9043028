// SPDX-License-Identifier: Apache-2.0
// The whole channel, its buffers, and reading own ones: relay_flush … relay_statistics.

// The names are relay.h's.
// swift-format-ignore-file: AlwaysUseLowerCamelCase

public import CRelay
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl
internal import Synchronization

extension Handle {
  /// A request to the daemon, one at a time.
  func ask<R>(
    _ attachment: Attachment, _ request: (ControlClient, String) throws(ControlError) -> R
  ) throws(Failure) -> R {
    try makeReady()
    return try hot.lock.locked { () throws(Failure) in
      do throws(ControlError) {
        // Another relayd may serve the channel by now, in this memory or another.
        channel.rejoin()
        try attachment.client.renew()
        return try request(attachment.client, attachment.name)
      } catch { throw Failure(error) }
    }
  }
}

private func check(_ result: FlushResult) throws(Failure) {
  switch result {
  case .flushed: return
  case .full: throw Failure(ENOBUFS)
  case .closed: throw Failure(EPIPE)
  case .corrupt: throw Failure(EIO)
  }
}

@c @implementation
public func relay_flush(_ chan: OpaquePointer?) -> CInt {
  code { () throws(Failure) in
    guard let chan else { throw Failure(EINVAL) }
    let handle = Handle.of(chan)
    try handle.makeReady()
    if case .own(let own) = handle.kind {
      try check(failing { () throws(SystemError) in try own.flush() })
    } else {
      try check(handle.channel.flush())
    }
  }
}

@c @implementation
public func relay_reset(_ chan: OpaquePointer?) -> CInt {
  code { () throws(Failure) in
    guard let chan else { throw Failure(EINVAL) }
    let handle = Handle.of(chan)
    switch handle.kind {
    case .own(let own): try failing { () throws(SystemError) in try own.reset() }
    case .daemon(let attachment):
      try handle.ask(attachment) { (client, name) throws(ControlError) in
        try client.reset(name)
      }
    }
  }
}

@c @implementation
public func relay_buffers(_ chan: OpaquePointer?) -> UInt32 {
  guard let chan else { return 0 }
  let handle = Handle.of(chan)
  guard (try? handle.makeReady()) != nil else { return 0 }
  if case .own(let own) = handle.kind, (try? requireMemory()) != nil { own.addCPUs() }
  let highest = (0..<handle.channel.geometry.slotCount).last {
    handle.channel.bufferIfPresent(cpu: $0) != nil
  }
  return UInt32((highest ?? -1) + 1)
}

@c @implementation
public func relay_buffer(_ chan: OpaquePointer?, _ cpu: UInt32) -> OpaquePointer? {
  guard let chan else { return nil }
  let handle = Handle.of(chan)
  // A child that cannot attach may still ask for its account.
  try? handle.makeReady()
  return handle.name(cpu: Int(cpu))
}

@c @implementation
public func relay_private(_ chan: OpaquePointer?) -> UnsafeMutableRawPointer? {
  chan.flatMap { Handle.of($0).privateData }
}

@c @implementation
public func relay_switch_subbuf(_ buf: OpaquePointer?, _ length: Int) -> Int {
  guard let buf, let (handle, buffer) = try? Handle.ofBuffer(buf) else { return 0 }
  guard length >= 0, length <= handle.channel.geometry.subbufSize else {
    handle.channel.count(.tooBig, in: buffer)
    return 0
  }
  if case .own(let own) = handle.kind {
    return (try? own.buffer(cpu: buffer.cpu)?.switchSubbuf()) == .flushed ? length : 0
  }
  return handle.channel.switchSubbuf(buffer) == .flushed ? length : 0
}

@c @implementation
public func relay_subbuf_start_reserve(_ buf: OpaquePointer?, _ length: Int) {
  guard let buf, let buffer = try? own(buf) else { return }
  buffer.reserveHeader(length >= 0 ? length : .max)
}

@c @implementation
public func relay_buf_full(_ buf: OpaquePointer?) -> CInt {
  look(buf, own: \.isFull, daemon: \.isFull)
}

@c @implementation
public func relay_buf_empty(_ buf: OpaquePointer?) -> CInt {
  look(buf, own: \.isEmpty, daemon: \.isEmpty)
}

private func look(
  _ buf: OpaquePointer?, own: (OwnBuffer) -> Bool, daemon: (ChannelBuffer) -> Bool
) -> CInt {
  guard let buf else { return 0 - EINVAL }
  do throws(Failure) {
    let (handle, buffer) = try Handle.ofBuffer(buf)
    if case .own(let channel) = handle.kind, let buffer = channel.buffer(cpu: buffer.cpu) {
      return own(buffer) ? 1 : 0
    }
    return daemon(buffer) ? 1 : 0
  } catch { return 0 - error.code }
}

/// An own channel's buffer; EOPNOTSUPP for a daemon's.
private func own(_ buf: OpaquePointer?) throws(Failure) -> OwnBuffer {
  guard let buf else { throw Failure(EINVAL) }
  let (handle, buffer) = try Handle.ofBuffer(buf)
  guard case .own(let own) = handle.kind, let found = own.buffer(cpu: buffer.cpu) else {
    throw Failure(EOPNOTSUPP)
  }
  return found
}

@c @implementation
public func relay_subbufs_consumed(_ chan: OpaquePointer?, _ cpu: UInt32, _ n: Int) -> CInt {
  code { () throws(Failure) in
    guard let chan else { throw Failure(EINVAL) }
    let buffer = try own(Handle.of(chan).name(cpu: Int(cpu)))
    try failing { () throws(SystemError) in try buffer.consumeSubbufs(n >= 0 ? n : .max) }
  }
}

@c @implementation
public func relay_read(
  _ buf: OpaquePointer?, _ data: UnsafeMutableRawPointer?, _ size: Int
) -> Int {
  do throws(Failure) {
    let buffer = try own(buf)
    guard size == 0 || data != nil else { throw Failure(EINVAL) }
    let target = UnsafeMutableRawBufferPointer(start: data, count: size >= 0 ? size : .max)
    return try failing { () throws(SystemError) in try buffer.read(into: target) }
  } catch { return Int(0 - error.code) }
}

@c @implementation
public func relay_read_record(
  _ buf: OpaquePointer?, _ data: UnsafeMutableRawPointer?, _ size: Int,
  _ record: UnsafeMutablePointer<relay_record>?, _ recordSize: Int
) -> Int {
  do throws(Failure) {
    let buffer = try own(buf)
    guard size >= 0, size == 0 || data != nil, recordSize >= 0, recordSize == 0 || record != nil
    else { throw Failure(EINVAL) }
    let target = UnsafeMutableRawBufferPointer(start: data, count: size)
    let info = try known(failing { () throws(SystemError) in try buffer.readRecord(into: target) })
    if let record {
      var known = relay_record(info)
      fill(UnsafeMutableRawPointer(record), recordSize, from: &known)
    }
    return info.byteCount
  } catch { return Int(0 - error.code) }
}

private func known(_ result: RecordResult) throws(Failure) -> RecordInfo {
  switch result {
  case .record(let info): return info
  case .none: throw Failure(EAGAIN)
  case .end: throw Failure(EPIPE)
  case .tooLong: throw Failure(EMSGSIZE)
  case .corrupt: throw Failure(EIO)
  }
}

/// The first `size` bytes of what a caller has room for; zeroes for what only it knows.
func fill<T: BitwiseCopyable>(
  _ target: UnsafeMutableRawPointer, _ size: Int, from value: inout T
) {
  let known = min(size, MemoryLayout<T>.size)
  memcpy(target, &value, known)
  memset(target + known, 0, size - known)
}

@c @implementation
public func relay_poll(_ buf: OpaquePointer?) -> Int16 {
  do throws(Failure) {
    let buffer = try own(buf)
    return Int16(try failing { () throws(SystemError) in try buffer.events() })
  } catch { return Int16(error.code == EDEADLK ? POLLERR : POLLNVAL) }
}

@c @implementation
public func relay_poll_fd(_ buf: OpaquePointer?) -> CInt {
  do throws(Failure) {
    let buffer = try own(buf)
    try requireMemory(mapped: 0)
    return try stillThere(try failing { () throws(SystemError) in try buffer.wakeDescriptor() })
  } catch { return 0 - error.code }
}

@c @implementation
public func relay_statistics(
  _ buf: OpaquePointer?, _ stat: UnsafeMutablePointer<relay_stat>?, _ size: Int
) -> CInt {
  code { () throws(Failure) in
    guard let buf, let stat, size >= 0 else { throw Failure(EINVAL) }
    var account = try account(of: buf)
    fill(UnsafeMutableRawPointer(stat), size, from: &account)
  }
}

private func account(of buf: OpaquePointer) throws(Failure) -> relay_stat {
  let (handle, cpu) = Handle.ofName(buf)
  switch handle.kind {
  case .own(let own):
    guard let buffer = own.buffer(cpu: cpu) else { throw Failure(ENXIO) }
    return relay_stat(try failing { () throws(SystemError) in try buffer.statistics() })
  case .daemon(let attachment): return try account(of: cpu, handle, attachment)
  }
}

/// What the daemon says; while none answers, what this process can see. Either with the records
/// that this process was refused and no daemon knows of.
private func account(
  of cpu: Int, _ handle: Handle, _ attachment: Attachment
) throws(Failure) -> relay_stat {
  var account: relay_stat
  do throws(Failure) {
    let found = try handle.ask(attachment) { (client, name) throws(ControlError) in
      try client.stat(name).first { $0.cpu == cpu }
    }
    guard let found else { throw Failure(ENXIO) }
    account = relay_stat(found.counts)
  } catch {
    guard !handle.isServed else { throw error }
    let seen = handle.isAttached ? handle.channel.bufferIfPresent(cpu: cpu) : nil
    account = relay_stat(seen?.writersStatistics() ?? Statistics())
    if cpu == handle.cpus.first {
      // Relaxed: a statistic.
      account.lost_restart &+= handle.hot.unattached.pointee.load(ordering: .relaxed)
    }
  }
  if handle.isAttached, cpu == handle.channel.cpus.first {
    account.lost_restart &+= handle.channel.refusedUnserved
  }
  return account
}

extension relay_record {
  fileprivate init(_ info: RecordInfo) {
    let lost = info.lostBefore
    self.init(
      sequence: info.sequence, time: info.time, lost_full: lost.full,
      lost_overwritten: lost.overwritten, lost_stalled: lost.stalled, lost_restart: lost.restart)
  }
}

extension relay_stat {
  fileprivate init(_ s: Statistics) {
    self.init(
      subbufs_produced: s.subbufsProduced, subbufs_consumed: s.subbufsConsumed,
      records_written: s.recordsWritten, records_read: s.recordsRead,
      bytes_written: s.bytesWritten, bytes_read: s.bytesRead, padding: s.padding,
      lost_full: s.lostFull, lost_too_big: s.lostTooBig, lost_overwritten: s.lostOverwritten,
      lost_stalled: s.lostStalled, lost_restart: s.lostRestart, aborted: s.aborted,
      cancelled: s.cancelled, backlog_max: s.backlogMax)
  }
}
