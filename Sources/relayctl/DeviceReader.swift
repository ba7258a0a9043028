// SPDX-License-Identifier: Apache-2.0
// One open device of a channel, read frame by frame.

import CRelayIoctl
import Glibc
import LinuxIO
import RelayControl

/// A device, and what was read from it and not printed yet.
final class DeviceReader {
  let cpu: Int
  let path: String
  private let channel: String
  private(set) var fd: CInt
  /// False: a relayd that knows no frames, whose reads return bytes.
  let isFramed: Bool
  let incarnation: UInt64
  let hasTimes: Bool
  private let subbufCount: UInt64
  /// What read(2) says of a daemon that is gone.
  private(set) var isDead = false
  /// Its channel is closed, or its daemon gone: nobody writes any more.
  private(set) var isClosing = false
  /// Its daemon ends, and the channel was closed for that only.
  private(set) var endsWithDaemon = false
  /// Reads until it is another device's turn, or it was found empty.
  var readsLeft = 0
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 4096)
  /// What of the buffer was read and not taken.
  private var unread = 0..<0
  /// What `held` found; nil: nobody asked since the last read.
  private var counted: Unwritten?
  /// Set by who prints it.
  var progress: StreamProgress
  /// Where it is printed; set by who does so.
  var output: BufferOutput?

  /// Non-blocking, so that a channel with blocking reads says when it is drained.
  init(_ channel: ChannelDescription, cpu: Int) throws {
    self.cpu = cpu
    self.channel = channel.name
    path = channel.pathPrefix + "\(cpu)"
    let device = try FileDescriptor.open(path, O_RDONLY | O_NONBLOCK)
    var on: CInt = 1
    isFramed = try DeviceReader.ask(device.raw, path, crelay_ioc_frames, &on)
    var geometry = relay_geometry()
    _ = try DeviceReader.ask(device.raw, path, crelay_ioc_geometry, &geometry)
    subbufCount = UInt64(geometry.n_subbufs)
    incarnation = geometry.incarnation
    hasTimes = geometry.flags & RELAY_GEOMETRY_TIMESTAMPS != 0
    progress = StreamProgress(incarnation: incarnation)
    fd = device.take()
  }

  /// False: the device does not know the command.
  private static func ask<Argument>(
    _ device: CInt, _ path: String, _ command: UInt32, _ argument: inout Argument
  ) throws -> Bool {
    let code = withUnsafeMutableBytes(of: &argument) {
      crelay_ioctl(device, command, $0.baseAddress)
    }
    if code == -ENOTTY || code == -ENOSYS { return false }
    guard code >= 0 else { throw SystemError(code: -code, operation: "read \(path)") }
    return true
  }

  deinit {
    end()
    buffer.deallocate()
  }
}

/// What a device gives.
enum Piece {
  case bytes(UnsafeRawBufferPointer)
  case record(relay_frame, UnsafeRawBufferPointer)
  case loss(relay_frame, relay_loss)
}

extension DeviceReader {
  /// False once it is at its end.
  var isOpen: Bool { fd >= 0 }

  /// Something was read and not printed yet.
  var holdsRecords: Bool { !unread.isEmpty }

  /// For poll; ignored there once the device is at its end. While it holds records only a close is
  /// waited for.
  var poller: pollfd {
    pollfd(fd: fd, events: holdsRecords ? 0 : Int16(POLLIN), revents: 0)
  }

  /// Half of the buffer's sub-buffers or more wait to be read.
  var isHalfFull: Bool {
    var account = relay_buffer_statistics()
    // Who cannot tell has no more to give.
    guard isOpen, !isDead,
      (try? DeviceReader.ask(fd, path, crelay_ioc_statistics, &account)) == true
    else { return false }
    return 2 &* (account.subbufs_produced &- account.subbufs_consumed) >= subbufCount
  }

  /// Poll tells of its end. Why is asked at once, while the daemon may still answer. One that is
  /// dead has no answer, which reads say.
  func noteClosing() {
    guard !isClosing else { return }
    isClosing = true
    var geometry = relay_geometry()
    guard (try? DeviceReader.ask(fd, path, crelay_ioc_geometry, &geometry)) == true else { return }
    endsWithDaemon = geometry.flags & RELAY_GEOMETRY_ENDING != 0
  }

  func end() {
    if fd >= 0 { close(fd) }
    fd = -1
    isDead = false
  }

  /// Something may be read now: nothing is left of the last read, and it is its turn. A record that
  /// is printed in part goes on, or other devices' would come in between.
  var mayRead: Bool {
    unread.isEmpty && fd >= 0 && !isDead && (readsLeft > 0 || progress.offset > 0)
  }

  /// Reads. False: there is nothing now, or `ending` gave the command up.
  /// - Precondition: `mayRead`, and what it gave before was written: what is read here is nowhere
  ///   else any more.
  func fill(_ ending: Ending?) throws -> Bool {
    readsLeft -= 1
    var hasFailed = false
    while true {
      let count = read(fd, buffer.baseAddress, buffer.count)
      if count >= 0 {
        unread = 0..<count
        if count == 0 { readsLeft = 0 }
        counted = nil
        return count > 0
      }
      switch errno {
      case EINTR:
        guard ending?.isForced == true else { continue }
        readsLeft = 0
        return false
      case EAGAIN:
        readsLeft = 0
        return false
      case ENOTCONN, ECONNABORTED, ENODEV:
        isDead = true
        return false
      case EIO where !hasFailed:
        // Also what a relayd that is killed while it answers leaves; then the device is dead.
        hasFailed = true
      case EIO:
        throw CommandFailure.failed("\(path): the shared memory of channel \(channel) is damaged")
      default: throw SystemError(code: errno, operation: "read \(path)")
      }
    }
  }

  /// What the last read gave, as an upper limit of what is left: some of it may be printed, and the
  /// device may have repeated some. Counted when it is asked for, which a single device never is.
  var held: Unwritten {
    if let counted { return counted }
    var held = Unwritten()
    var rest = UnsafeRawBufferPointer(rebasing: buffer[unread])
    while isFramed, rest.count >= MemoryLayout<relay_frame>.size {
      let frame = rest.loadUnaligned(as: relay_frame.self)
      let end = Int(frame.size) + Int(frame.length)
      guard end <= rest.count, frame.size > 0 else { break }
      if frame.type == UInt32(RELAY_FRAME_RECORD) {
        held.add(
          Part(count: 0, payload: Int(frame.length), continues: false), isFirst: true)
      }
      rest = UnsafeRawBufferPointer(rebasing: rest[min((end + 7) & ~7, rest.count)...])
    }
    if !isFramed, !rest.isEmpty {
      held.add(Part(count: 0, payload: rest.count, continues: false), isFirst: true)
    }
    counted = held
    return held
  }

  /// The time of what comes next.
  /// - Precondition: `fill` said that something does.
  var time: UInt64 {
    guard isFramed, unread.count >= MemoryLayout<relay_frame>.size else { return 0 }
    return buffer.loadUnaligned(fromByteOffset: unread.lowerBound, as: relay_frame.self).time
  }

  /// Of a `relay_loss` whose release does not number losses.
  private static let shortLoss = MemoryLayout<relay_loss>.offset(of: \.full_before)!

  /// Takes what comes next; nil: nothing is left of the last read. Valid until the next `fill`.
  func take() throws -> Piece? {
    let rest = UnsafeRawBufferPointer(rebasing: buffer[unread])
    guard !rest.isEmpty else { return nil }
    guard isFramed else {
      unread = 0..<0
      return .bytes(rest)
    }
    guard rest.count >= MemoryLayout<relay_frame>.size else { throw noFrame }
    let frame = rest.loadUnaligned(as: relay_frame.self)
    let start = Int(frame.size)
    let end = start + Int(frame.length)
    guard start >= MemoryLayout<relay_frame>.size, end <= rest.count else { throw noFrame }
    unread = min(unread.lowerBound + (end + 7) & ~7, unread.upperBound)..<unread.upperBound
    let payload = UnsafeRawBufferPointer(rebasing: rest[start..<end])
    switch frame.type {
    case UInt32(RELAY_FRAME_RECORD): return .record(frame, payload)
    case UInt32(RELAY_FRAME_LOST) where payload.count >= DeviceReader.shortLoss:
      var loss = relay_loss()
      withUnsafeMutableBytes(of: &loss) { $0.copyBytes(from: payload.prefix($0.count)) }
      return .loss(frame, loss)
    default: return try take()
    }
  }

  private var noFrame: CommandFailure {
    .failed("\(path) returned what is no frame; are relayd and relayctl of one release?")
  }
}
