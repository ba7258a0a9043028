// SPDX-License-Identifier: Apache-2.0
// Connections that a process makes for a child which cannot make one: tokens.
//
// 1. A token is good for one attach to one channel. Its right is that of the process that
//    connected, looked at when the token is made and again when it is redeemed, as the channel may
//    be another one by then.
// 2. SO_PEERCRED names the process that connected, so the child is known by the packet in which it
//    asks: its credentials (SCM_CREDENTIALS), and a handle of it that the kernel makes
//    (SCM_PIDFD). A handle made by the child would need descriptors to be accepted from anybody who
//    connects, and a proof that it names its sender.
// 3. Whatever comes through the connection afterwards has the child's rights, and counts as the
//    child's.
// 4. A token ends with its connection: with the last process that holds it, or with relayd.

internal import Glibc
internal import LinuxIO

extension ControlServer {
  func makeToken(
    _ channel: String, _ connection: Connection, _ client: Client
  ) throws(ControlRefusal) {
    guard connection.child == nil else { throw isAChilds }
    // Its attachments, or buffers, would be the child's.
    guard !connection.hasAttached else {
      throw ControlRefusal(
        code: EBUSY, message: "this connection is attached already: a token takes one of its own")
    }
    let others = connections.values.count { $0.token != nil && $0.connectedBy == client.peer.pid }
    guard others < limits.tokensPerProcess else {
      throw ControlRefusal(
        code: EMFILE,
        message: "process \(client.peer.pid) has made \(others) tokens that nobody has redeemed")
    }
    try handler.grant(channel: channel, client: client)
    connection.hasAttached = true
    do throws(SystemError) {
      // Before the reply: what is sent after it has a sender.
      try UnixSocket.askSenders(connection.socket.raw, true)
    } catch { throw ControlRefusal(code: error.code, message: "cannot make a token: \(error)") }
    connection.token = channel
    connection.connectedBy = client.peer.pid
  }

  /// One packet through a token.
  func serveToken(_ connection: Connection, _ channel: String) throws {
    let raw = connection.socket.raw
    guard var received = try UnixSocket.receiveWithSender(raw, into: packet) else { return }
    guard let request = try decode(received.count, received.isTruncated, raw),
      let parent = client(connection)
    else { return close(connection) }
    let isSent: Bool
    do throws(ControlRefusal) {
      guard case .redeem = request else {
        throw ControlRefusal(code: EPERM, message: "this connection is a token: redeem it first")
      }
      guard isServing else { throw isEnding }
      let child = received.sender.credentials
      let account = Account(child.uid)
      let process = try watched(account) { () throws(SystemError) in
        try received.sender.takeProcess()
      }
      let attachment = try handler.redeem(
        channel: channel, parent: parent, child: child, process: process)
      connection.token = nil
      connection.child = child
      connection.account = account
      watch(connection)
      try? UnixSocket.askSenders(raw, false)
      isSent = send(attachment, to: raw)
    } catch {
      report(.refused(request, parent.peer, error))
      isSent = send(.refused(error), to: raw)
    }
    if !isSent { close(connection) }
  }

  var isEnding: ControlRefusal { ControlRefusal(code: ESHUTDOWN, message: "relayd is ending") }

  var isAChilds: ControlRefusal {
    ControlRefusal(
      code: EPERM,
      message: "this connection was made by a parent for its child: connect anew to attach")
  }

  var notAToken: ControlRefusal {
    ControlRefusal(code: EPERM, message: "this connection is no token, or was redeemed already")
  }
}
