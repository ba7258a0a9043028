// SPDX-License-Identifier: Apache-2.0
// The daemon's side of the control socket: accepts, reads requests, answers. Bounded in memory
// and time whatever clients send; what a request does, and for whom, is the handler's.

internal import Glibc
public import LinuxIO
internal import Relay

/// Serves a control socket on an event loop. Every reply is sent at once or the client dropped,
/// so nothing is ever queued; a reply may come later. All calls on the loop's thread.
public final class ControlServer: EventHandler {
  /// Open connections. One more than each of the limits takes the place of one that counts to it
  /// and has neither attached nor mapped: one that never asked anything, else the one that asked
  /// longest ago. Where all have, it is told so and closed.
  public struct Limits: Sendable {
    public var connections = 1024
    /// Of all users together but root and the daemon's own, who thus always find a place.
    public var connectionsOfOthers = 896
    /// Of each user but root and the daemon's own. One that attaches keeps its connection.
    public var connectionsPerUser = 128
    /// Descriptors numbered from here on are for root, the daemon's own user, and what is opened
    /// for a moment, whatever other users hold.
    public var descriptors = Int.max
    /// Tokens that one process has made and nobody has redeemed.
    public var tokensPerProcess = 128
    /// Time for a new connection to make its first valid request.
    public var firstRequestMilliseconds = 10_000
    /// Pause when the process has no descriptor left for a new connection.
    public var acceptRetryMilliseconds = 1_000

    public init() {}
  }

  final class Connection {
    let id: ConnectionID
    // Whose it is: of who connected, or of the child that redeemed its token.
    var account: Account
    let socket: FileDescriptor
    // When it must have made its first request, milliseconds; nil once it has.
    var deadline: Int?
    var hasAttached = false
    // A token that was not redeemed yet: for this channel.
    var token: String?
    // The process that made the token.
    var connectedBy: Int32 = 0
    // The process that redeemed it: from then on the connection is that one's, with its rights.
    var child: PeerCredentials?
    // In the order of their latest requests.
    var lastUse: UInt64 = 0
    // Its request is not finished.
    var isPending = false
    // It has mapped a buffer, and asked for nothing else since then.
    var isConsumer = false
    // What the loop reported last.
    var events: Events = []
    // It is among `turns`.
    var isWaiting = false

    init(
      id: ConnectionID, account: Account, socket: consuming FileDescriptor, deadline: Int
    ) {
      self.id = id
      self.account = account
      self.socket = socket
      self.deadline = deadline
    }
  }

  // Connections taken per round, so that a storm of them doesn't starve those that are open.
  private static let acceptsPerEvent = 16

  public let path: String

  let loop: EventLoop
  let handler: any ControlHandler
  public var limits: Limits
  private var listener: UnixListener?
  private let listenerRaw: CInt
  private let timer: TimerFD
  private(set) var connections: [CInt: Connection] = [:]
  private var nextID: UInt64 = 1
  private var uses: UInt64 = 0
  private var hasSaidExhausted = false
  /// Told what its owner may want to log. Clients decide how often.
  public var report: (ServerReport) -> Void = { _ in }
  // When to accept again after running out of descriptors; nil while accepting.
  private var resumeAccepting: Int?
  // The users whose connections rest, and until when, milliseconds.
  var resting: [UInt32: Int] = [:]
  var pending: [ConnectionID: PendingRequest] = [:]
  var turns = Turns()
  var isRoundExpected = false
  private var isListenerReady = false
  // One byte more than a packet may have, so that a longer one shows.
  let packet = UnsafeMutableRawBufferPointer.allocate(
    byteCount: ControlLimits.packetBytes + 1, alignment: 8)

  /// Starts to serve `path` for every user who can reach it (mode 0666). EADDRINUSE if a daemon
  /// serves it already, EEXIST if something that is no socket stands there; the error names the
  /// path.
  public init(
    loop: EventLoop, path: String, handler: any ControlHandler, limits: Limits = Limits()
  ) throws(SystemError) {
    self.loop = loop
    self.path = path
    self.handler = handler
    self.limits = limits
    timer = try TimerFD()
    let listener = try ControlServer.listen(path)
    listenerRaw = listener.raw
    self.listener = consume listener
    try loop.add(listenerRaw, .read, self)
    do {
      try loop.add(timer.raw, .read, self)
    } catch {
      loop.remove(listenerRaw)
      throw error
    }
  }

  deinit { packet.deallocate() }

  private static func listen(_ path: String) throws(SystemError) -> UnixListener {
    do {
      return try UnixSocket.listen(path: path, mode: 0o666)
    } catch {
      guard error.code == EADDRINUSE else { throw error }
      throw SystemError(
        code: EADDRINUSE, operation: "serve \(path): a relayd already serves this socket")
    }
  }

  /// Open connections.
  public var connectionCount: Int { connections.count }

  /// Removes the socket's files, or leaves the socket for a successor's, and closes all
  /// connections, but for those that are still served until the next call. The handler hears of
  /// each one that is closed.
  public func stop(
    leavesSocket: Bool = false, except isKept: (ConnectionID) -> Bool = { _ in false }
  ) {
    if listener != nil {
      if leavesSocket { listener?.leaveSocket() }
      loop.remove(listenerRaw)
      loop.remove(timer.raw)
      listener = nil
      endRests(by: .max)
    }
    for connection in Array(connections.values) where !isKept(connection.id) { close(connection) }
  }

  public func handle(_ events: Events, from fd: CInt) {
    if fd == listenerRaw {
      isListenerReady = true
      expectRound()
    } else if fd == timer.raw {
      tick()
    } else if let connection = connections[fd] {
      connection.events = events
      turns.add(connection)
      expectRound()
    }
  }

  // MARK: Connections

  /// After those that are open: who has just asked does not give way.
  func acceptWaiting() {
    guard isListenerReady else { return }
    isListenerReady = false
    if isServing { accept() }
  }

  private func accept() {
    for _ in 0..<ControlServer.acceptsPerEvent {
      do {
        guard let socket = try UnixSocket.accept(listenerRaw) else { return }
        hasSaidExhausted = false
        admit(socket)
      } catch {
        if giveWay(where: { !$0.isPrivileged }) { continue }
        // Out of descriptors or memory: those that wait go on waiting, without a busy loop.
        if !hasSaidExhausted {
          hasSaidExhausted = true
          report(.exhausted(error))
        }
        try? loop.modify(listenerRaw, [])
        resumeAccepting = Clock.milliseconds() + limits.acceptRetryMilliseconds
        schedule()
        return
      }
    }
  }

  private func admit(_ accepted: consuming FileDescriptor) {
    var socket = accepted
    guard let peer = try? PeerCredentials.of(socket: socket.raw) else { return }
    let account = Account(peer.uid)
    if let limit = limitReached(by: account) ?? descriptorsTaken(&socket, account) {
      let refusal = ControlRefusal(code: EMFILE, message: limit)
      report(.refused(nil, peer, refusal))
      _ = send(.refused(refusal), to: socket.raw)
      return
    }
    let raw = socket.raw
    let now = Clock.milliseconds()
    let deadline = max(now, resting[account.uid] ?? now) + limits.firstRequestMilliseconds
    let connection = Connection(
      id: ConnectionID(nextID), account: account, socket: socket, deadline: deadline)
    guard (try? loop.add(raw, interest(in: connection), self)) != nil else { return }
    nextID += 1
    connections[raw] = connection
    // The timer runs for the earliest deadline, which is never this one if others wait.
    if resumeAccepting == nil, connections.values.count(where: { $0.deadline != nil }) == 1 {
      schedule()
    }
  }

  func close(_ connection: Connection) {
    loop.remove(connection.socket.raw)
    connections[connection.socket.raw] = nil
    pending[connection.id]?.isOfClosed = true
    if connection.hasAttached { handler.disconnected(connection.id) }
  }

  // MARK: Deadlines

  private func tick() {
    timer.drain()
    let now = Clock.milliseconds()
    for connection in Array(connections.values) {
      if let deadline = connection.deadline, deadline <= now { close(connection) }
    }
    endRests(by: now)
    if let resume = resumeAccepting, resume <= now {
      resumeAccepting = nil
      try? loop.modify(listenerRaw, .read)
    }
    schedule()
  }

  /// Arms the timer for what is due next; leaves it off when nothing is, so that an idle daemon
  /// sleeps.
  func schedule() {
    var due = [resumeAccepting, resting.values.min()].compactMap(\.self).min()
    for connection in connections.values {
      if let deadline = connection.deadline { due = min(due ?? deadline, deadline) }
    }
    if let due {
      timer.arm(onceAfterMilliseconds: due - Clock.milliseconds())
    } else {
      timer.disarm()
    }
  }

  // MARK: Requests

  /// One packet per turn: a client that floods takes turns with the others.
  func serve(_ connection: Connection) {
    let raw = connection.socket.raw
    // Of one that is held nothing is reported but its end.
    guard connection.events.contains(.read), !isHeld(connection) else { return close(connection) }
    do {
      if let channel = connection.token { return try serveToken(connection, channel) }
      guard
        let received = try UnixSocket.receive(raw, into: packet, dontWait: true)
      else { return }
      guard let request = try decode(received.count, received.isTruncated, raw) else {
        return close(connection)
      }
      uses += 1
      connection.lastUse = uses
      if connection.deadline != nil {
        connection.deadline = nil
        schedule()
      }
      if !answer(request, connection) { close(connection) }
    } catch let error as WireError {
      let refusal = ControlRefusal(code: code(error), message: "\(error)")
      if let client = client(connection) { report(.refused(nil, client.peer, refusal)) }
      _ = send(.refused(refusal), to: raw)
      close(connection)
    } catch {
      close(connection)
    }
  }

  /// The request in `packet`; nil when the client cannot be kept.
  func decode(
    _ count: Int, _ isTruncated: Bool, _ raw: CInt
  ) throws(WireError) -> Request? {
    // A client that asks again before it took its reply would make us queue; the bound on what
    // lies in its socket is one reply with its descriptors.
    guard count > 0, !UnixSocket.hasUnread(raw) else { return nil }
    guard !isTruncated else { throw .malformed }
    return try Request(decoding: UnsafeRawBufferPointer(rebasing: packet[..<count]).bytes)
  }

  private func code(_ error: WireError) -> CInt {
    switch error {
    case .unknownVersion: EPROTONOSUPPORT
    case .unknownType: EOPNOTSUPP
    case .malformed, .tooLong, .unusableName: EBADMSG
    }
  }

  /// Who asks through a connection: the process that connected, or the one that redeemed the token.
  func client(_ connection: Connection) -> Client? {
    let connected = try? PeerCredentials.of(socket: connection.socket.raw)
    return (connection.child ?? connected).map { Client(connection: connection.id, peer: $0) }
  }

  func attach(
    _ channel: String, _ connection: Connection, _ client: Client
  ) throws(ControlRefusal) -> Attachment {
    // The socket names the process that connected, and only that one.
    guard connection.child == nil else { throw isAChilds }
    let process = try watched(connection.account) { () throws(SystemError) in
      try ProcessHandle.peer(of: connection.socket.raw)
    }
    let attachment = try handler.attach(channel: channel, client: client, process: process)
    connection.hasAttached = true
    return attachment
  }

  /// A process's handle, if it may have the descriptor.
  func watched(
    _ account: Account, _ open: () throws(SystemError) -> ProcessHandle
  ) throws(ControlRefusal) -> ProcessHandle {
    let process: ProcessHandle
    do {
      process = try open()
    } catch {
      throw ControlRefusal(code: error.code, message: "cannot watch the client: \(error)")
    }
    guard process.raw < limits.descriptors || account.isPrivileged else {
      throw .noDescriptorLeft
    }
    return process
  }

  var isServing: Bool { listener != nil }

  func send(_ attachment: borrowing Attachment, to socket: CInt) -> Bool {
    send(
      .attached(owner: attachment.owner), to: socket,
      descriptors: [attachment.geometry, attachment.ring.raw, attachment.wake, attachment.life])
  }

  /// False when the reply could not go out at once.
  func send(_ reply: Reply, to socket: CInt, descriptors: [CInt] = []) -> Bool {
    do {
      let bytes = try reply.encoded()
      return try bytes.span.bytes.withUnsafeBytes { bytes throws(SystemError) in
        try UnixSocket.send(socket, bytes, descriptors: descriptors, dontWait: true)
      }
    } catch is WireError {
      // The daemon's own strings are too long for a packet.
      let refusal = ControlRefusal(code: EMSGSIZE, message: "the reply does not fit a packet")
      return send(.refused(refusal), to: socket)
    } catch {
      return false
    }
  }
}
