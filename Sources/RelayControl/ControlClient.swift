// SPDX-License-Identifier: Apache-2.0
// A client's side of the control socket: one request, one reply, waiting at most a given time.

package import CLinux
internal import Glibc
public import LinuxIO

/// Why a client did not get what it asked for.
public enum ControlError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Nobody serves the socket.
  case noDaemon(path: String)
  /// The socket may not be used by this user.
  case notPermitted(path: String)
  /// The daemon said no.
  case refused(ControlRefusal)
  /// The daemon is of an earlier release than this and does not know the request; it ended the
  /// connection.
  case unknownRequest(path: String, request: String)
  /// The daemon sent what the protocol does not have.
  case protocolViolation(String)
  /// The daemon ended the connection.
  case disconnected
  /// The daemon did not answer in time.
  case noReply
  /// A system call failed in a way none of the above says.
  case system(SystemError)

  public var description: String {
    switch self {
    case .noDaemon(let path): "no relayd serves \(path)"
    case .notPermitted(let path): "no permission to use \(path)"
    case .refused(let refusal): refusal.message
    case .unknownRequest(let path, let request):
      "the relayd that serves \(path) is older than this program and does not know `\(request)`"
    case .protocolViolation(let what): "relayd does not speak this protocol: \(what)"
    case .disconnected: "relayd closed the connection"
    case .noReply: "relayd does not answer"
    case .system(let error): error.description
    }
  }
}

/// A connection to the daemon; channels that were attached through it keep it open. One thread at a
/// time.
public final class ControlClient {
  /// `$RELAY_SOCKET`, else /run/relayd/control.
  public static var defaultPath: String {
    Environment.value(of: "RELAY_SOCKET") ?? "/run/relayd/control"
  }

  public let path: String
  private var timeoutMilliseconds: Int
  private let socket: GuardedDescriptor
  // The connection on which a reply was missed: what comes next may answer an earlier request.
  private var brokenConnection: UInt64?
  // A token's: it was sent, and the reply is still to come.
  private var isRedeeming = false
  private let packet: UnsafeMutableRawBufferPointer

  public static let defaultTimeoutMilliseconds = 10_000

  /// Connects. No call waits longer than `timeoutMilliseconds` (0: without limit).
  public init(
    path: String = ControlClient.defaultPath, timeoutMilliseconds: Int = defaultTimeoutMilliseconds
  ) throws(ControlError) {
    // The program may go elsewhere, and what asks the next daemon must find the same place.
    self.path = Files.absolutePath(path)
    self.timeoutMilliseconds = timeoutMilliseconds
    let connected = try ControlClient.connect(self.path, timeoutMilliseconds)
    do throws(SystemError) {
      socket = try GuardedDescriptor(connected)
    } catch { throw .system(error) }
    packet = .allocate(byteCount: ControlLimits.packetBytes, alignment: 8)
  }

  deinit { packet.deallocate() }

  private static func connect(
    _ path: String, _ timeoutMilliseconds: Int
  ) throws(ControlError) -> FileDescriptor {
    do {
      return try UnixSocket.connect(path: path, timeoutMilliseconds: timeoutMilliseconds)
    } catch {
      switch error.code {
      // ENOTDIR and EPROTOTYPE: what stands there is no such socket.
      case ENOENT, ECONNREFUSED, ENOTDIR, EPROTOTYPE: throw .noDaemon(path: path)
      case EACCES, EPERM: throw .notPermitted(path: path)
      case EAGAIN: throw .noReply
      default: throw .system(error)
      }
    }
  }

  /// From now on no call waits longer than that.
  public func setTimeout(milliseconds: Int) throws(ControlError) {
    do throws(SystemError) {
      try UnixSocket.setTimeout(raw, milliseconds: milliseconds)
    } catch { throw .system(error) }
    timeoutMilliseconds = milliseconds
  }

  /// The connection, at a fixed address as long as the client: for what closes it at a fork.
  package func withGuarded<R>(_ body: (UnsafeMutablePointer<clinux_guarded>) -> R) -> R {
    body(socket.words)
  }

  /// Closes the connection, which may be a parent's, in this process only.
  public func close() { socket.close() }

  /// Connects again if the daemon closed the connection or died, or the program closed it.
  public func renew() throws(ControlError) {
    guard !isConnected else { return }
    let new = try ControlClient.connect(path, timeoutMilliseconds)
    do {
      try socket.replace(by: new)
    } catch { throw .system(error) }
  }

  private var isBroken: Bool {
    // An attached channel that followed its daemon's successor took the connection with it.
    brokenConnection != nil && brokenConnection == socket.identity
  }

  /// For polling: a hang-up says that the daemon is gone. -1: the program has closed it.
  public var raw: CInt { socket.raw }

  /// False once the daemon closed the connection or died, or the program closed it.
  public var isConnected: Bool {
    !isBroken
      && Readiness.wait(raw, .hangup, timeoutMilliseconds: 0).isDisjoint(with: [.hangup, .error])
  }

  /// Attaches to `channel` for writing. ENOENT if there is none.
  public func attach(_ channel: String) throws(ControlError) -> AttachedChannel {
    var descriptors = DescriptorList()
    let reply = try exchange(.attach(channel: channel), &descriptors)
    return try attached(channel, reply, &descriptors)
  }

  /// Makes this connection, on which nothing was attached or mapped, a token: the process that
  /// redeems it attaches to `channel` by this one's right. ENOENT, EPERM as `attach`.
  public func makeToken(for channel: String) throws(ControlError) {
    try expectDone(.token(channel: channel))
  }

  /// Attaches to `channel`, for which a parent made this connection a token. After `.noReply` and
  /// `.refused` it can be tried again; a reply that comes late is taken then.
  public func redeem(_ channel: String) throws(ControlError) -> AttachedChannel {
    if !isRedeeming {
      guard let request = try? Request.redeem.encoded() else { throw unexpected() }
      try send(request)
      isRedeeming = true
    }
    var descriptors = DescriptorList()
    let reply = try receive(&descriptors)
    isRedeeming = false
    if case .refused(let refusal) = reply { throw .refused(refusal) }
    return try attached(channel, reply, &descriptors)
  }

  private func attached(
    _ channel: String, _ reply: Reply, _ descriptors: inout DescriptorList
  ) throws(ControlError) -> AttachedChannel {
    guard case .attached(let owner) = reply,
      let geometry = descriptors.take(0), let ring = descriptors.take(1),
      let wake = descriptors.take(2), let life = descriptors.take(3),
      let request = try? Request.attach(channel: channel).encoded(),
      let sameReply = try? reply.encoded()
    else { throw unexpected() }
    return AttachedChannel(
      name: channel, owner: owner, geometry: geometry, ring: ring, wake: wake, life: life,
      way: WayBack(
        connection: socket, path: path, request: request,
        replyHeader: Array(sameReply.dropLast(2))))
  }

  /// The first channel whose serial number is `index` or higher; nil past the last.
  public func list(index: Int) throws(ControlError) -> ChannelDescription? {
    try described(.list(index: index))
  }

  private func described(_ request: Request) throws(ControlError) -> ChannelDescription? {
    switch try exchange(request) {
    case .channel(let description): return description
    case .end: return nil
    default: throw unexpected()
    }
  }

  /// All channels.
  public func list() throws(ControlError) -> [ChannelDescription] {
    try list { .list(index: $0) }
  }

  private func list(
    _ request: (_ index: Int) -> Request
  ) throws(ControlError) -> [ChannelDescription] {
    var channels: [ChannelDescription] = []
    while let channel = try described(request(channels.last.map { $0.serial + 1 } ?? 0)) {
      // Whatever the other side says, this ends.
      guard channel.serial > channels.last?.serial ?? -1 else { throw unexpected() }
      channels.append(channel)
    }
    return channels
  }

  /// Those with a damaged buffer; a daemon that is older than this knows none: `.unknownRequest`.
  public func listDamaged() throws(ControlError) -> [ChannelDescription] {
    try list { .damaged(index: $0) }
  }

  /// The channel of this name, the open one before one that is closed and still being read; nil if
  /// there is none.
  public func describe(_ channel: String) throws(ControlError) -> ChannelDescription? {
    try list().last { $0.name == channel }
  }

  /// The `bufferIndex`-th buffer of `channel`; nil past the last.
  public func stat(
    _ channel: String, bufferIndex: Int
  ) throws(ControlError) -> BufferStatistics? {
    switch try exchange(.stat(channel: channel, bufferIndex: bufferIndex)) {
    case .statistics(let statistics): return statistics
    case .end: return nil
    default: throw unexpected()
    }
  }

  /// All buffers of `channel`.
  public func stat(_ channel: String) throws(ControlError) -> [BufferStatistics] {
    var buffers: [BufferStatistics] = []
    while let buffer = try stat(channel, bufferIndex: buffers.count) { buffers.append(buffer) }
    return buffers
  }

  /// Each process that is attached and that this user may see, once for each of its channels.
  public func producers() throws(ControlError) -> [ProducerDescription] {
    var producers: [ProducerDescription] = []
    var next = (serial: 0, index: 0)
    while true {
      switch try exchange(.producer(serial: next.serial, index: next.index)) {
      case .producer(let producer):
        // Whatever the other side says, this ends.
        guard (producer.serial, producer.index) >= next else { throw unexpected() }
        producers.append(producer)
        next = (producer.serial, producer.index + 1)
      case .end: return producers
      default: throw unexpected()
      }
    }
  }

  /// Each open file and mapped consumer that this user may see.
  public func readers() throws(ControlError) -> [ReaderDescription] {
    var readers: [ReaderDescription] = []
    var next: UInt64 = 0
    while true {
      switch try exchange(.reader(serial: next)) {
      case .reader(let reader):
        // Whatever the other side says, this ends.
        guard reader.serial >= next, reader.serial < .max else { throw unexpected() }
        readers.append(reader)
        next = reader.serial + 1
      case .end: return readers
      default: throw unexpected()
      }
    }
  }

  /// Takes its buffer from a reader, by the number that `readers` has of it.
  public func evict(reader serial: UInt64) throws(ControlError) {
    try expectDone(.evict(serial: serial))
  }

  public func flush(_ channel: String) throws(ControlError) {
    try expectDone(.flush(channel: channel))
  }

  public func reset(_ channel: String) throws(ControlError) {
    try expectDone(.reset(channel: channel))
  }

  /// Makes a channel. `options` as relayd's --channel takes them behind the name, such as
  /// "subbuf_size=4KiB,global"; empty for the defaults. Unless `keep`, the channel is gone when the
  /// last process that attached to it has ended.
  public func create(
    _ channel: String, options: String = "", keep: Bool = false
  ) throws(ControlError) {
    try expectDone(.create(channel: channel, options: options, keep: keep))
  }

  public func close(_ channel: String) throws(ControlError) {
    try expectDone(.close(channel: channel))
  }

  /// Makes the daemon read its configuration again. Refused with one line for each change that
  /// cannot be made.
  public func reload() throws(ControlError) { try expectDone(.reload) }

  func expectDone(_ request: Request) throws(ControlError) {
    guard case .done = try exchange(request) else { throw unexpected() }
  }

  func unexpected() -> ControlError {
    brokenConnection = socket.identity
    return .protocolViolation("a reply to something else")
  }

  func exchange(_ request: Request) throws(ControlError) -> Reply {
    var none = DescriptorList()
    return try exchange(request, &none)
  }

  func exchange(
    _ request: Request, _ descriptors: inout DescriptorList
  ) throws(ControlError) -> Reply {
    guard !isBroken, raw >= 0 else { throw .disconnected }
    let bytes: [UInt8]
    do {
      bytes = try request.encoded()
    } catch {
      // It was not sent: the connection is still good.
      throw .refused(ControlRefusal(code: EINVAL, message: "\(error)"))
    }
    // Until the reply is here.
    brokenConnection = socket.identity
    try send(bytes)
    let reply = try receive(&descriptors)
    brokenConnection = nil
    guard case .refused(let refusal) = reply else { return reply }
    // What a daemon says of a type that it does not know, whatever its release.
    let unknown = WireError.unknownType(bytes[Decoder.typeOffset])
    if refusal.code == EOPNOTSUPP, refusal.message == "\(unknown)" {
      throw .unknownRequest(path: path, request: request.command)
    }
    throw .refused(refusal)
  }

  private func send(_ request: [UInt8]) throws(ControlError) {
    let sent: Bool
    do {
      sent = try request.span.bytes.withUnsafeBytes { bytes throws(SystemError) in
        try UnixSocket.send(raw, bytes)
      }
    } catch {
      // A daemon that refuses the connection says why before it closes: the reason is readable.
      if error.code == EPIPE || error.code == ECONNRESET { return }
      throw .system(error)
    }
    if !sent { throw .noReply }
  }

  private func receive(_ descriptors: inout DescriptorList) throws(ControlError) -> Reply {
    var received = try receivePacket()
    guard received.count > 0 else { throw .disconnected }
    guard !received.lacksDescriptors else {
      throw .system(SystemError(code: EMFILE, operation: "take the descriptors of a channel"))
    }
    guard !received.isTruncated else { throw .protocolViolation("\(WireError.malformed)") }
    descriptors = received.takeDescriptors()
    do {
      return try Reply(decoding: UnsafeRawBufferPointer(rebasing: packet[..<received.count]).bytes)
    } catch {
      throw .protocolViolation("\(error)")
    }
  }

  private func receivePacket() throws(ControlError) -> ReceivedPacket {
    // A reset is reported once, before a reply that arrived ahead of it.
    for _ in 0..<2 {
      let received: ReceivedPacket?
      do {
        received = try UnixSocket.receive(
          raw, into: packet, maximumDescriptors: ControlLimits.attachDescriptors)
      } catch {
        if error.code == ECONNRESET { continue }
        throw .system(error)
      }
      guard let received else { throw .noReply }
      return received
    }
    throw .disconnected
  }
}
