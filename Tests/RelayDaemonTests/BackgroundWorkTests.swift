// SPDX-License-Identifier: Apache-2.0
// The order of background work, and where its end is told.

import LinuxIO
import Synchronization
import Testing

@testable import RelayDaemon

/// The steps that were taken, of all jobs.
private final class Steps: Sendable {
  let all = Mutex<[String]>([])
}

private final class Job: BackgroundJob, Sendable {
  private let name: String
  private let left: Mutex<Int>
  private let steps: Steps
  /// The first step waits until this is readable.
  private let gate: CInt?

  init(_ name: String, _ count: Int, _ steps: Steps, gate: CInt? = nil) {
    self.name = name
    left = Mutex(count)
    self.steps = steps
    self.gate = gate
  }

  func step() -> Bool {
    if let gate { _ = Readiness.wait(gate, .read, timeoutMilliseconds: 30_000) }
    steps.all.withLock { $0.append(name) }
    return left.withLock { left in
      left -= 1
      return left == 0
    }
  }
}

@Suite struct BackgroundWorkTests {
  private let loop: EventLoop
  private let work: BackgroundWork
  private let steps = Steps()

  init() throws {
    loop = try EventLoop()
    work = try BackgroundWork(loop: loop)
  }

  /// Submits these behind a job that waits until all are there, and serves until all are done.
  private func run(_ jobs: [(name: String, count: Int, turn: BackgroundWork.Turn)]) throws {
    let gate = try EventFD()
    var told = 0
    work.submit(Job("gate", 1, steps, gate: gate.raw), .first) { told += 1 }
    for (name, count, turn) in jobs {
      work.submit(Job(name, count, steps), turn) { told += 1 }
    }
    #expect(told == 0, "on the loop only")
    gate.signal()
    while told < jobs.count + 1 {
      try #require(try loop.runOnce(timeoutMilliseconds: 30_000) > 0)
    }
    work.stop()
  }

  @Test func usersTakeTurnsAndTheirJobsComeInOrder() throws {
    try run([("a", 2, .user(1)), ("b", 1, .user(1)), ("c", 1, .user(1)), ("d", 3, .user(2))])
    #expect(
      steps.all.withLock { $0 } == ["gate", "a", "d", "a", "d", "b", "d", "c"])
  }

  @Test func memoryThatIsGivenBackComesFirstAndRootSecond() throws {
    try run([("user", 1, .user(1)), ("root", 2, .privileged), ("back", 2, .first)])
    #expect(steps.all.withLock { $0 } == ["gate", "back", "back", "root", "root", "user"])
  }

  @Test func stopLeavesTheRestUndoneAndUntold() throws {
    let gate = try EventFD()
    gate.signal()
    work.submit(Job("endless", .max, steps, gate: gate.raw), .privileged) { Issue.record("told") }
    work.stop()
    work.stop()
    let count = steps.all.withLock { $0.count }
    work.submit(Job("late", 1, steps), .first) { Issue.record("told") }
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0)
    #expect(steps.all.withLock { $0.count } == count)
  }
}
