// SPDX-License-Identifier: Apache-2.0
// The order in which connections that have brought something are served: in rounds, one packet of
// a connection at a time.
//
// 1. A round begins after all events at hand were collected, so that it knows of everybody who
//    asks.
// 2. Root and the daemon's own user come first in it; then the other users in turn, whatever number
//    of connections each of them has.
// 3. It ends after half a millisecond: then the loop looks who else asks. So root waits for one
//    round at most, and for the last turn in it.
// 4. Where nobody else asks, a round is one packet, and costs nothing more.

internal import LinuxIO
internal import Relay

/// Connections that wait for their turns.
struct Turns {
  private var privileged: [ControlServer.Connection] = []
  /// Never an empty one.
  private var waiting: [UInt32: [ControlServer.Connection]] = [:]
  /// In the order of their turns; those that are not waiting any more among them.
  private var users: [UInt32] = []

  mutating func add(_ connection: ControlServer.Connection) {
    guard !connection.isWaiting else { return }
    connection.isWaiting = true
    let user = connection.account
    guard !user.isPrivileged else { return privileged.append(connection) }
    if waiting[user.uid] == nil { users.append(user.uid) }
    waiting[user.uid, default: []].append(connection)
  }

  mutating func takePrivileged() -> [ControlServer.Connection] {
    defer { privileged = [] }
    for connection in privileged { connection.isWaiting = false }
    return privileged
  }

  /// The next user's next one.
  mutating func takeNext() -> ControlServer.Connection? {
    while !users.isEmpty {
      let uid = users.removeFirst()
      guard let connection = waiting[uid]?.removeFirst() else { continue }
      if waiting[uid]?.isEmpty == true { waiting[uid] = nil } else { users.append(uid) }
      connection.isWaiting = false
      return connection
    }
    return nil
  }

  /// The loop reports them again once they may have turns.
  mutating func remove(_ uid: UInt32) {
    for connection in waiting.removeValue(forKey: uid) ?? [] { connection.isWaiting = false }
    users.removeAll { $0 == uid }
  }
}

extension ControlServer {
  private static let roundNanoseconds = 500_000

  /// Has a connection served, or new ones taken, in the next round.
  func expectRound() {
    guard !isRoundExpected else { return }
    isRoundExpected = true
    loop.afterEvents { [self] in
      isRoundExpected = false
      serveRound()
    }
  }

  /// What is left of it comes in the next one: the loop reports it again.
  private func serveRound() {
    for connection in turns.takePrivileged() { takeTurn(connection) }
    let end = Clock.nanoseconds() + ControlServer.roundNanoseconds
    while let connection = turns.takeNext() {
      takeTurn(connection)
      if Clock.nanoseconds() >= end { break }
    }
    acceptWaiting()
  }
}
