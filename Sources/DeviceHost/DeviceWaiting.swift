// SPDX-License-Identifier: Apache-2.0
// Who waits for a device: polls and reads that are put aside, and when they are told.

internal import CFuse
internal import Glibc
internal import LinuxIO
internal import Relay

extension Device {
  /// Answers a poll, and remembers who wants to be told.
  /// - Parameter asked: the events that are waited for; the others would not wake anybody.
  func poll(
    _ request: OpaquePointer, _ file: OpenFile, _ poll: OpaquePointer?, asked: UInt32
  ) {
    guard !file.isEvicted else {
      cfuse_reply_poll(request, UInt32(POLLERR | POLLHUP))
      return
    }
    let outlook = file.writes ? outlookEvents() : 0
    // Stored before the events are computed: a wake in between finds it.
    if let poll {
      file.take(poll)
      let isForData = file.reads && (!file.writes || asked & UInt32(POLLIN | POLLRDNORM) != 0)
      if isForData, !file.isAwaited {
        file.isAwaited = true
        awaitedPolls += 1
      }
      if file.writes, !isForData || asked & UInt32(POLLOUT | POLLWRNORM) != 0 { awaitRoom(file) }
      armIfAwaited()
    }
    var look = Look()
    cfuse_reply_poll(request, outlook | (file.reads ? look.events(for: file) : 0))
    reportCorruption()
  }

  /// Reads that may wait for one buffer.
  private static let parkedLimit = Share(of: 4096, perUser: nil)

  /// Whether a read of that user may wait, too.
  func mayPark(_ uid: UInt32) -> Bool {
    Device.parkedLimit.shortage(
      uid, user: parked.count { $0.file.uid == uid },
      others: parked.count { !Share.isPrivileged($0.file.uid) }, all: parked.count) == nil
  }

  /// What files would be told now. Those that share the cursor are told the same: it is looked at
  /// once for bytes, and once for frames.
  private struct Look {
    private var bytes: UInt32?
    private var frames: UInt32?

    /// POLLIN whenever a read would return data (or a whole sub-buffer, where it was so chosen);
    /// POLLHUP once the channel is closed.
    mutating func events(for file: OpenFile) -> UInt32 {
      guard file.device.mayRead(file) else { return UInt32(POLLERR) }
      guard file.peeker == nil else { return Look.look(for: file) }
      if let known = file.isFramed ? frames : bytes { return known }
      let events = Look.look(for: file)
      if file.isFramed { frames = events } else { bytes = events }
      return events
    }

    private static func look(for file: OpenFile) -> UInt32 {
      let reader = file.reader
      let isClosed = reader.isClosed
      let isThere = file.isFramed ? reader.hasFrames : reader.hasData
      if isThere, isClosed || file.device.options.wakeup == .data || reader.isBehindWriters {
        return UInt32(POLLIN | POLLRDNORM | (isClosed ? POLLHUP : 0))
      }
      if reader.isCorrupt { return UInt32(POLLERR) }
      return reader.isDrained ? UInt32(POLLHUP) : 0
    }
  }

  var isAwaited: Bool {
    awaitedPolls > 0 || !parked.isEmpty || awaitsRoom || lease != nil || isAwaitedBehindOthers
  }

  /// How many of those who wait would find something now, and how many would not.
  private func countWaiting() -> (ready: Int, unready: Int) {
    var look = Look()
    var count = (ready: 0, unready: 0)
    func add(_ file: OpenFile) {
      if look.events(for: file) != 0 { count.ready += 1 } else { count.unready += 1 }
    }
    for file in files where file.isAwaited { add(file) }
    for read in parked { add(read.file) }
    if awaitsRoom {
      let now = outlook
      if now == .full { count.unready += 1 } else if now != output.told { count.ready += 1 }
    }
    return count
  }

  /// Makes sure that who waits will be told. Where there is data, who waits for it has seen it, and
  /// the read that drains it comes here again.
  func armIfAwaited() {
    // Bounded: in hostile memory data may come and go with each look. The tick looks again.
    for _ in 0..<8 where isAwaited {
      keeper?.startWaking(self)
      // Looking first saves the barrier. Not armed: something came in between.
      let before = countWaiting().unready
      guard before > 0, !reader.arm(options.wakeup, unless: { countWaiting().unready < before })
      else { return }
      tell()
    }
  }

  /// After a writer's signal, and from time to time in case one was lost.
  func wake() {
    endWaits()
    reader.settlePassed()
    if let lease {
      offerRoom()
      return look(after: lease)
    }
    guard isAwaited else { return }
    if countWaiting().ready > 0 {
      tell()
      armIfAwaited()
    } else if !reader.isArmed(options.wakeup) {
      armIfAwaited()
    }
  }

  /// Answers the reads that wait and wakes the polls; who has to go on waiting will be told again.
  private func tell() {
    answerParked()
    if awaitedPolls > 0 { notifyPolls() }
    offerRoom()
  }

  /// In the order in which they came, as far as there is something for them.
  func answerParked() {
    var left: [Parked] = []
    for read in parked {
      // Who may not read any more need not wait to be told so.
      let hasToWait = mayRead(read.file) && left.contains { $0.file.competes(with: read.file) }
      if hasToWait || !answer(read) { left.append(read) }
    }
    parked = left
  }

  /// Answers a waiting read; false when there is nothing left for it.
  private func answer(_ read: Parked) -> Bool {
    if deliver(read.request, read.file, read.size) { return true }
    if let end = end(for: read.file) {
      cfuse_reply_error(read.request, end)
      return true
    }
    // It may have been told meanwhile not to wait.
    guard !(read.file.blocks ?? options.blocks) else { return false }
    reply(nothing: read.request)
    return true
  }

  private func notifyPolls() {
    var look = Look()
    for file in files where file.isAwaited && look.events(for: file) != 0 {
      file.isAwaited = false
      awaitedPolls -= 1
      if let poll = file.poll { cfuse_poll_notify(poll) }
    }
  }
}
