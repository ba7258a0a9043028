// SPDX-License-Identifier: Apache-2.0
// Client and server together, each on its own thread, and one in its own process.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import RelayControl

@Suite struct ClientTests {
  @Test func aClientGetsWhatItAsksFor() throws {
    let live = try LiveServer()
    let client = try live.client()
    #expect(try client.list() == someChannels)
    #expect(try client.stat("relay") == [someStatistics])
    #expect(try client.producers() == someProducers)
    #expect(try client.readers() == someReaders)
    try client.evict(reader: 7)
    try client.flush("flight")
    try client.reset("relay")
    try client.create("new", options: "subbuf_size=4KiB,global", keep: true)
    try client.create("newer")
    try client.close("flight")
    let asked = live.channels.calls.withLock { $0.map(\.what).suffix(6) }
    #expect(
      asked == [
        "evict 7", "flush flight", "reset relay", "create new:subbuf_size=4KiB,global true",
        "create newer: false", "close flight",
      ])
    #expect(client.isConnected)
  }

  @Test func aChannelIsFoundByItsName() throws {
    let live = try LiveServer()
    let client = try live.client()
    #expect(try client.describe("flight") == someChannels[1])
    #expect(try client.describe("nothing") == nil)
  }

  @Test func aConnectionThatEndedIsRenewedUnderItsNumber() throws {
    let live = try LiveServer()
    let client = try live.client()
    let number = client.raw
    _ = try client.list()
    shutdown(number, CInt(SHUT_RDWR))
    #expect(throws: ControlError.self) { _ = try client.list() }
    #expect(!client.isConnected)
    try client.renew()
    #expect(client.isConnected && client.raw == number)
    #expect(try client.list() == someChannels)
    let calls = live.channels.calls.withLock { $0.map(\.client.connection) }
    try client.renew()
    _ = try client.list(index: 0)
    #expect(live.channels.calls.withLock { $0.last!.client.connection } == calls.last!)
  }

  @Test func aRefusalOfSeveralLinesArrivesWhole() throws {
    let live = try LiveServer()
    let client = try live.client()
    let refusal = ControlRefusal(code: EINVAL, message: Channels.reloadRefusal)
    #expect(throws: ControlError.refused(refusal)) { try client.reload() }
  }

  @Test func everyRequestSaysWhoAsks() throws {
    let live = try LiveServer()
    let client = try live.client()
    _ = try client.attach("relay")
    _ = try client.list(index: 0)
    _ = try client.stat("relay", bufferIndex: 0)
    try client.flush("relay")
    try client.reset("relay")
    try client.create("new")
    try client.close("relay")
    let clients = live.channels.calls.withLock { $0.map(\.client) }
    #expect(clients.count == 7)
    for client in clients {
      #expect(client.peer.pid == getpid() && client.peer.uid == getuid())
      #expect(client.connection == clients[0].connection)
    }
  }

  @Test func attachingBringsTheDescriptors() throws {
    let live = try LiveServer()
    let client = try live.client()
    let attached = try client.attach("relay")
    let (owner, geometry, ring) = (attached.owner, attached.geometry.raw, attached.ring.raw)
    #expect(owner == Channels.owner)
    let seals: MemoryFile.Seals = [.shrink, .grow, .write, .seal]
    #expect(try MemoryFile.seals(of: geometry).subtracting(.execute) == seals)
    #expect(try MemoryFile.count(of: ring) == 65_536)
    Doorbell.ring(attached.wake.raw)
    let listener = live.channels.wake.listenerDescriptor
    #expect(Readiness.wait(listener, .read, timeoutMilliseconds: 0) == .read)
    #expect(live.channels.calls("attach")[0].peer.pid == getpid())
  }

  @Test func oneConnectionAttachesToSeveralChannels() throws {
    let live = try LiveServer()
    let client = try live.client()
    _ = try client.attach("relay")
    _ = try client.attach("flight")
    let connections = live.channels.calls("attach").map(\.connection)
    #expect(connections.count == 2 && connections[0] == connections[1])
  }

  @Test func aRefusalIsAnErrorAndTheConnectionGoesOn() throws {
    let live = try LiveServer()
    let client = try live.client()
    let refusal = ControlRefusal(code: ENOENT, message: "no channel nothing")
    #expect(throws: ControlError.refused(refusal)) { try client.flush("nothing") }
    #expect(throws: ControlError.refused(refusal)) { _ = try client.attach("nothing") }
    #expect(throws: ControlError.self) { try client.flush(String(repeating: "x", count: 300)) }
    #expect(try client.list(index: 0) == someChannels[0])
  }

  @Test func noDaemonIsSaidSo() throws {
    let directory = TemporaryDirectory()
    let path = directory.socket
    #expect(throws: ControlError.noDaemon(path: path)) { try ControlClient(path: path) }
    #expect(throws: ControlError.noDaemon(path: "/dev/null/x")) {
      try ControlClient(path: "/dev/null/x")
    }
  }

  @Test(.enabled(if: getuid() == 0, "needs to become another user"))
  func noPermissionIsSaidSo() async throws {
    // mkdtemp makes the directory for its owner only: that is what keeps others out.
    let live = try LiveServer()
    let path = live.directory.socket
    await #expect(processExitsWith: .success) { [path = path as String] in
      guard setuid(65_534) == 0 else { exit(1) }
      do throws(ControlError) {
        _ = try ControlClient(path: path)
        exit(2)
      } catch {
        exit(error == .notPermitted(path: path) ? 0 : 3)
      }
    }
  }

  @Test func theEndOfTheDaemonIsNoticed() throws {
    var live: LiveServer? = try LiveServer()
    let client = try live!.client()
    try client.flush("relay")
    live = nil
    #expect(Readiness.wait(client.raw, .hangup, timeoutMilliseconds: 10_000).contains(.hangup))
    #expect(!client.isConnected)
    #expect(throws: ControlError.disconnected) { try client.flush("relay") }
    #expect(throws: ControlError.disconnected) { try client.flush("relay") }
  }

  @Test func aDaemonThatDoesNotAnswerIsNotWaitedForLong() throws {
    let directory = TemporaryDirectory()
    let listener = try UnixSocket.listen(path: directory.socket)
    let client = try ControlClient(path: directory.socket, timeoutMilliseconds: 20)
    #expect(throws: ControlError.noReply) { try client.flush("relay") }
    // A late reply must not be taken for the next one's.
    #expect(throws: ControlError.disconnected) { try client.flush("relay") }
    _ = listener.raw
  }

  @Test func aReplyToSomethingElseIsAProtocolViolation() throws {
    for reply in [Reply.end, .done, .attached(owner: 1)] {
      let directory = TemporaryDirectory()
      let listener = try UnixSocket.listen(path: directory.socket)
      let client = try ControlClient(path: directory.socket)
      // The answer lies there before the question: no second thread needed.
      guard let server = try UnixSocket.accept(listener.raw) else {
        Issue.record("nobody to accept")
        return
      }
      let raw = server.raw
      let bytes = try reply.encoded()
      let sent = try bytes.withUnsafeBytes { try UnixSocket.send(raw, $0) }
      #expect(sent)
      #expect(throws: ControlError.protocolViolation("a reply to something else")) {
        _ = try client.attach("relay")
      }
      #expect(!client.isConnected)
      _ = server.raw
    }
  }

  @Test func aStaleSocketIsReplaced() async throws {
    let live = try LiveServer()
    let directory = TemporaryDirectory()
    let path = directory.socket
    // A daemon that is killed leaves its files.
    await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String] in
      let listener = try UnixSocket.listen(path: path)
      _ = raise(SIGKILL)
      _ = listener.raw
    }
    #expect(access(path, F_OK) == 0)
    #expect(throws: ControlError.noDaemon(path: path)) { try ControlClient(path: path) }
    let loop = try EventLoop()
    let server = try ControlServer(loop: loop, path: path, handler: live.channels)
    let client = try UnixSocket.connect(path: path)
    try loop.runOnce(timeoutMilliseconds: 0)
    #expect(server.connectionCount == 1)
    server.stop()
    _ = client.raw
  }

  @Test func theDeathOfAClientIsNoticed() async throws {
    let live = try LiveServer()
    let path = live.directory.socket
    await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String] in
      let client = try ControlClient(path: path)
      let attached = try client.attach("relay")
      _ = raise(SIGKILL)
      _ = attached.owner
    }
    live.waitForEnds(1)
    let process = live.channels.process.withLock { $0 }
    let events = Readiness.wait(process, .read, timeoutMilliseconds: 10_000)
    #expect(events.contains(.read))
    #expect(live.channels.calls("attach")[0].peer.pid != getpid())
  }

  @Test(arguments: 1...4) func aGoodClientIsServedWhileOthersSendGarbage(seed: UInt64) throws {
    let live = try LiveServer()
    let good = try live.client()
    var generator = SeededGenerator(state: seed)
    for _ in 0..<300 {
      let bad = try UnixSocket.connect(path: live.directory.socket)
      let bytes = generator.packet(limit: Bool.random(using: &generator) ? 40 : 8000)
      for _ in 0..<Int.random(in: 1...3, using: &generator) {
        // It may have been thrown out already.
        _ = try? bytes.withUnsafeBytes { try UnixSocket.send(bad.raw, $0, dontWait: true) }
      }
      #expect(try good.stat("relay", bufferIndex: 0) == someStatistics)
    }
    #expect(good.isConnected)
  }
}
