// SPDX-License-Identifier: Apache-2.0
// One user's long requests leave most of the loop to others: after a turn that took long, all
// connections of the user rest for three times as long. Whoever else asks meanwhile waits for one
// such turn at most.
//
// 1. Nothing is queued: what comes through a connection that rests stays in its socket.
// 2. A connection that rests is watched for the end of the other side, and then closed at once;
//    what it asked last is not done.
// 3. The deadline of a first request moves by the time that its connection rests.
// 4. What counts is the time that the thread ran: on a busy machine the shortest turn may have to
//    wait for a processor in the midst.
// 5. Root and the daemon's own user never rest, and nobody does once the server ends: mapped
//    consumers drain their buffers then.

internal import LinuxIO
internal import Relay

extension ControlServer {
  /// Turns that are not longer have no rest behind them: lists, counts, and all that mapped
  /// consumers ask for while they read.
  static let lightTurnNanoseconds = 1_000_000
  private static let restPerTurn = 3
  /// Short of the time in which a mapped consumer has to report.
  private static let longestRestMilliseconds = 1_000

  /// Has `body` serve a connection, and the connection's user pay for it.
  func takeTurn(of connection: Connection, _ body: () -> Void) {
    guard !connection.isPrivileged else { return body() }
    let beginning = Clock.threadNanoseconds()
    body()
    let nanoseconds = Clock.threadNanoseconds() - beginning
    if isServing, nanoseconds > ControlServer.lightTurnNanoseconds {
      rest(connection.uid, after: nanoseconds)
    }
  }

  private func rest(_ uid: UInt32, after nanoseconds: Int) {
    let milliseconds = min(
      (ControlServer.restPerTurn * nanoseconds + 999_999) / 1_000_000,
      ControlServer.longestRestMilliseconds)
    resting[uid] = Clock.milliseconds() + milliseconds
    for connection in connections.values where connection.uid == uid {
      connection.deadline? += milliseconds
      watch(connection)
    }
    schedule()
  }

  /// Ends the rests that are over by `now`.
  func endRests(by now: Int) {
    let users = resting.filter { $0.value <= now }.keys
    guard !users.isEmpty else { return }
    for uid in users { resting[uid] = nil }
    for connection in connections.values where users.contains(connection.uid) {
      watch(connection)
    }
  }

  /// Whether nothing is received from a connection now.
  func isHeld(_ connection: Connection) -> Bool {
    connection.isPending || resting[connection.uid] != nil
  }

  func interest(in connection: Connection) -> Events {
    isHeld(connection) ? .hangup : [.read, .hangup]
  }

  /// Has the loop report what the connection may bring now.
  func watch(_ connection: Connection) {
    // It is watched already, which leaves nothing that can fail.
    try? loop.modify(connection.socket.raw, interest(in: connection))
  }
}
