// SPDX-License-Identifier: Apache-2.0
// Requests that the handler finishes later: what their connections do meanwhile.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import RelayControl

@Suite final class DeferralTests {
  private let directory = TemporaryDirectory()
  private let channels: Channels
  private let loop: EventLoop
  private let server: ControlServer
  private var reports: [String] = []

  init() throws {
    channels = try Channels()
    loop = try EventLoop()
    channels.later.withLock { $0 = true }
    server = try ControlServer(loop: loop, path: directory.socket, handler: channels)
    server.report = { [unowned self] in
      switch $0 {
      case .exhausted: reports.append("exhausted")
      case .refused(let request, _, let refusal):
        reports.append("\(request?.summary ?? "-"): \(refusal.code)")
      case .done(let request, _): reports.append(request.summary)
      }
    }
  }

  deinit { server.stop() }

  private func serve() throws {
    while try loop.runOnce(timeoutMilliseconds: 0) > 0 {}
  }

  /// A client whose reset was put off.
  private func pending() throws -> (RawClient, ConnectionID) {
    let client = try RawClient(directory.socket)
    try client.send(.reset(channel: "relay"))
    try serve()
    #expect(try client.reply() == nil)
    return (client, try #require(channels.calls("reset").last).connection)
  }

  @Test func replyComesOnceTheRequestIsFinished() throws {
    let (client, id) = try pending()
    #expect(reports.isEmpty)
    server.finish(id, nil)
    #expect(try client.reply() == .done)
    #expect(reports == ["reset channel relay"])
    try client.send(.list(index: 0))
    try serve()
    #expect(try client.reply() == .channel(someChannels[0]))
  }

  @Test func refusalComesLaterToo() throws {
    let (client, id) = try pending()
    let refusal = ControlRefusal(code: ENOMEM, message: "no memory")
    server.finish(id, refusal)
    #expect(try client.reply() == .refused(refusal))
    #expect(reports == ["reset channel relay: \(ENOMEM)"])
    #expect(server.connectionCount == 1)
  }

  @Test func nothingElseIsReceivedMeanwhile() throws {
    let (client, id) = try pending()
    try client.send(.list(index: 0))
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0, "no wake for what waits")
    #expect(channels.calls("describe").isEmpty)
    let other = try RawClient(directory.socket)
    try other.send(.list(index: 1))
    try serve()
    #expect(try other.reply() == .channel(someChannels[1]))
    server.finish(id, nil)
    #expect(try client.reply() == .done)
    try serve()
    #expect(try client.reply() == .channel(someChannels[0]))
  }

  @Test func clientThatGoesAwayIsNoticedAndItsRequestIsFinished() throws {
    let (client, id) = try pending()
    #expect(shutdown(client.socket.raw, CInt(SHUT_RDWR)) == 0)
    try serve()
    #expect(server.connectionCount == 0)
    // Its number may be another's by now.
    let other = try RawClient(directory.socket)
    try serve()
    server.finish(id, nil)
    server.finish(id, nil)
    #expect(reports == ["reset channel relay"])
    #expect(try other.reply() == nil)
  }

  @Test func connectionThatWaitsDoesNotGiveWay() throws {
    server.limits.connections = 2
    let (client, id) = try pending()
    let silent = try RawClient(directory.socket)
    try serve()
    let newcomer = try RawClient(directory.socket)
    try serve()
    #expect(silent.isOver(withinMilliseconds: 10_000))
    _ = newcomer.socket.raw
    server.finish(id, nil)
    #expect(try client.reply() == .done)
  }

  @Test func serverThatEndsAnswersNothing() throws {
    let (client, id) = try pending()
    server.stop()
    #expect(client.isOver(withinMilliseconds: 10_000))
    server.finish(id, nil)
    #expect(try client.reply() == nil)
  }

  @Test func clientThatEndsItsRequestsGetsItsReply() throws {
    let (client, id) = try pending()
    #expect(shutdown(client.socket.raw, CInt(SHUT_WR)) == 0)
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0, "no wake for what waits")
    server.finish(id, nil)
    #expect(try client.reply() == .done)
    try serve()
    #expect(server.connectionCount == 0)
  }

  /// Else a user could have any number of requests under way.
  @Test func clientThatGoesAwayKeepsItsPlaceUntilItsRequestIsFinished() throws {
    server.limits.connections = 2
    var requests: [ConnectionID] = []
    for _ in 0..<2 {
      let (client, id) = try pending()
      #expect(shutdown(client.socket.raw, CInt(SHUT_RDWR)) == 0)
      try serve()
      requests.append(id)
    }
    #expect(server.connectionCount == 0)
    let third = try RawClient(directory.socket)
    try serve()
    let message =
      "2 connections are open already, or closed before their requests were finished (2)"
    #expect(try third.reply() == .refused(ControlRefusal(code: EMFILE, message: message)))
    #expect(server.pending.count == 2)
    server.finish(requests[0], nil)
    _ = try pending()
  }
}
