// SPDX-License-Identifier: Apache-2.0
// The loop and its sources, one thread and one step at a time.

import Glibc
import LinuxIO
import Testing

/// Does what the test says for each event and counts them.
private final class Recorder: EventHandler {
  var seen: [(events: Events, fd: CInt)] = []
  var onEvent: (CInt) -> Void = { _ in }

  func handle(_ events: Events, from fd: CInt) {
    seen.append((events, fd))
    onEvent(fd)
  }
}

@Suite struct EventLoopTests {
  private let loop: EventLoop
  private let recorder = Recorder()

  init() throws { loop = try EventLoop() }

  @Test func aSignalledEventIsSeenUntilDrained() throws {
    let event = try EventFD()
    try loop.add(event.raw, .read, recorder)
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0)
    event.signal()
    event.signal()
    try loop.runOnce(timeoutMilliseconds: 0)
    try loop.runOnce(timeoutMilliseconds: 0)
    #expect(recorder.seen.count == 2)
    event.drain()
    event.drain()
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0)
  }

  @Test func aFullEventBlocksNobodyEvenWithoutNonblock() throws {
    let event = try EventFD()
    #expect(fcntl(event.raw, F_SETFL, 0) == 0)
    var almost = UInt64.max - 1
    #expect(write(event.raw, &almost, 8) == 8)
    event.signal()
    event.drain()
    event.drain()
    event.signal()
    #expect(Readiness.wait(event.raw, .read, timeoutMilliseconds: 0) == .read)
  }

  @Test func aHandlerMayRemoveAnotherWhoseEventWaits() throws {
    let first = try EventFD()
    let second = try EventFD()
    let (a, b) = (first.raw, second.raw)
    for fd in [a, b] { try loop.add(fd, .read, recorder) }
    recorder.onEvent = { [loop] fd in loop.remove(fd == a ? b : a) }
    first.signal()
    second.signal()
    try loop.runOnce(timeoutMilliseconds: 0)
    #expect(recorder.seen.count == 1)
  }

  @Test func anEventOfAnEarlierRegistrationIsDropped() throws {
    let first = try EventFD()
    let second = try EventFD()
    let (a, b) = (first.raw, second.raw)
    let successor = Recorder()
    for fd in [a, b] { try loop.add(fd, .read, recorder) }
    // Whichever comes first registers the other anew: its waiting event is the old one's.
    recorder.onEvent = { [loop] fd in
      let other = fd == a ? b : a
      loop.remove(other)
      try? loop.add(other, .read, successor)
    }
    first.signal()
    second.signal()
    try loop.runOnce(timeoutMilliseconds: 0)
    #expect(recorder.seen.count == 1)
    #expect(successor.seen.isEmpty)
  }

  @Test func stopEndsRunFromInsideAHandler() throws {
    let event = try EventFD()
    try loop.add(event.raw, .read, recorder)
    recorder.onEvent = { [loop] _ in loop.stop() }
    event.signal()
    try loop.run()
    #expect(recorder.seen.count == 1)
  }

  @Test func interestCanChange() throws {
    let pair = try UnixSocket.pair()
    try loop.add(pair.first.raw, [], recorder)
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0)
    try loop.modify(pair.first.raw, .write)
    try loop.runOnce(timeoutMilliseconds: 0)
    #expect(recorder.seen.last?.events == .write)
  }

  @Test func aHangupIsReportedUnasked() throws {
    var pair: SocketPair? = try UnixSocket.pair()
    let kept = try pair!.first.duplicate()
    try loop.add(kept.raw, [], recorder)
    pair = nil
    try loop.runOnce(timeoutMilliseconds: 10_000)
    // The duplicate keeps the first end; the second is gone.
    #expect(recorder.seen.last?.events.contains(.hangup) == true)
    loop.remove(kept.raw)
  }

  @Test func misuseIsAnError() throws {
    let event = try EventFD()
    let null = try FileDescriptor.open("/etc/passwd", O_RDONLY)
    try loop.add(event.raw, .read, recorder)
    let (loop, recorder) = (loop, recorder)
    let raw = event.raw
    #expect(code { () throws(SystemError) in try loop.add(raw, .read, recorder) } == EEXIST)
    #expect(code { () throws(SystemError) in try loop.add(null.raw, .read, recorder) } == EPERM)
    #expect(code { () throws(SystemError) in try loop.modify(null.raw, .read) } == ENOENT)
    loop.remove(null.raw)
    event.signal()
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 1)
  }

  @Test func aDisarmedTimerDoesNotFire() throws {
    let timer = try TimerFD()
    timer.arm(onceAfterMilliseconds: 1)
    #expect(Readiness.wait(timer.raw, .read, timeoutMilliseconds: 10_000) == .read)
    timer.disarm()
    timer.drain()
    #expect(Readiness.wait(timer.raw, .read, timeoutMilliseconds: 0) == [])
  }

  @Test func aTimerCanFireOnce() throws {
    let timer = try TimerFD()
    timer.arm(onceAfterMilliseconds: 0)
    #expect(Readiness.wait(timer.raw, .read, timeoutMilliseconds: 10_000) == .read)
    timer.drain()
    #expect(Readiness.wait(timer.raw, .read, timeoutMilliseconds: 20) == [])
  }

  @Test func aBlockedSignalBecomesAnEvent() throws {
    let signals = try SignalFD([SIGUSR2])
    #expect(signals.next() == nil)
    // To this thread only, which is the one that blocks it.
    #expect(pthread_kill(pthread_self(), SIGUSR2) == 0)
    #expect(Readiness.wait(signals.raw, .read, timeoutMilliseconds: 10_000) == .read)
    #expect(signals.next() == SIGUSR2)
    #expect(signals.next() == nil)
  }

  @Test func whatIsPutOffComesOnceAfterTheEventsAtHand() throws {
    let first = try EventFD()
    let second = try EventFD()
    for fd in [first.raw, second.raw] { try loop.add(fd, .read, recorder) }
    first.signal()
    second.signal()
    var seen: [Int] = []
    recorder.onEvent = { [loop, recorder] _ in
      if seen.isEmpty, recorder.seen.count == 1 {
        loop.afterEvents { seen.append(recorder.seen.count) }
      }
    }
    try loop.runOnce(timeoutMilliseconds: 0)
    try loop.runOnce(timeoutMilliseconds: 0)
    #expect(seen == [2])
  }
}
