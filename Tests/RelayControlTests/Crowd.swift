// SPDX-License-Identifier: Apache-2.0
// Clients of several users at one server, for tests in a process of their own.

import Glibc
import LinuxIO
import Testing

@testable import RelayControl

/// Connections of several users to a server that runs as root, step by step on this thread.
final class Crowd {
  private let directory = TemporaryDirectory()
  let channels: Channels
  let loop: EventLoop
  let server: ControlServer
  // Open until the end.
  private var clients: [RawClient] = []

  /// - Parameter owner: the user that the server runs as.
  init(
    connections: Int = 1024, ofOthers: Int = 896, perUser: Int = 128, owner: UInt32 = 0,
    descriptors: Int = .max, firstRequestMilliseconds: Int = 10_000
  ) throws {
    var limits = ControlServer.Limits()
    limits.connections = connections
    limits.connectionsOfOthers = ofOthers
    limits.connectionsPerUser = perUser
    limits.descriptors = descriptors
    limits.firstRequestMilliseconds = firstRequestMilliseconds
    channels = try Channels()
    loop = try EventLoop()
    #expect(chmod(directory.path, 0o755) == 0)
    #expect(chown(directory.path, owner, owner) == 0)
    #expect(seteuid(owner) == 0)
    server = try ControlServer(
      loop: loop, path: directory.socket, handler: channels, limits: limits)
  }

  deinit {
    server.stop()
    seteuid(0)
  }

  var connectionCount: Int { server.connectionCount }

  /// A connection of `uid`; with `asking` one that has made a request and got its answer, with
  /// `attaching` one that holds a channel.
  @discardableResult
  func client(_ uid: UInt32, asking: Bool = false, attaching: Bool = false) throws -> RawClient {
    let server = geteuid()
    #expect(seteuid(0) == 0 && seteuid(uid) == 0)
    let client = try RawClient(directory.socket)
    #expect(seteuid(0) == 0 && seteuid(server) == 0)
    clients.append(client)
    if asking {
      try client.send(.list(index: 0))
      try serve()
      #expect(try client.reply() == .channel(someChannels[0]))
    }
    if attaching {
      try client.send(.attach(channel: "relay"))
      try serve()
      guard case .attached = try client.reply() else { throw ControlError.disconnected }
    }
    try serve()
    return client
  }

  func serve() throws {
    while try loop.runOnce(timeoutMilliseconds: 0) > 0 {}
  }
}
