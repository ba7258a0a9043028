// SPDX-License-Identifier: Apache-2.0
// One user's long requests leave most of the loop to others: after a turn that took long, all
// connections of the user rest for three times as long. Whoever else asks meanwhile waits for one
// such turn at most.
//
// 1. Nothing is queued: what comes through a connection that rests stays in its socket.
// 2. A connection that rests is watched for the end of the other side, and then closed at once;
//    what it asked last is not done. Who only ends its requests (SHUT_WR) is answered after the
//    rest.
// 3. The deadline of a first request moves by the time that its connection rests.
// 4. What counts is the time that threads ran, the loop's and those that it waited for: on a busy
//    machine the shortest turn may have to wait for a processor in the midst.
// 5. Root and the daemon's own user never rest, and nobody does once the server ends: mapped
//    consumers drain their buffers then. Nor does a connection that is a mapped consumer's and
//    nothing else: its requests are short, and it would lose its buffer.

internal import LinuxIO
internal import Relay

extension ControlServer {
  /// Turns that are not longer have no rest behind them: lists, counts, and all that mapped
  /// consumers ask for while they read.
  static let lightTurnNanoseconds = 1_000_000
  private static let restPerTurn = 3
  private static let longestRestMilliseconds = 1_000

  /// Serves a connection, and has its user pay for it.
  func takeTurn(_ connection: Connection) {
    // It may have been closed since the loop reported it.
    guard connections[connection.socket.raw] === connection else { return }
    let beginning = Clock.threadNanoseconds() + handler.nanosecondsElsewhere
    serve(connection)
    let nanoseconds = Clock.threadNanoseconds() + handler.nanosecondsElsewhere - beginning
    // The child's, where that has just redeemed its token.
    let user = connection.account
    if isServing, !user.isPrivileged, nanoseconds > ControlServer.lightTurnNanoseconds {
      rest(user.uid, after: nanoseconds)
    }
  }

  private func rest(_ uid: UInt32, after nanoseconds: Int) {
    let milliseconds = min(
      (ControlServer.restPerTurn * nanoseconds + 999_999) / 1_000_000,
      ControlServer.longestRestMilliseconds)
    rest(uid, until: Clock.milliseconds() + milliseconds)
  }

  /// A rest that is to be longer stays so.
  func rest(_ uid: UInt32, until end: Int) {
    let before = resting[uid] ?? Clock.milliseconds()
    guard end > before else { return }
    resting[uid] = end
    turns.remove(uid)
    for connection in connections.values where connection.account.uid == uid {
      connection.deadline? += end - before
      watch(connection)
    }
    schedule()
  }

  /// Ends the rests that are over by `now`.
  func endRests(by now: Int) {
    let users = resting.filter { $0.value <= now }.keys
    guard !users.isEmpty else { return }
    for uid in users { resting[uid] = nil }
    for connection in connections.values where users.contains(connection.account.uid) {
      watch(connection)
    }
  }

  /// Whether nothing is received from a connection now.
  func isHeld(_ connection: Connection) -> Bool {
    connection.isPending || (!connection.isConsumer && resting[connection.account.uid] != nil)
  }

  /// Of one that is held only the complete end is reported, as always: one that has ended its
  /// requests still takes its reply.
  func interest(in connection: Connection) -> Events {
    isHeld(connection) ? [] : [.read, .hangup]
  }

  /// Has the loop report what the connection may bring now.
  func watch(_ connection: Connection) {
    // It is watched already, which leaves nothing that can fail.
    try? loop.modify(connection.socket.raw, interest(in: connection))
  }
}
