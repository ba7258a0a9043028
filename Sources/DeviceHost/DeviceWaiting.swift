// SPDX-License-Identifier: Apache-2.0
// Polls and reads that a device cannot answer yet, and when it looks at them again. However many
// there are, and however much there is to look at, one turn of the thread does a bounded part of
// it; others are served before the next one.

internal import CFuse
internal import Glibc
internal import LinuxIO
internal import Relay

/// What one turn may still do for one device.
struct Effort {
  /// In entries walked, which cost some nanoseconds each: as much as some requests.
  static let whole = 1 << 14
  private static let oneAnswer = whole / 16
  private var left = Effort.whole

  /// What the last look of a reader cost.
  static func look(_ reader: Reader) -> Int { whole / 128 + reader.walked }

  var isLeft: Bool { left > 0 }
  mutating func spend(_ cost: Int) { left -= cost }
  mutating func noteAnswer() { left -= Effort.oneAnswer }
}

extension Device {
  /// Answers a poll, and remembers its file where the kernel wants a notice later.
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
        waiters.add(Waiter(file), isSeen: true)
      }
      if file.writes, !isForData || asked & UInt32(POLLOUT | POLLWRNORM) != 0 { awaitRoom(file) }
      armIfAwaited()
    }
    var look = Look()
    cfuse_reply_poll(request, outlook | (file.reads ? events(for: file, &look) : 0))
    if file.isAwaited {
      noteStall(of: file)
      if look.isUnfinished { goOnLater() }
    }
    reportCorruption()
  }

  /// What files would be told now. Those that share the cursor are told the same: it is looked at
  /// once for bytes, and once for frames.
  private struct Look {
    var known: InlineArray<2, UInt32?> = [nil, nil]
    /// Where nothing was found, a look came to its limit.
    var isUnfinished = false
    /// What the looks cost so far, in the units of `Effort`.
    var cost = 0
  }

  /// POLLIN whenever a read would return data (or a whole sub-buffer, where it was so chosen);
  /// POLLHUP once the channel is closed.
  private func events(for file: OpenFile, _ look: inout Look) -> UInt32 {
    guard mayRead(file) else { return UInt32(POLLERR) }
    guard let peeker = file.peeker else { return events(file.kind, &look) }
    return events(from: peeker, isFramed: file.isFramed, &look)
  }

  private func events(_ shared: Waiter.Kind, _ look: inout Look) -> UInt32 {
    if let known = look.known[shared.rawValue] { return known }
    let events = events(from: reader, isFramed: shared == .frames, &look)
    look.known[shared.rawValue] = events
    return events
  }

  private func events(from reader: Reader, isFramed: Bool, _ look: inout Look) -> UInt32 {
    let isClosed = reader.isClosed
    let isThere = isFramed ? reader.hasFrames : reader.hasData
    look.cost += Effort.look(reader)
    if isThere, isClosed || options.wakeup == .data || reader.isBehindWriters {
      return UInt32(POLLIN | POLLRDNORM | (isClosed ? POLLHUP : 0))
    }
    if reader.isCorrupt { return UInt32(POLLERR) }
    if reader.hasMoreToWalk {
      look.isUnfinished = true
      return 0
    }
    return reader.isDrained ? UInt32(POLLHUP) : 0
  }

  var isAwaited: Bool {
    !waiters.isEmpty || awaitsRoom || lease != nil || isAwaitedBehindOthers
  }

  /// How many kinds of those who share the cursor, or wait for room, would find nothing now.
  private func countUnready() -> (count: Int, isUnfinished: Bool) {
    var look = Look()
    var count = 0
    for kind in Waiter.Kind.shared where waiters.count(kind) > 0 {
      if events(kind, &look) == 0 { count += 1 }
    }
    if awaitsRoom, outlook == .full { count += 1 }
    return (count, look.isUnfinished)
  }

  /// Makes sure that waiting reads and polls are looked at in time. Where there is data, those that
  /// wait for it have seen it, and the read that drains it comes here again.
  func armIfAwaited() {
    // Bounded: in hostile memory data may come and go with each look. The tick looks again.
    for _ in 0..<8 where isAwaited {
      // Looking first saves the barrier.
      let before = countUnready()
      // After the look, which begins to wait for a stopped writer.
      keeper?.startWaking(self)
      guard !before.isUnfinished else { return goOnLater() }
      // No writer has taken the wish: what comes after the look tells.
      guard !reader.isArmed(options.wakeup) else { return }
      // Before the next looks at those with cursors of their own, of which each costs one.
      guard waiters.count(.own) == 0 else { return goOnLater() }
      // Not armed: something came in between.
      guard before.count > 0, !reader.arm(options.wakeup, unless: { hasCome(since: before.count) })
      else { return }
      if turn() { return goOnLater() }
    }
  }

  private func hasCome(since unready: Int) -> Bool {
    let now = countUnready()
    return now.isUnfinished || now.count < unready
  }

  /// After a writer's signal, and from time to time in case one was lost.
  func wake() {
    endWaits()
    reader.settlePassed()
    if let lease {
      offerRoom()
      return look(after: lease)
    }
    waiters.wantsRound = true
    goOn()
  }

  /// The next turn for this device.
  func goOn() {
    guard lease == nil else { return wake() }
    guard isAwaited else { return }
    if turn() { keeper?.goOnLater(self) } else { armIfAwaited() }
  }

  /// Waiting reads and polls are looked at again once other devices were served.
  func goOnLater() {
    waiters.wantsRound = true
    keeper?.goOnLater(self)
  }

  /// Answers waiting reads and wakes polls, as far as one turn goes. True: there is more to do.
  private func turn() -> Bool {
    if waiters.wantsRound, !waiters.isInRound {
      // First: what comes while they are looked at one by one tells again.
      if waiters.count(.own) > 0, !reader.isArmed(options.wakeup) {
        reader.armToLook(options.wakeup)
      }
      ownStallEnd = nil
      waiters.beginRound()
    }
    var effort = Effort()
    var ownLook = Look()
    while effort.isLeft, waiters.isNextOwn { tellNext(&ownLook, &effort) }
    var look = Look()
    if effort.isLeft, !waiters.isNextOwn {
      if areReadsDue(&look) {
        answerParked(&effort)
        look = Look()
      }
      while effort.isLeft, waiters.next != nil { tellNext(&look, &effort) }
      waiters.endRoundIfAllSeen()
    }
    offerRoom()
    if look.isUnfinished || ownLook.isUnfinished { waiters.wantsRound = true }
    return waiters.isInRound || waiters.wantsRound || hasUndecided
  }

  private func tellNext(_ look: inout Look, _ effort: inout Effort) {
    guard let waiter = waiters.next else { return }
    let finding = tell(waiter, &look, &effort)
    waiters.passNext(finding)
  }

  private func areReadsDue(_ look: inout Look) -> Bool {
    guard !waiters.reads.isEmpty else { return false }
    // Reads that may not read any more are answered at once, and those whose walk went on get what
    // a new read would get.
    if soleReader != nil || waiters.impatientReads > 0 || hasUndecided { return true }
    var areDue = false
    for kind in Waiter.Kind.shared where waiters.readCount(kind) > 0 {
      if events(kind, &look) != 0 { areDue = true }
    }
    return areDue
  }

  /// In the order in which they came, as far as there is something for them.
  func answerParked(_ effort: inout Effort) {
    guard !waiters.reads.isEmpty else { return }
    var trial = Waiters.Trial()
    // A read that RELAY_IOC_EXCL locks out fails at once; it waits behind no other read.
    var isWhole: Bool {
      trial.next == waiters.reads.count || soleReader == nil && waiters.isOver(trial)
    }
    while effort.isLeft, !isWhole {
      let read = waiters.reads[trial.next]
      var finding = mayRead(read.file) ? trial.finding(read.kind) : nil
      if finding == nil {
        finding = answer(read, &effort)
      } else if finding == .nothing, let request = read.request, let ifNothing = read.ifNothing {
        reply(request, ifNothing: ifNothing)
        effort.noteAnswer()
        finding = nil
      }
      trial.note(read, finding)
    }
    waiters.end(trial, isWhole: isWhole)
    if hasUndecided { keeper?.goOnLater(self) }
  }

  private var hasUndecided: Bool {
    Waiter.Kind.shared.contains { waiters.isUndecided($0) }
  }

  /// Looks at one poll, or at one read with a cursor of its own; nil: it waits no more.
  private func tell(
    _ waiter: Waiter, _ look: inout Look, _ effort: inout Effort
  ) -> Waiters.Finding? {
    let file = waiter.file
    if waiter.request != nil, waiter.isUndecided || waiter.ifNothing != nil {
      let finding = answer(waiter, &effort)
      noteStall(of: file)
      if finding == .notKnown { look.isUnfinished = true }
      return finding
    }
    let events = events(for: file, &look)
    effort.spend(look.cost)
    look.cost = 0
    noteStall(of: file)
    guard events != 0 else { return .nothing }
    guard waiter.request == nil else { return answer(waiter, &effort) }
    effort.noteAnswer()
    file.isAwaited = false
    if let poll = file.poll { cfuse_poll_notify(poll) }
    return nil
  }

  /// Answers a waiting read, or says why not.
  private func answer(_ read: Waiter, _ effort: inout Effort) -> Waiters.Finding? {
    guard mayRead(read.file) else {
      if let request = read.request { cfuse_reply_error(request, EBUSY) }
      effort.noteAnswer()
      return nil
    }
    defer { effort.spend(Effort.look(read.file.reader)) }
    if let request = read.request, !deliver(request, read.file, read.size) {
      guard !read.file.reader.hasMoreToWalk else { return .notKnown }
      if let end = end(for: read.file) {
        cfuse_reply_error(request, end)
      } else if let ifNothing = read.ifNothing {
        reply(request, ifNothing: ifNothing)
      } else {
        return .nothing
      }
    }
    effort.noteAnswer()
    return nil
  }

  func reply(_ request: OpaquePointer, ifNothing: CInt) {
    if ifNothing == 0 { reply(nothing: request) } else { cfuse_reply_error(request, ifNothing) }
  }

  /// Has a cursor that waits for a stopped writer looked at in time.
  func noteStall(of file: OpenFile) {
    guard let left = file.peeker?.stallTimeLeft else { return }
    let end = Clock.milliseconds() + left
    guard end < ownStallEnd ?? Int.max else { return }
    ownStallEnd = end
    keeper?.startWaking(self)
  }
}
