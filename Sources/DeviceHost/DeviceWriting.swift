// SPDX-License-Identifier: Apache-2.0
// Writes to a device: one write(2), one record in its buffer. A write that finds the buffer full is
// put aside and answered, first come, first served, once a reader has made room.

internal import CFuse
internal import Glibc
internal import LinuxIO
internal import Relay

/// The writes that wait for room, and what is known by those who poll for it.
struct Output {
  struct Waiting {
    let request: OpaquePointer
    let file: Device.OpenFile
    let record: [UInt8]
  }

  var waiting: [Waiting] = []
  /// Open files that are to be told.
  var awaitedPolls = 0
  /// What one byte would have met, as they know it.
  var told = WriteResult.written

  /// The kernel cuts a write(2) that has more than 32 pages, each begun one counted, and says so
  /// nowhere. What has no more than this many bytes in one piece is never cut.
  static let longestRecord = 31 * Int(getpagesize())
  /// Bytes of the records that wait.
  static let waitingLimit = Share(of: 16 << 20, perUser: nil)

  /// Whether a record of that user may wait, too.
  func hasRoom(for byteCount: Int, of uid: UInt32) -> Bool {
    func waitingBytes(where counts: (UInt32) -> Bool) -> Int {
      waiting.reduce(0) { $0 + (counts($1.file.uid) ? $1.record.count : 0) }
    }
    return Output.waitingLimit.shortage(
      uid, asksFor: byteCount, user: waitingBytes { $0 == uid },
      others: waitingBytes { !Share.isPrivileged($0) }, all: waitingBytes { _ in true }) == nil
  }
}

extension Device {
  /// Answers a write, at once or later.
  /// - Parameters:
  ///   - isContinuation: a part of it was written already, as a record; or it is not the first
  ///     splice(2) or sendfile(2) to this open file of a mount. They cannot be told apart: a
  ///     program that copies by these gets the answer of a device, and goes on by write(2).
  ///   - flags: the open file's.
  func write(
    _ request: OpaquePointer, _ file: OpenFile, _ record: UnsafeRawBufferPointer,
    isContinuation: Bool, flags: CInt
  ) {
    guard !file.isEvicted else { return cfuse_reply_error(request, ESTALE) }
    let limit = min(Output.longestRecord, reader.channel.geometry.subbufSize)
    guard !isContinuation else { return cfuse_reply_error(request, EINVAL) }
    guard record.count <= limit else { return cfuse_reply_error(request, EMSGSIZE) }
    // Who waits comes first.
    offerRoom()
    if output.waiting.isEmpty, answer(request, record) { return }
    output.told = .full
    guard flags & O_NONBLOCK == 0 else {
      armIfAwaited()
      return cfuse_reply_error(request, EAGAIN)
    }
    guard output.hasRoom(for: record.count, of: file.uid) else {
      return cfuse_reply_error(request, ENOMEM)
    }
    guard cfuse_park(request, file.handle) == 0 else { return cfuse_reply_error(request, EINTR) }
    output.waiting.append(Output.Waiting(request: request, file: file, record: Array(record)))
    armIfAwaited()
  }

  /// False, and no answer given, while the buffer is full.
  private func answer(_ request: OpaquePointer, _ record: UnsafeRawBufferPointer) -> Bool {
    let result =
      reader.isCorrupt ? .corrupt : reader.channel.write(record, into: reader.buffer)
    switch result {
    case .written: cfuse_reply_written(request, record.count)
    case .full: return false
    case .tooBig: cfuse_reply_error(request, EMSGSIZE)
    // These are for attached producers only.
    case .closed, .unserved: cfuse_reply_error(request, EPIPE)
    case .corrupt, .holding: cfuse_reply_error(request, EIO)
    }
    return true
  }

  /// Who waits for a write's answer got a signal.
  func interruptedWrite(_ request: OpaquePointer) {
    guard let index = output.waiting.firstIndex(where: { $0.request == request }) else { return }
    output.waiting.remove(at: index)
    cfuse_reply_error(request, EINTR)
  }

  func abandonWrites(_ session: ObjectIdentifier) {
    endWrites(ENODEV) { $0.session == session }
  }

  func evictWrites(of file: OpenFile) { endWrites(ESTALE) { $0 === file } }

  private func endWrites(_ code: CInt, where isMeant: (OpenFile) -> Bool) {
    for write in output.waiting where isMeant(write.file) {
      cfuse_reply_error(write.request, code)
    }
    output.waiting.removeAll { isMeant($0.file) }
  }
}

extension Device {
  /// Whether somebody wants to be told of room.
  var awaitsRoom: Bool { output.awaitedPolls > 0 || !output.waiting.isEmpty }

  func awaitRoom(_ file: OpenFile) {
    if !file.awaitsRoom { output.awaitedPolls += 1 }
    file.awaitsRoom = true
  }

  /// What the first write that waits would meet now, or one of a byte.
  var outlook: WriteResult {
    reader.isCorrupt ? .corrupt : reader.buffer.outlook(output.waiting.first?.record.count ?? 1)
  }

  /// Answers the writes that wait, as far as there is room, and tells who polls of what is new.
  func offerRoom() {
    guard awaitsRoom else { return }
    // A look frees what a stopped writer or a cancelled record held.
    if outlook == .full, !reader.hasData, reader.hasMoreToWalk { keeper?.goOnLater(self) }
    let isFull = !answerWaiting()
    tellPolls(isFull ? .full : outlook)
  }

  /// In the order in which they came; false when some are left.
  private func answerWaiting() -> Bool {
    let count = output.waiting.prefix { write in
      write.record.withUnsafeBytes { answer(write.request, $0) }
    }.count
    output.waiting.removeFirst(count)
    return output.waiting.isEmpty
  }

  private func tellPolls(_ now: WriteResult) {
    let isNews = now != output.told && now != .full
    output.told = now
    guard isNews else { return }
    for file in files where file.awaitsRoom {
      file.awaitsRoom = false
      output.awaitedPolls -= 1
      if let poll = file.poll { cfuse_poll_notify(poll) }
    }
  }

  /// POLLOUT exactly when a write of one byte would be taken now; POLLERR when it would fail.
  func outlookEvents() -> UInt32 {
    offerRoom()
    let now = output.waiting.isEmpty ? outlook : .full
    tellPolls(now)
    return switch now {
    case .written, .tooBig: UInt32(POLLOUT | POLLWRNORM)
    case .full: 0
    case .closed, .unserved: UInt32(POLLERR | POLLHUP)
    case .corrupt, .holding: UInt32(POLLERR)
    }
  }
}
