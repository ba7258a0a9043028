// SPDX-License-Identifier: Apache-2.0
// What a device's ioctls do (relay_ioctl.h). The kernel has copied what the command's number says,
// no more and no less.

internal import CFuse
internal import CRelayIoctl
internal import Glibc
internal import Relay

/// Room for the frames of one answer; for devices of one thread, which take turns.
final class FrameBuffer {
  /// The longest read that one request carries.
  private static let byteCount = 128 << 10
  private lazy var all = UnsafeMutableRawBufferPointer.allocate(
    byteCount: FrameBuffer.byteCount, alignment: 4096)
  private var isUsed = false

  /// `count` bytes of it, or all there are.
  func bytes(_ count: Int) -> UnsafeMutableRawBufferPointer {
    isUsed = true
    return UnsafeMutableRawBufferPointer(rebasing: all[..<min(count, FrameBuffer.byteCount)])
  }

  deinit { if isUsed { all.deallocate() } }
}

extension Device {
  /// Answers an ioctl. Numbers that are not ours, or have another size, are ENOTTY.
  func control(
    _ request: OpaquePointer, _ file: OpenFile, command: UInt32, input: UnsafeRawBufferPointer,
    outputSize: Int
  ) {
    guard !file.isEvicted else { return cfuse_reply_error(request, ESTALE) }
    switch command {
    case crelay_ioc_geometry: reply(request, geometry, outputSize)
    case crelay_ioc_statistics:
      reply(request, relay_buffer_statistics(reader.statistics()), outputSize)
    case crelay_ioc_flush: reply(request, code: flush())
    case crelay_ioc_excl, crelay_ioc_nxcl:
      guard file.reads else { return cfuse_reply_error(request, EBADF) }
      let isBegin = command == crelay_ioc_excl
      reply(request, code: readAlone(file, isBegin))
    case crelay_ioc_block, crelay_ioc_peek, crelay_ioc_frames:
      guard input.count == MemoryLayout<CInt>.size else { fallthrough }
      guard file.reads else { return cfuse_reply_error(request, EBADF) }
      let value = input.loadUnaligned(as: CInt.self)
      reply(request, code: set(file, command, value))
    default: cfuse_reply_error(request, ENOTTY)
    }
  }

  private func reply(_ request: OpaquePointer, code: CInt) {
    if code == 0 { cfuse_reply_control(request, nil, 0) } else { cfuse_reply_error(request, code) }
  }

  private func reply<Answer>(_ request: OpaquePointer, _ answer: Answer, _ outputSize: Int) {
    guard outputSize == MemoryLayout<Answer>.size else {
      return cfuse_reply_error(request, ENOTTY)
    }
    withUnsafeBytes(of: answer) {
      _ = cfuse_reply_control(request, $0.baseAddress, $0.count)
    }
  }

  private var geometry: relay_geometry {
    let channel = reader.channel
    var answer = relay_geometry()
    answer.size = UInt32(MemoryLayout<relay_geometry>.size)
    answer.flags = flags
    answer.subbuf_size = UInt32(channel.geometry.subbufSize)
    answer.n_subbufs = UInt32(channel.geometry.subbufCount)
    answer.cpu = UInt32(reader.buffer.cpu)
    answer.incarnation = channel.incarnation
    withUnsafeMutableBytes(of: &answer.channel) { name in
      // One less: it stays terminated.
      name.copyBytes(from: channel.name.utf8.prefix(name.count - 1))
    }
    return answer
  }

  private var flags: UInt32 {
    let geometry = reader.channel.geometry
    var flags: UInt32 = 0
    if geometry.mode == .overwrite { flags |= RELAY_GEOMETRY_OVERWRITE }
    if geometry.isGlobal { flags |= RELAY_GEOMETRY_GLOBAL }
    if geometry.hasTimestamps { flags |= RELAY_GEOMETRY_TIMESTAMPS }
    if options.blocks { flags |= RELAY_GEOMETRY_BLOCKING }
    if options.wakeup == .subbuffer { flags |= RELAY_GEOMETRY_SUBBUFFER }
    if endsWithDaemon { flags |= RELAY_GEOMETRY_ENDING }
    return flags
  }

  private func flush() -> CInt {
    let result = reader.flush()
    // Who waits for whole sub-buffers has one now; no writer tells.
    wake()
    switch result {
    case .flushed: return 0
    case .full: return ENOBUFS
    case .closed: return EPIPE
    case .corrupt: return EIO
    }
  }

  private func readAlone(_ file: OpenFile, _ isBegin: Bool) -> CInt {
    if let lease { askAfter(lease, for: file.uid) }
    guard soleReader == nil || soleReader === file, lease == nil,
      !isBegin || !isBehindOthers(file.uid)
    else { return EBUSY }
    if isBegin {
      beginSoleReading(file)
    } else if soleReader != nil {
      endSoleReading()
    }
    return 0
  }

  private func set(_ file: OpenFile, _ command: UInt32, _ value: CInt) -> CInt {
    guard value == 0 || value == 1 || value == -1 && command == crelay_ioc_block else {
      return EINVAL
    }
    let before = (file.kind, file.isFramed, blocks(file))
    switch command {
    case crelay_ioc_block: file.blocks = value < 0 ? nil : value == 1
    case crelay_ioc_frames: file.isFramed = value == 1
    case crelay_ioc_peek where value == 0: file.peeker = nil
    default: if file.peeker == nil { file.peeker = reader.peeker() }
    }
    file.peeker?.keepsEmptyRecords = file.isFramed
    file.noteKind()
    noteUse(of: file)
    guard before != (file.kind, file.isFramed, blocks(file)) else { return 0 }
    // What it waits for in another thread is another thing now, or nothing.
    if file.waiterCount > 0 {
      waiters.renew(file)
      var effort = Effort()
      answerParked(&effort)
    }
    goOn()
    return 0
  }
}

extension relay_buffer_statistics {
  fileprivate init(_ s: Statistics) {
    self.init(
      subbufs_produced: s.subbufsProduced, subbufs_consumed: s.subbufsConsumed,
      records_written: s.recordsWritten, records_read: s.recordsRead,
      bytes_written: s.bytesWritten, bytes_read: s.bytesRead, padding: s.padding,
      lost_full: s.lostFull, lost_too_big: s.lostTooBig, lost_overwritten: s.lostOverwritten,
      lost_stalled: s.lostStalled, lost_restart: s.lostRestart, aborted: s.aborted,
      cancelled: s.cancelled, records_unread: s.recordsUnread, bytes_unread: s.bytesUnread,
      corrupt: s.corrupt, backlog_max: s.backlogMax)
  }
}
