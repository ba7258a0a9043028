// SPDX-License-Identifier: Apache-2.0
// However fast others cause lines of the log, few are logged, and none goes uncounted.

import Glibc
import LinuxIO
import RelayControl
import Synchronization
import Testing

@testable import RelayDaemon

@Suite struct LogLimiterTests {
  @Test func burstIsLoggedAndTheRestCounted() {
    var allowance = LineAllowance(burst: 10)
    var taken = 0
    for i in 0..<1540 where allowance.take(at: 70_000 + i / 2, amount: 3) { taken += 1 }
    #expect(taken == 10 && allowance.leftOut == 1530 && allowance.amountLeftOut == 4590)
    let sum = allowance.takeLeftOut()
    #expect(sum?.count == 1530 && sum?.amount == 4590)
    let none = allowance.takeLeftOut()
    #expect(none == nil)
  }

  @Test func nothingIsLoggedBeforeWhatWasLeftOutIsSummedUp() {
    var allowance = LineAllowance(burst: 1)
    var before: [Bool] = []
    for time in [0, 1, 70_000] { before.append(allowance.take(at: time)) }
    #expect(before == [true, false, false])
    let sum = allowance.takeLeftOut()
    let after = allowance.take(at: 70_001)
    #expect(sum?.count == 2 && after)
  }

  /// As many a minute as there may be at once, whenever they come.
  @Test(arguments: [1, 10, 100, 1000]) func allowanceComesBackWithTime(_ burst: Int) {
    var allowance = LineAllowance(burst: burst)
    var taken = 0
    for second in 0..<600 {
      for _ in 0..<2000 where allowance.take(at: second * 1000) { taken += 1 }
      _ = allowance.takeLeftOut()
    }
    #expect((10 * burst..<11 * burst).contains(taken))
    let isTaken = allowance.take(at: 1_000_000)
    #expect(isTaken)
  }

  @Test func clockThatGoesBackBreaksNothing() {
    var allowance = LineAllowance(burst: 2)
    var taken: [Bool] = []
    for time in [.max, 0, .max, 5] { taken.append(allowance.take(at: time)) }
    #expect(taken[0] && taken[1])
  }

  /// Of 1,000 lines of that user, how many are logged.
  private func taken(_ user: UInt32?, of allowances: inout KindAllowances, at now: Int = 0) -> Int {
    var count = 0
    for _ in 0..<1000 where allowances.take(user, at: now, amount: 2) { count += 1 }
    return count
  }

  @Test func userTakesNothingOfAnothersAllowance() {
    var allowances = KindAllowances(burst: 10)
    for user in [4001, 4002, 0, nil, 4003] as [UInt32?] {
      #expect(taken(user, of: &allowances) == 10, "\(user as Any)")
    }
    let own = taken(geteuid(), of: &allowances)
    #expect(own == 0, "relayd's user and root share one")
    let sum = allowances.takeLeftOut()
    #expect(sum?.count == 5 * 990 + 1000 && sum?.amount == 2 * UInt64(5 * 990 + 1000))
    let none = allowances.takeLeftOut()
    #expect(none == nil)
  }

  @Test func manyUsersShareOneAllowance() {
    var allowances = KindAllowances(burst: 10)
    let bound = (KindAllowances.userCount + 1) * 10
    let all = (4000..<4200).reduce(0) { $0 + taken(UInt32($1), of: &allowances) }
    #expect(all == bound)
    #expect(taken(0, of: &allowances) == 10, "root's is its own")
    _ = allowances.takeLeftOut()
    #expect(taken(5000, of: &allowances, at: 1000) == 0)
    _ = allowances.takeLeftOut()
    // Those that cause nothing any more make room.
    for user in 5000..<5005 {
      #expect(taken(UInt32(user), of: &allowances, at: 62_000) == 10)
    }
  }

  @Test func overdueLineIsCountedOnce() {
    var allowances = KindAllowances(burst: 1)
    var before = [allowances.take(4001, at: 0), allowances.take(4001, at: 0)]
    for _ in 0..<3 { before.append(allowances.take(4001, at: 0, isOverdue: true)) }
    #expect(before == [true, false, false, false, false])
    let sum = allowances.takeLeftOut()
    #expect(sum?.count == 1)
    let after = [
      allowances.take(4001, at: 1000, isOverdue: true),
      allowances.take(4001, at: 60_000, isOverdue: true),
    ]
    #expect(after == [false, true])
    let none = allowances.takeLeftOut()
    #expect(none == nil)
  }

  private final class Lines: Sendable {
    let all = Mutex<[String]>([])
    func append(_ line: String) { all.withLock { $0.append(line) } }
  }

  @Test func sumsAreExactAndComeOnceASecond() throws {
    let loop = try EventLoop()
    let lines = Lines()
    let limiter = try LogLimiter(loop: loop) { level, text in lines.append("\(level): \(text)") }
    for i in 0..<500 { limiter.log(.death, by: 0, amount: 2, "died \(i)") }
    for i in 0..<12 { limiter.log(.refusal, by: 0, "refused \(i)") }
    #expect(lines.all.withLock { $0.count } == 20)
    var start = timespec()
    clock_gettime(CLOCK_MONOTONIC, &start)
    #expect(try loop.runOnce(timeoutMilliseconds: 10_000) == 1)
    var end = timespec()
    clock_gettime(CLOCK_MONOTONIC, &end)
    let milliseconds =
      (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1_000_000
    #expect(milliseconds > 900)
    #expect(
      lines.all.withLock { $0.suffix(2) } == [
        "notice: 490 more messages left out in the last second, about processes that died while "
          + "they wrote: 980 unfinished records discarded",
        "warning: 2 more messages left out in the last second, about refused connections and "
          + "requests",
      ])
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0, "an idle daemon sleeps")
  }

  @Test func usersHaveOneSumTogetherAndRoomIsSignalled() throws {
    let loop = try EventLoop()
    let lines = Lines()
    let limiter = try LogLimiter(loop: loop) { _, text in lines.append(text) }
    for user in [4001, 4002] as [UInt32] {
      for i in 0..<13 { limiter.log(.refusal, by: user, "user \(user): \(i)") }
    }
    let isLogged = limiter.log(.refusal, by: 4003, "user 4003")
    let isLeftOut = !limiter.log(.refusal, by: 4001, isOverdue: true, "user 4001 again")
    #expect(isLogged && isLeftOut)
    #expect(Readiness.wait(limiter.room.raw, .read, timeoutMilliseconds: 0).isEmpty)
    #expect(try loop.runOnce(timeoutMilliseconds: 10_000) == 1)
    #expect(Readiness.wait(limiter.room.raw, .read, timeoutMilliseconds: 0) == .read)
    let all = lines.all.withLock { $0 }
    #expect(all.count == 22)
    #expect(
      all.last == "6 more messages left out in the last second, about refused connections and "
        + "requests")
  }

  @Test func anyThreadMayLog() throws {
    let loop = try EventLoop()
    let lines = Lines()
    let limiter = try LogLimiter(loop: loop) { _, text in lines.append(text) }
    let threads = try (0..<4).map { _ in
      try Thread(name: "logs") { for _ in 0..<1000 { limiter.log(.file, by: 0, "a line") } }
    }
    for thread in threads { thread.join() }
    limiter.sumUp()
    let all = lines.all.withLock { $0 }
    #expect(all.count == 11 && all.last?.hasPrefix("3990 more messages left out") == true)
  }

  /// What other users choose stands in each line of the log and of relayctl producers.
  @Test func commandsAreEscapedAndFitIntoAReply() {
    func command(_ text: String) -> String { ProcessName.command(Array(text.utf8)) }
    #expect(command("relayctl\n") == "relayctl")
    #expect(command("a\u{9B}31m\n") == "a\\u009B31m")
    #expect(command("\u{202E}txt\n") == "\\u202Etxt")
    #expect(command("a\nb\n") == "a\\u000Ab")
    #expect(ProcessName.command([0xff, 0x41, 0x0a]) == "\u{FFFD}A")
    for text in [String(repeating: "\u{1}", count: 15), String(repeating: "\u{9B}", count: 7)] {
      let escaped = command(text + "\n")
      #expect(escaped.utf8.count <= ControlLimits.commandBytes && escaped.isPrintable)
      #expect(escaped.utf8.count >= 42)
    }
  }

  @Test func refusalsThatProgramsWaitForAreNoLines() {
    #expect(RequestLog.isWorthALine(.attach(channel: "relay"), EPERM))
    #expect(RequestLog.isWorthALine(.attach(channel: "relay"), EMFILE))
    #expect(RequestLog.isWorthALine(nil, EBADMSG))
    #expect(RequestLog.isWorthALine(.close(channel: "relay"), ENOENT))
    #expect(!RequestLog.isWorthALine(.attach(channel: "relay"), ENOENT))
    #expect(!RequestLog.isWorthALine(.next(channel: "relay", cpu: 0), ENOBUFS))
    #expect(!RequestLog.isWorthALine(.create(channel: "x", options: "", keep: true), ESHUTDOWN))
  }
}
