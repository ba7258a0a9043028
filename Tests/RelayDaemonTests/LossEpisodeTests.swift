// SPDX-License-Identifier: Apache-2.0
// When the log speaks of a loss: its beginning, each minute, its end, with exact numbers.

import Testing

@testable import RelayDaemon

@Suite struct LossEpisodeTests {
  /// Looks once a second at a counter that grows by `growth(second)`, from second 1 on.
  private func messages(
    _ seconds: Int, from counter: UInt64 = 7, _ growth: (Int) -> UInt64
  ) -> (said: [String], episode: LossEpisode, counter: UInt64) {
    var episode = LossEpisode(at: counter)
    var counter = counter
    var said: [String] = []
    for second in 1...seconds {
      counter += growth(second)
      guard let message = episode.look(counter, at: second * 1000) else { continue }
      said.append("\(second): \(message)")
    }
    return (said, episode, counter)
  }

  @Test func whatWasCountedBeforeIsNoLoss() {
    #expect(messages(100) { _ in 0 }.said == [])
  }

  @Test func aLossIsSaidAtItsBeginningAndItsEnd() {
    let said = messages(100) { (10...12).contains($0) ? 5 : 0 }.said
    #expect(said == ["10: begin(5)", "17: end(15, seconds: 2)"])
  }

  @Test func aLongLossIsSaidOnceAMinute() {
    let said = messages(200) { $0 <= 130 ? 1 : 0 }.said
    #expect(
      said == [
        "1: begin(1)", "61: more(60, seconds: 60)", "121: more(60, seconds: 60)",
        "135: end(130, seconds: 129)",
      ])
  }

  /// However often it stops and begins again.
  @Test(arguments: [6, 7, 10, 20, 59]) func aLossThatComesAndGoesFillsNoLog(_ period: Int) {
    let minutes = 60
    let (said, end, counter) = messages(60 * minutes) { $0 % period == 0 ? 3 : 0 }
    #expect(said.count <= 3 * minutes / 2, "\(said)")
    var episode = end
    let last = episode.finish(counter, at: 60 * minutes * 1000)
    var total: UInt64 = 0
    for message in said {
      guard let range = message.firstRange(of: "end(") else { continue }
      total += UInt64(message[range.upperBound...].prefix { $0.isNumber })!
    }
    if case .end(let count, _) = last { total += count }
    #expect(total == counter - 7, "what the ends say is all there was")
  }

  @Test func theEndOfTheCountsIsTheEndOfTheLoss() {
    var (_, episode, counter) = messages(3) { _ in 2 }
    let end = episode.finish(counter + 1, at: 3500)
    #expect(end == .end(7, seconds: 3))
    let again = episode.finish(counter + 1, at: 3500)
    #expect(again == nil)
    var other = LossEpisode(at: 0)
    let late = other.finish(4, at: 1000)
    #expect(late == .end(4, seconds: 0), "found only then")
  }

  @Test func aCounterThatSomebodyWroteIntoBreaksNothing() {
    var episode = LossEpisode(at: 100)
    var said = [episode.look(3, at: 1000), episode.look(5, at: 2000)]
    #expect(said == [nil, .begin(2)])
    said = [.max, 0, .max].map { episode.look($0, at: 3000) }
    #expect(said == [nil, nil, nil])
    said = [episode.finish(0, at: 6000)]
    #expect(said == [.end(.max, seconds: 1)])
  }

  /// Looks once a second at a counter that is 5 from second 1 on and 8 from second 3 on, with a log
  /// that takes nothing before a second; what it takes.
  private func messages(logFrom first: Int) -> [String] {
    var episode = LossEpisode(at: 0)
    var said: [String] = []
    for second in 1...100 {
      guard let message = episode.look(second < 3 ? 5 : 8, at: second * 1000) else { continue }
      let isOverdue = episode.isOverdue
      episode.noteLogged(message, second >= first)
      #expect(episode.isOverdue == (second < first))
      if second >= first { said.append("\(second)\(isOverdue ? ", overdue" : ""): \(message)") }
    }
    #expect(!episode.isActive)
    return said
  }

  @Test func messageThatWasLeftOutComesAgainAsItIsThen() {
    #expect(messages(logFrom: 1) == ["1: begin(5)", "8: end(8, seconds: 2)"])
    #expect(messages(logFrom: 4) == ["4, overdue: begin(8)", "8: end(8, seconds: 2)"])
    #expect(messages(logFrom: 50) == ["50, overdue: end(8, seconds: 2)"])
  }
}
