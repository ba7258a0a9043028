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

  private final class Lines: Sendable {
    let all = Mutex<[String]>([])
    func append(_ line: String) { all.withLock { $0.append(line) } }
  }

  @Test func sumsAreExactAndComeOnceASecond() throws {
    let loop = try EventLoop()
    let lines = Lines()
    let limiter = try LogLimiter(loop: loop) { level, text in lines.append("\(level): \(text)") }
    for i in 0..<500 { limiter.log(.death, amount: 2, "died \(i)") }
    for i in 0..<12 { limiter.log(.refusal, "refused \(i)") }
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

  @Test func anyThreadMayLog() throws {
    let loop = try EventLoop()
    let lines = Lines()
    let limiter = try LogLimiter(loop: loop) { _, text in lines.append(text) }
    let threads = try (0..<4).map { _ in
      try Thread(name: "logs") { for _ in 0..<1000 { limiter.log(.file, "a line") } }
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
