// SPDX-License-Identifier: Apache-2.0
// The server step by step on this thread, against clients that do what ControlClient never would.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import RelayControl

@Suite final class ServerTests {
  private let directory = TemporaryDirectory()
  private let channels: Channels
  private let loop: EventLoop
  private var server: ControlServer!

  init() throws {
    channels = try Channels()
    loop = try EventLoop()
  }

  deinit { server?.stop() }

  private func start(connections: Int = 512, firstRequestMilliseconds: Int = 10_000) throws {
    var limits = ControlServer.Limits()
    limits.connections = connections
    limits.firstRequestMilliseconds = firstRequestMilliseconds
    server = try ControlServer(
      loop: loop, path: directory.socket, handler: channels, limits: limits)
  }

  /// Serves everything that is there.
  private func serve() throws {
    while try loop.runOnce(timeoutMilliseconds: 0) > 0 {}
  }

  /// Serves until `count` connections are left.
  private func serve(until count: Int) throws {
    while server.connectionCount != count {
      guard try loop.runOnce(timeoutMilliseconds: 10_000) > 0 else {
        Issue.record("\(server.connectionCount) connections instead of \(count)")
        return
      }
    }
  }

  private func expectRefusal(
    _ reply: Reply?, _ code: CInt, _ message: String,
    at line: SourceLocation = #_sourceLocation
  ) {
    guard case .refused(let refusal) = reply else {
      Issue.record("expected a refusal, not \(reply as Any)", sourceLocation: line)
      return
    }
    #expect(refusal == ControlRefusal(code: code, message: message), sourceLocation: line)
  }

  private func expectOver(_ client: RawClient, at line: SourceLocation = #_sourceLocation) {
    let isOver = client.isOver(withinMilliseconds: 10_000)
    #expect(isOver, sourceLocation: line)
  }

  @Test func theSocketIsForEveryUser() throws {
    try start()
    var status = stat()
    #expect(lstat(directory.socket, &status) == 0)
    #expect(status.st_mode & 0o777 == 0o666)
  }

  @Test func stopRemovesTheSocketAndEndsConnections() throws {
    try start()
    let client = try RawClient(directory.socket)
    try client.send(.attach(channel: "relay"))
    try serve()
    server.stop()
    expectOver(client)
    #expect(access(directory.socket, F_OK) != 0)
    #expect(channels.disconnected.withLock { $0.count } == 1)
  }

  @Test func aSecondDaemonIsRefusedByNameOfThePath() throws {
    try start()
    let path = directory.socket
    do throws(SystemError) {
      _ = try ControlServer(loop: loop, path: path, handler: channels)
      Issue.record("two daemons on one socket")
    } catch {
      let expected = "serve \(path): a relayd already serves this socket: "
      #expect(error.code == EADDRINUSE && error.description.hasPrefix(expected))
    }
    let client = try RawClient(path)
    try client.send(.list(index: 0))
    try serve()
    #expect(try client.reply() == .channel(someChannels[0]))
  }

  @Test(
    arguments: [
      ([9, 1, 0, 0, 0, 0, 0, 0], EPROTONOSUPPORT, otherRelease(9)),
      ([1, 1, 0, 0, 0, 0, 0, 0], EPROTONOSUPPORT, otherRelease(1)),
      ([4, 77, 0, 0, 0, 0, 0, 0], EOPNOTSUPP, "unknown control message type 77"),
      ([4, 2, 0, 0, 9, 0, 0, 0], EBADMSG, malformed), ([4], EBADMSG, malformed),
      ([0x7f], EPROTONOSUPPORT, otherRelease(127)),
      ([UInt8](repeating: 2, count: 4097), EBADMSG, malformed),
      ([UInt8](repeating: 2, count: 60_000), EBADMSG, malformed),
    ] as [([UInt8], CInt, String)])
  func whatIsNoRequestIsAnsweredAndEndsTheConnection(
    bytes: [UInt8], code: CInt, message: String
  ) throws {
    try start()
    let bad = try RawClient(directory.socket)
    let good = try RawClient(directory.socket)
    try bad.send(bytes)
    try good.send(.list(index: 1))
    try serve()
    expectRefusal(try bad.reply(), code, message)
    expectOver(bad)
    #expect(try good.reply() == .channel(someChannels[1]))
    #expect(server.connectionCount == 1)
  }

  static let malformed = "malformed control message"
  static func otherRelease(_ version: Int) -> String {
    "control protocol version \(version) instead of 4: the programs are of different releases"
  }

  @Test func aReplyThatDoesNotFitIsRefusedAndTheConnectionGoesOn() throws {
    try start()
    channels.known.withLock { $0[0].pathPrefix = String(repeating: "x", count: 5000) }
    let client = try RawClient(directory.socket)
    for index in 0...1 {
      try client.send(.list(index: index))
      try serve()
      let reply = try client.reply()
      if index == 1 {
        #expect(reply == .channel(someChannels[1]))
      } else {
        expectRefusal(reply, EMSGSIZE, "the reply does not fit a packet")
      }
    }
  }

  @Test func anEmptyPacketEndsTheConnection() throws {
    try start()
    let client = try RawClient(directory.socket)
    try client.send([])
    try serve()
    expectOver(client)
  }

  @Test func aClientsDescriptorsAreClosedAtOnce() throws {
    try start()
    let client = try RawClient(directory.socket)
    var pair: SocketPair? = try UnixSocket.pair()
    let other = try pair!.second.duplicate()
    do {
      try client.send(Request.list(index: 0).encoded(), descriptors: [pair!.first.raw])
    } catch let error as SystemError where error.code == EPERM {
      // The kernel keeps them away from the server, since Linux 6.16; it goes on.
      try client.send(.list(index: 0))
      try serve()
      #expect(try client.reply() != nil)
      return
    }
    pair = nil
    try serve()
    // The server held the only other end: it is gone.
    let events = Readiness.wait(other.raw, .hangup, timeoutMilliseconds: 10_000)
    #expect(events.contains(.hangup))
    expectRefusal(try client.reply(), EBADMSG, ServerTests.malformed)
    expectOver(client)
  }

  @Test func aClientThatDoesNotTakeItsRepliesIsDropped() throws {
    try start()
    let client = try RawClient(directory.socket)
    try client.send(.attach(channel: "relay"))
    try serve()
    try client.send(.attach(channel: "relay"))
    try serve()
    expectOver(client)
    #expect(channels.calls("attach").count == 1)
  }

  @Test func aFloodTakesTurnsWithOthers() throws {
    try start()
    let flood = try RawClient(directory.socket)
    let other = try RawClient(directory.socket)
    for _ in 0..<10 { try flood.send(.list(index: 9)) }
    try other.send(.list(index: 0))
    try serve()
    #expect(try other.reply() == .channel(someChannels[0]))
  }

  @Test func silentConnectionsGiveWayOldestFirst() throws {
    try start(connections: 3)
    let asked = try RawClient(directory.socket)
    try asked.send(.list(index: 0))
    try serve()
    let silent = try RawClient(directory.socket)
    let silentToo = try RawClient(directory.socket)
    let late = try RawClient(directory.socket)
    try late.send(.list(index: 0))
    try serve()
    #expect(try late.reply() == .channel(someChannels[0]))
    expectOver(silent)
    let othersAreOver =
      asked.isOver(withinMilliseconds: 0) || silentToo.isOver(withinMilliseconds: 0)
    #expect(!othersAreOver)
  }

  @Test func oneConnectionTooManyIsToldSo() throws {
    try start(connections: 2)
    let first = try RawClient(directory.socket)
    let second = try RawClient(directory.socket)
    for client in [first.socket.raw, second.socket.raw] {
      let request = try Request.attach(channel: "relay").encoded()
      #expect(send(client, request, request.count, 0) == request.count)
    }
    try serve()
    _ = try second.reply()
    let third = try RawClient(directory.socket)
    try serve()
    expectRefusal(try third.reply(), EMFILE, "2 connections are open already")
    expectOver(third)
    try second.send(.list(index: 0))
    try serve()
    #expect(try second.reply() == .channel(someChannels[0]))
    #expect(server.connectionCount == 2)
    _ = first.socket.raw
  }

  @Test func aPlaceThatBecameFreeIsGivenAgain() throws {
    try start(connections: 1)
    do {
      let first = try RawClient(directory.socket)
      try serve()
      _ = first.socket.raw
    }
    try serve(until: 0)
    let second = try RawClient(directory.socket)
    try second.send(.list(index: 0))
    try serve()
    #expect(try second.reply() == .channel(someChannels[0]))
  }

  @Test func aSilentClientIsClosedAndOneThatAskedIsNot() throws {
    try start(firstRequestMilliseconds: 200)
    let silent = try RawClient(directory.socket)
    let asked = try RawClient(directory.socket)
    try asked.send(.list(index: 0))
    try serve()
    try serve(until: 1)
    expectOver(silent)
    let isOver = asked.isOver(withinMilliseconds: 0)
    #expect(!isOver)
  }

  @Test func aSilentClientThatCameLaterHasItsOwnTime() throws {
    try start(firstRequestMilliseconds: 50)
    let first = try RawClient(directory.socket)
    try serve()
    // Time itself is what is tested here: the first is half through its time.
    try loop.runOnce(timeoutMilliseconds: 25)
    let came = ContinuousClock.now
    let second = try RawClient(directory.socket)
    repeat { try loop.runOnce(timeoutMilliseconds: 10_000) } while server.connectionCount > 0
    // Less what rounding to milliseconds takes off.
    #expect(ContinuousClock.now - came >= .milliseconds(48))
    expectOver(first)
    expectOver(second)
  }

  @Test func anIdleServerDoesNotWake() throws {
    try start(firstRequestMilliseconds: 100)
    let client = try RawClient(directory.socket)
    try client.send(.attach(channel: "relay"))
    try serve()
    #expect(try loop.runOnce(timeoutMilliseconds: 200) == 0)
    _ = client.socket.raw
  }

  @Test func onlyAttachedConnectionsAreReported() throws {
    try start()
    do {
      let lister = try RawClient(directory.socket)
      let writer = try RawClient(directory.socket)
      try lister.send(.list(index: 0))
      try writer.send(.attach(channel: "relay"))
      try serve()
    }
    try serve(until: 0)
    #expect(
      channels.disconnected.withLock { $0 } == channels.calls("attach").map(\.connection))
  }

  @Test func aRequestOfAClientThatIsGoneIsHarmless() throws {
    try start()
    do {
      let client = try RawClient(directory.socket)
      try client.send(.attach(channel: "relay"))
    }
    try serve(until: 0)
    #expect(channels.disconnected.withLock { $0.count } == channels.calls("attach").count)
  }

  /// What of it is logged is the owner's business.
  @Test func refusalsAndChangesAreReported() throws {
    try start()
    var reports: [String] = []
    server.report = {
      switch $0 {
      case .exhausted: reports.append("exhausted")
      case .refused(let request, let peer, let refusal):
        reports.append("\(peer.pid) \(request?.summary ?? "-"): \(refusal.code)")
      case .done(let request, let peer): reports.append("\(peer.pid) \(request.summary)")
      }
    }
    let client = try RawClient(directory.socket)
    for request: Request in [
      .reset(channel: "relay"), .list(index: 0), .flush(channel: "relay"), .reload, .redeem,
    ] {
      try client.send(request)
      try serve()
      _ = try client.reply()
    }
    let other = try RawClient(directory.socket)
    try other.send([4, 250, 0, 0, 0, 0, 0, 0])
    try serve()
    let pid = getpid()
    #expect(
      reports == [
        "\(pid) reset channel relay", "\(pid) reload the configuration: \(EINVAL)",
        "\(pid) redeem a token: \(EPERM)",
        "\(pid) -: \(EOPNOTSUPP)",
      ])
  }

  // In a process of its own: the limit on descriptors is the whole process's.
  @Test func aServerWithoutDescriptorsNeitherSpinsNorForgets() async {
    await #expect(processExitsWith: .success) {
      let directory = TemporaryDirectory()
      let loop = try EventLoop()
      var limits = ControlServer.Limits()
      limits.acceptRetryMilliseconds = 50
      let server = try ControlServer(
        loop: loop, path: directory.socket, handler: try Channels(), limits: limits)
      var said: [String] = []
      server.report = { if case .exhausted(let error) = $0 { said.append("\(error)") } }
      let client = try RawClient(directory.socket)
      try client.send(.list(index: 0))
      var usual = rlimit()
      getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &usual)
      var none = rlimit(rlim_cur: 0, rlim_max: usual.rlim_max)
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &none)
      #expect(try loop.runOnce(timeoutMilliseconds: 0) == 1)
      #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0)
      // The time to try again, and the next try.
      for _ in 1...4 { try loop.runOnce(timeoutMilliseconds: 10_000) }
      #expect(said.count == 1 && said.first?.contains("Too many open files") == true)
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &usual)
      while server.connectionCount == 0 { try loop.runOnce(timeoutMilliseconds: 10_000) }
      while try loop.runOnce(timeoutMilliseconds: 0) > 0 {}
      #expect(try client.reply() == .channel(someChannels[0]))
      server.stop()
    }
  }
}
