// SPDX-License-Identifier: Apache-2.0
// What a user's long request costs that user, and nobody else. Each test in a process of its own,
// because that process becomes those users.

import Glibc
import LinuxIO
import Relay
import Synchronization
import Testing

@testable import RelayControl

extension Crowd {
  /// Has a client of `uid` ask for something that takes so much of the server's time that the rest
  /// behind it is the longest there is. Returns the client, and when the rest is over.
  fileprivate func tire(_ uid: UInt32) throws -> (RawClient, ContinuousClock.Instant) {
    let client = try client(uid, asking: true)
    channels.flushMilliseconds.withLock { $0 = 350 }
    try client.send(.flush(channel: "relay"))
    try serve()
    channels.flushMilliseconds.withLock { $0 = 0 }
    #expect(try client.reply() == .done)
    return (client, ContinuousClock.now + .milliseconds(1000))
  }

  /// That a request is not answered before `end`, which is later than now unless this process was
  /// stopped meanwhile, and that it is answered after that.
  fileprivate func expectAnswer(
    to client: RawClient, after end: ContinuousClock.Instant
  ) throws {
    try client.send(.list(index: 0))
    try serve()
    var reply = try client.reply()
    #expect(reply == nil || ContinuousClock.now >= end)
    while reply == nil {
      guard try loop.runOnce(timeoutMilliseconds: 10_000) > 0 else { break }
      reply = try client.reply()
    }
    #expect(reply == .channel(someChannels[0]))
    // Less what rounding to milliseconds takes off, and what passed between the server's look at
    // the clock and the test's.
    #expect(ContinuousClock.now >= end - .milliseconds(20))
  }

  fileprivate func expectAnswerAtOnce(to client: RawClient) throws {
    try client.send(.list(index: 0))
    try serve()
    #expect(try client.reply() == .channel(someChannels[0]))
  }
}

@Suite(.enabled(if: getuid() == 0, "needs to become other users")) struct FairnessTests {
  @Test func longRequestRestsAllConnectionsOfItsUser() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let other = try crowd.client(65_534, asking: true)
      let (client, end) = try crowd.tire(65_534)
      try client.send(.list(index: 0))
      try crowd.expectAnswer(to: other, after: end)
      try crowd.serve()
      #expect(try client.reply() == .channel(someChannels[0]))
    }
  }

  @Test func longRequestRestsNobodyElse() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let (root, neighbour) = (
        try crowd.client(0, asking: true), try crowd.client(65_533, asking: true)
      )
      _ = try crowd.tire(65_534)
      try crowd.expectAnswerAtOnce(to: root)
      try crowd.expectAnswerAtOnce(to: neighbour)
      try crowd.expectAnswerAtOnce(to: try crowd.client(0))
    }
  }

  @Test func rootNeverRests() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let (root, _) = try crowd.tire(0)
      try crowd.expectAnswerAtOnce(to: root)
    }
  }

  @Test func shortRequestsHaveNoRest() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let client = try crowd.client(65_534, asking: true)
      var latest = 0
      for _ in 0..<1000 {
        try client.send(.list(index: 0))
        let beginning = Clock.threadNanoseconds()
        try crowd.serve()
        let turn = Clock.threadNanoseconds() - beginning
        var reply = try client.reply()
        // Interrupts, too, may make a turn long.
        if reply == nil { #expect(latest > ControlServer.lightTurnNanoseconds) }
        while reply == nil {
          guard try crowd.loop.runOnce(timeoutMilliseconds: 10_000) > 0 else { break }
          reply = try client.reply()
        }
        #expect(reply == .channel(someChannels[0]))
        latest = turn
      }
    }
  }

  @Test func newConnectionOfAUserThatRestsRestsToo() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let (_, end) = try crowd.tire(65_534)
      try crowd.expectAnswer(to: try crowd.client(65_534), after: end)
    }
  }

  @Test func restTakesNothingOfTheTimeForAFirstRequest() async {
    await #expect(processExitsWith: .success) {
      let limit = 600_000
      let crowd = try Crowd(firstRequestMilliseconds: limit)
      func latestDeadline() throws -> Int {
        try #require(crowd.server.connections.values.compactMap(\.deadline).max())
      }
      _ = try crowd.client(65_534)
      try crowd.serve()
      let before = try latestDeadline()
      _ = try crowd.tire(65_534)
      #expect(try latestDeadline() == before + 1000)
      let end = try #require(crowd.server.resting[65_534])
      _ = try crowd.client(65_534)
      try crowd.serve()
      #expect(try latestDeadline() >= end + limit)
    }
  }

  @Test func restingClientThatGoesAwayIsNoticedAndItsRequestIsNotDone() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let attached = try crowd.client(65_534, attaching: true)
      let (_, end) = try crowd.tire(65_534)
      try attached.send(.reset(channel: "relay"))
      #expect(shutdown(attached.socket.raw, CInt(SHUT_RDWR)) == 0)
      try crowd.serve()
      #expect(crowd.channels.disconnected.withLock { $0.count } == 1)
      #expect(crowd.channels.calls("reset").isEmpty || ContinuousClock.now >= end)
    }
  }

  /// It waits for the end of the rest, and for nothing else.
  @Test func restingServerSleeps() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let (client, end) = try crowd.tire(65_534)
      try client.send(.list(index: 0))
      var wakes = 0
      while ContinuousClock.now < end { wakes += try crowd.loop.runOnce(timeoutMilliseconds: 200) }
      // The timer's, and the request's.
      #expect(wakes <= 2)
    }
  }

  /// A mapped consumer drains its buffers then.
  @Test func serverThatEndsLetsNobodyRest() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let consumer = try crowd.client(65_534, attaching: true)
      _ = try crowd.tire(65_534)
      let id = try #require(crowd.channels.calls("attach").first).connection
      crowd.server.stop { $0 == id }
      try consumer.send(.next(channel: "relay", cpu: 1))
      try crowd.serve()
      #expect(try consumer.reply() == .done)
    }
  }

  @Test func consumerIsServedWhileItsUserRests() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let consumer = try crowd.client(65_534)
      try consumer.send(.map(channel: "relay", cpu: 1, unfinished: false))
      try crowd.serve()
      #expect(try consumer.reply() == .mapped)
      let (_, end) = try crowd.tire(65_534)
      for _ in 0..<2 {
        try consumer.send(.next(channel: "relay", cpu: 1))
        try crowd.serve()
        #expect(try consumer.reply() == .done)
      }
      // Once it asks for anything else, it is as the others are.
      try consumer.send(.list(index: 0))
      try crowd.serve()
      #expect(try consumer.reply() == .channel(someChannels[0]))
      try crowd.expectAnswer(to: consumer, after: end)
    }
  }

  @Test func timeOfThreadsThatTheLoopWaitsForCounts() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let client = try crowd.client(65_534, asking: true)
      crowd.channels.flushMillisecondsElsewhere.withLock { $0 = 200_000 }
      try client.send(.flush(channel: "relay"))
      try crowd.serve()
      #expect(crowd.server.resting.keys.contains(65_534))
    }
  }

  @Test func shorterRestEndsNoLongerOne() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd(firstRequestMilliseconds: 600_000)
      _ = try crowd.client(65_534)
      func deadline() throws -> Int {
        try #require(crowd.server.connections.values.compactMap(\.deadline).max())
      }
      let end = Clock.milliseconds() + 500_000
      crowd.server.rest(65_534, until: end)
      let before = try deadline()
      crowd.server.rest(65_534, until: end - 100_000)
      #expect(crowd.server.resting[65_534] == end)
      #expect(try deadline() == before)
      crowd.server.rest(65_534, until: end + 1000)
      #expect(crowd.server.resting[65_534] == end + 1000)
      #expect(try deadline() == before + 1000)
    }
  }

  @Test func clientThatEndsItsRequestsIsAnsweredAfterTheRest() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let other = try crowd.client(65_534, asking: true)
      let (_, end) = try crowd.tire(65_534)
      try other.send(.list(index: 0))
      #expect(shutdown(other.socket.raw, CInt(SHUT_WR)) == 0)
      var wakes = 0
      var reply: Reply?
      while reply == nil, wakes < 10 {
        wakes += try crowd.loop.runOnce(timeoutMilliseconds: 10_000)
        reply = try other.reply()
      }
      // The end of the rest, and the request: what rests wakes nobody.
      #expect(wakes <= 2)
      #expect(reply == .channel(someChannels[0]))
      #expect(ContinuousClock.now >= end - .milliseconds(20))
    }
  }

  @Test func usersTakeTurnsHoweverManyConnectionsTheyHaveAndRootIsFirst() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let many = try (0..<100).map { _ in try crowd.client(65_534) }
      let one = try crowd.client(65_533)
      let root = try crowd.client(0)
      for client in many + [one, root] { try client.send(.list(index: 0)) }
      try crowd.serve()
      let users = crowd.channels.calls("describe").map(\.peer.uid)
      #expect(users.prefix(4) == [0, 65_534, 65_533, 65_534])
      #expect(users.count == 102)
    }
  }

  @Test func roundsAreShort() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      crowd.channels.flushMilliseconds.withLock { $0 = 1 }
      let users = try (0..<10).map { try crowd.client(UInt32(65_500 + $0)) }
      let root = try crowd.client(0)
      for client in users { try client.send(.flush(channel: "relay")) }
      try crowd.loop.runOnce(timeoutMilliseconds: 0)
      #expect(crowd.channels.calls("flush").count == 1)
      try root.send(.list(index: 0))
      try crowd.loop.runOnce(timeoutMilliseconds: 0)
      #expect(try root.reply() == .channel(someChannels[0]))
      #expect(crowd.channels.calls("flush").count == 2)
    }
  }

  @Test func redeemedTokenOfRootCountsAsItsChilds() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd()
      let token = try crowd.client(0)
      try token.send(.token(channel: "relay"))
      try crowd.serve()
      #expect(try token.reply() == .done)
      // The sender of a packet is the real user.
      #expect(setreuid(65_534, 0) == 0)
      try token.send(.redeem)
      #expect(setreuid(0, 0) == 0)
      try crowd.serve()
      guard case .attached = try token.reply() else { throw ControlError.disconnected }
      let account = try #require(crowd.server.connections.values.first).account
      #expect(account.uid == 65_534 && !account.isPrivileged)
      let (_, end) = try crowd.tire(65_534)
      try crowd.expectAnswer(to: token, after: end)
    }
  }
}
