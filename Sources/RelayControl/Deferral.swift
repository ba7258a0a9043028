// SPDX-License-Identifier: Apache-2.0
// Requests whose effect takes longer than the loop can wait. The connection is asked for nothing
// else until the handler has finished; the request is finished also for a client that went away,
// and until then takes the place of that client's connection.

internal import LinuxIO

/// When the effect of a request is there.
public enum Completion: Sendable {
  case now
  /// The handler calls `ControlServer.finish` once it is, and not before it has returned.
  case later
}

extension ControlServer {
  /// A request that the handler has not finished.
  struct PendingRequest {
    let request: Request
    let peer: PeerCredentials
    let account: Account
    /// The connection's, until that is closed.
    let socket: CInt
    var isOfClosed = false
  }

  func put(off request: Request, of client: Client, _ connection: Connection) {
    pending[connection.id] = PendingRequest(
      request: request, peer: client.peer, account: connection.account,
      socket: connection.socket.raw)
    connection.isPending = true
    watch(connection)
  }

  /// Answers a request that the handler put off.
  /// - Parameter refusal: why it could not be done; nil: it is.
  public func finish(_ id: ConnectionID, _ refusal: ControlRefusal?) {
    guard let pending = pending.removeValue(forKey: id) else { return }
    report(
      refusal.map { .refused(pending.request, pending.peer, $0) }
        ?? .done(pending.request, pending.peer))
    guard !pending.isOfClosed, let connection = connections[pending.socket] else { return }
    connection.isPending = false
    watch(connection)
    if !send(refusal.map { .refused($0) } ?? .done, to: pending.socket) { close(connection) }
  }
}
