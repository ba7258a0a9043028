// SPDX-License-Identifier: Apache-2.0
// Tokens, step by step on this thread: what who holds one can do with it, and what not. Other
// holders are processes that have it as their standard input.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import RelayControl

@Suite final class TokenTests {
  private let directory = TemporaryDirectory()
  private let channels: Channels
  private let loop: EventLoop
  private let server: ControlServer

  init() throws {
    channels = try Channels()
    loop = try EventLoop()
    var limits = ControlServer.Limits()
    limits.tokensPerProcess = 3
    server = try ControlServer(
      loop: loop, path: directory.socket, handler: channels, limits: limits)
  }

  deinit { server.stop() }

  /// Serves everything that is there.
  private func serve() throws {
    while try loop.runOnce(timeoutMilliseconds: 0) > 0 {}
  }

  private func ask(_ client: RawClient, _ request: Request) throws -> Reply? {
    try client.send(request)
    try serve()
    return try client.reply()
  }

  private func code(_ reply: Reply?) -> CInt? {
    if case .refused(let refusal) = reply { refusal.code } else { nil }
  }

  private func token() throws -> RawClient {
    let client = try RawClient(directory.socket)
    #expect(try ask(client, .token(channel: "relay")) == .done)
    return client
  }

  /// A process that has `token` as its socket `s`, runs a script, and then lives until its input
  /// `hold` ends.
  private func holder(
    _ token: RawClient, _ script: String, hold: borrowing Pipe
  ) throws -> ChildProcess {
    let done = try Pipe()
    let program = """
      import array, os, socket, struct
      s = socket.socket(fileno=0)
      redeem = struct.pack("<BBHI", 4, 15, 0, 0)
      \(script)
      os.write(1, b"x")
      os.read(2, 1)
      """
    let process = try ChildProcess(
      ["python3", "-c", program], input: token.socket.raw, output: done.write.raw,
      error: hold.read.raw)
    // A script that fails has no way to say so but this.
    let isDone = Readiness.wait(done.read.raw, .read, timeoutMilliseconds: 30_000)
    #expect(isDone.contains(.read))
    return process
  }

  private static let asAUser =
    "if os.getuid() == 0: os.setgroups([]); os.setgid(4004); os.setuid(4003)\n"

  /// The process that attached.
  private var hasExited: Bool {
    let handle = channels.process.withLock { $0 }
    return Readiness.wait(handle, .read, timeoutMilliseconds: 0).contains(.read)
  }

  @Test func tokenIsRedeemedOnceAndByTheProcessThatAsks() throws {
    let token = try token()
    let hold = try Pipe()
    let child = try holder(token, "s.send(redeem)", hold: hold)
    try serve()
    #expect(try token.reply() == .attached(owner: Channels.owner))
    #expect(channels.calls("redeem by \(getpid()) of relay").count == 1)
    #expect(channels.calls("attach relay").map(\.peer.pid) == [child.pid])
    #expect(!hasExited)
    child.signal(SIGKILL)
    _ = child.wait()
    #expect(hasExited)
    #expect(code(try ask(token, .redeem)) == EPERM)
    #expect(channels.calls("redeem").count == 1)
  }

  @Test func connectionIsTheChildsOnceItIsRedeemed() throws {
    let token = try token()
    let hold = try Pipe()
    let child = try holder(token, TokenTests.asAUser + "s.send(redeem)", hold: hold)
    defer {
      child.signal(SIGKILL)
      _ = child.wait()
    }
    try serve()
    #expect(try token.reply() == .attached(owner: Channels.owner))
    for request in [Request.reset(channel: "relay"), .close(channel: "relay")] {
      #expect(try ask(token, request) == .done)
    }
    let peers = (channels.calls("reset") + channels.calls("close")).map(\.peer)
    let uid = geteuid() == 0 ? 4003 : geteuid()
    let gid = geteuid() == 0 ? 4004 : getegid()
    #expect(
      peers
        == [PeerCredentials](
          repeating: PeerCredentials(pid: child.pid, uid: uid, gid: gid), count: 2))
    for request in [Request.attach(channel: "relay"), .token(channel: "relay"), .redeem] {
      #expect(code(try ask(token, request)) == EPERM)
    }
    #expect(channels.calls("attach relay").count == 1)
  }

  @Test func tokenTakesNothingButItsRedemption() throws {
    let token = try token()
    let requests: [Request] = [
      .attach(channel: "relay"), .token(channel: "relay"), .list(index: 0),
      .flush(channel: "relay"), .reset(channel: "relay"), .close(channel: "relay"), .reload,
      .create(channel: "x", options: "", keep: true),
      .map(channel: "relay", cpu: 0, unfinished: false),
    ]
    for request in requests { #expect(code(try ask(token, request)) == EPERM) }
    #expect(channels.calls("").count == 1, "the grant")
    #expect(try ask(token, .redeem) == .attached(owner: Channels.owner))
  }

  @Test func tokenWaitsWhereItsRedemptionIsRefused() throws {
    let token = try token()
    let known = channels.known.withLock { $0 }
    channels.known.withLock { $0 = [] }
    #expect(code(try ask(token, .redeem)) == ENOENT)
    channels.known.withLock { $0 = known }
    #expect(try ask(token, .redeem) == .attached(owner: Channels.owner))
  }

  @Test func connectionThatIsNoTokenRedeemsNothing() throws {
    let client = try RawClient(directory.socket)
    #expect(code(try ask(client, .redeem)) == EPERM)
    #expect(code(try ask(client, .token(channel: "forbidden"))) == EPERM)
    #expect(code(try ask(client, .redeem)) == EPERM)
    #expect(try ask(client, .attach(channel: "relay")) == .attached(owner: Channels.owner))
    #expect(code(try ask(client, .token(channel: "relay"))) == EBUSY)
    #expect(channels.calls("redeem").isEmpty)
  }

  @Test func processHasABoundOfTokens() throws {
    var tokens = [try token(), try token(), try token()]
    let client = try RawClient(directory.socket)
    #expect(code(try ask(client, .token(channel: "relay"))) == EMFILE)
    // One that was redeemed does not count, nor one that is gone.
    #expect(try ask(tokens[0], .redeem) == .attached(owner: Channels.owner))
    #expect(try ask(client, .token(channel: "relay")) == .done)
    tokens.removeLast()
    while channels.disconnected.withLock({ $0.isEmpty }) {
      #expect(try loop.runOnce(timeoutMilliseconds: 10_000) > 0)
    }
    #expect(try ask(RawClient(directory.socket), .token(channel: "relay")) == .done)
  }

  /// It cannot send the redemption of another process: the kernel knows who sends.
  @Test(arguments: [1, 4_000_000])
  func tokenNamesNoOtherProcess(_ pid: Int) throws {
    let token = try token()
    let hold = try Pipe()
    let script = """
      \(TokenTests.asAUser)
      import socket as k
      forged = struct.pack("3i", \(pid), os.getuid(), os.getgid())
      try:
          s.sendmsg([redeem], [(k.SOL_SOCKET, k.SCM_CREDENTIALS, forged)])
          os._exit(0)
      except (PermissionError, ProcessLookupError):
          pass
      """
    let child = try holder(token, script, hold: hold)
    child.signal(SIGKILL)
    _ = child.wait()
    try serve()
    #expect(try token.reply() == nil)
    #expect(channels.calls("redeem").isEmpty)
  }

  /// A process that is gone by the time it is read of, reaped or not.
  @Test(arguments: [false, true])
  func deadProcessIsNoChild(_ isReaped: Bool) throws {
    let token = try token()
    let hold = try Pipe()
    let child = try holder(token, "s.send(redeem)", hold: hold)
    child.signal(SIGKILL)
    if isReaped { _ = child.wait() }
    try serve()
    let reply = try token.reply()
    if !isReaped { _ = child.wait() }
    // This handler looks at no process: where it got a handle, that tells.
    if reply == .attached(owner: Channels.owner) {
      #expect(hasExited)
    } else {
      #expect(code(reply) == ESRCH)
    }
  }

  /// Handles of other processes, or anything else, are refused by the kernel (Linux 6.16), or end
  /// the connection; none is kept.
  @Test(arguments: [1, 2, 3, 16])
  func descriptorsAreNotTaken(_ count: Int) throws {
    let token = try token()
    let pipe = try sendDescriptors(count, through: token)
    // No other writer is left.
    #expect(Readiness.wait(pipe.raw, .hangup, timeoutMilliseconds: 10_000).contains(.hangup))
    #expect(channels.calls("redeem").isEmpty)
  }

  /// Sends copies of the write end of a pipe, and returns the other one.
  private func sendDescriptors(
    _ count: Int, through token: RawClient
  ) throws -> FileDescriptor {
    let pipe = try Pipe()
    let descriptors = [CInt](repeating: pipe.write.raw, count: count)
    do {
      try token.send(try Request.redeem.encoded(), descriptors: descriptors)
      try serve()
      #expect(code(try token.reply()) == EBADMSG)
      #expect(token.isOver(withinMilliseconds: 10_000))
    } catch let error as SystemError {
      #expect(error.code == EPERM)
    }
    return try pipe.read.duplicate()
  }

  @Test(arguments: 1...4) func garbageEndsAToken(_ seed: UInt64) throws {
    var generator = SeededGenerator(state: seed)
    for _ in 0..<200 {
      let token = try token()
      let bytes = generator.packet(limit: 64)
      let request = try? Request(decoding: bytes.span.bytes)
      try token.send(bytes)
      // More than it may before its answer.
      let isFlood = Bool.random(using: &generator)
      if isFlood { for _ in 0..<5 { try? token.send(bytes) } }
      try serve()
      if request == nil { #expect(token.isOver(withinMilliseconds: 10_000)) }
    }
    try serve()
    #expect(server.connectionCount == 0)
  }
}
