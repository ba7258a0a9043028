// SPDX-License-Identifier: Apache-2.0
// How soon a program that keeps ending is started again: the one law for relayd --hold, which waits
// before it starts relayd, and for a relayd of systemd's, which waits by itself (StartPace.swift).

/// At once, unless the program keeps ending soon after its start.
struct RestartPace {
  /// A program that lives so long has started well.
  static let longLife = Duration.seconds(1)

  /// Lives in a row that were shorter than that.
  private(set) var shortLives = 0

  init(shortLives: Int = 0) { self.shortLives = shortLives }

  /// 0 until there were five short lives in a row; then 1, 2, 4 … 30.
  var waitSeconds: Int {
    shortLives < 5 ? 0 : min(30, 1 << min(shortLives - 5, 5))
  }

  mutating func waitSeconds(afterLifeOf life: Duration) -> Int {
    shortLives = life < RestartPace.longLife ? shortLives + 1 : 0
    return waitSeconds
  }
}
