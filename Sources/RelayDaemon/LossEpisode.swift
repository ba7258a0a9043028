// SPDX-License-Identifier: Apache-2.0
// When the log says what about one cause of losses in one buffer: at its beginning, at most once a
// minute while it goes on, and at its end. A message that the log left out comes again at the next
// look, as it is then. No clock, no log.

/// One cause of losses in one buffer. Times in milliseconds.
struct LossEpisode {
  enum Message: Equatable {
    /// Records lost so far.
    case begin(UInt64)
    /// Since the last message, and within how many seconds.
    case more(UInt64, seconds: Int)
    /// All of them, and within how many seconds.
    case end(UInt64, seconds: Int)

    var count: UInt64 {
      switch self {
      case .begin(let count), .more(let count, _), .end(let count, _): count
      }
    }
  }

  static let pause = 60_000
  /// Without a loss for so long it has ended: the first time, and where it began again within
  /// `pause`.
  static let calm = 5_000

  /// The counter at the last look.
  private var seen: UInt64
  /// While losses go on.
  private(set) var isActive = false
  private var isRepeated = false
  private var count: UInt64 = 0
  private var said: UInt64 = 0
  private var began = 0
  private var lastLoss = 0
  private var lastBegin: Int?
  private var lastMessage = 0
  /// The last message was left out.
  private(set) var isOverdue = false
  /// `said` and `lastMessage` before the last message.
  private var before = (said: UInt64(0), lastMessage: 0)
  private var owesBegin = false

  init(at counter: UInt64) { seen = counter }

  /// The counter now; what is to be said.
  mutating func look(_ counter: UInt64, at now: Int) -> Message? {
    if take(counter, now) {
      lastBegin = now
      return say(.begin(count), now)
    }
    guard isActive else { return nil }
    if now - lastLoss >= (isRepeated ? LossEpisode.pause : LossEpisode.calm) { return end(now) }
    if owesBegin { return say(.begin(count), now) }
    guard count > said, now - lastMessage >= LossEpisode.pause else { return nil }
    return say(.more(count - said, seconds: (now - lastMessage) / 1000), now)
  }

  /// Nothing comes after this; what is to be said of it.
  mutating func finish(_ counter: UInt64, at now: Int) -> Message? {
    _ = take(counter, now)
    return isActive ? end(now) : nil
  }

  /// Whether the log took the message that the last call returned.
  mutating func noteLogged(_ message: Message, _ isLogged: Bool) {
    isOverdue = !isLogged
    owesBegin = false
    if isLogged { return }
    (said, lastMessage) = before
    switch message {
    case .begin: owesBegin = true
    case .more: break
    case .end: isActive = true
    }
  }

  /// True: it begins, and that is to be said.
  private mutating func take(_ counter: UInt64, _ now: Int) -> Bool {
    // It never goes back, unless somebody wrote into it.
    let new = counter > seen ? counter - seen : 0
    seen = counter
    guard new > 0 else { return false }
    lastLoss = now
    count += isActive ? min(new, .max - count) : 0
    guard !isActive else { return false }
    (isActive, count, said, began) = (true, new, 0, now)
    isRepeated = lastBegin.map { now - $0 < LossEpisode.pause } ?? false
    return !isRepeated
  }

  private mutating func say(_ message: Message, _ now: Int) -> Message {
    before = (said, lastMessage)
    said = count
    lastMessage = now
    return message
  }

  private mutating func end(_ now: Int) -> Message {
    isActive = false
    return say(.end(count, seconds: (lastLoss - began + 999) / 1000), now)
  }
}
