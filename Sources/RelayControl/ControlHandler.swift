// SPDX-License-Identifier: Apache-2.0
// What the server asks of the daemon. The server knows sockets and messages, the handler channels.

public import LinuxIO
public import Relay

/// One connection to a server; never used twice in its life.
public struct ConnectionID: Hashable, Sendable {
  public let rawValue: UInt64

  public init(_ rawValue: UInt64) { self.rawValue = rawValue }
}

/// Who asks.
public struct Client: Sendable {
  public let connection: ConnectionID
  public let peer: PeerCredentials

  public init(connection: ConnectionID, peer: PeerCredentials) {
    self.connection = connection
    self.peer = peer
  }
}

/// What an attached client gets. The descriptors stay the handler's and must be open until it
/// returns to the event loop.
public struct Attachment: ~Copyable, Sendable {
  /// The owner id under which the client writes.
  public var owner: UInt16
  /// The sealed memory file with the channel's geometry.
  public var geometry: CInt
  /// The memory file with the ring, opened for this client.
  public let ring: FileDescriptor
  /// The doorbell's button that wakes the reading side.
  public var wake: CInt
  /// The daemon's life page, open for reading only.
  public var life: CInt

  public init(
    owner: UInt16, geometry: CInt, ring: consuming FileDescriptor, wake: CInt, life: CInt
  ) {
    self.owner = owner
    self.geometry = geometry
    self.ring = ring
    self.wake = wake
    self.life = life
  }
}

/// What a consumer that maps a buffer gets.
public struct MappedFiles: ~Copyable, Sendable {
  /// The memory file with the channel's geometry, open for reading. The handler's, as the bell is:
  /// both must be open until it returns to the event loop.
  let geometry: CInt
  /// The memory file with the ring, open for reading.
  let ring: FileDescriptor
  /// The listening end of the consumer's doorbell.
  let bell: CInt

  public init(geometry: CInt, ring: consuming FileDescriptor, bell: CInt) {
    self.geometry = geometry
    self.ring = ring
    self.bell = bell
  }
}

/// What comes next of a mapped buffer.
public enum NextPart: Sendable {
  case subbuf(LentSubbuf)
  case nothing
  /// The channel is closed and drained.
  case end
}

/// Does what clients ask. Called on the loop's thread, one call at a time; must not wait: what
/// takes long is finished later, where the call can say so, and else costs its user a rest. Any
/// user of the machine can connect: the handler decides by `client.peer` which user may ask for
/// what.
public protocol ControlHandler: AnyObject {
  /// That other threads have run while calls of the loop's waited for them, in all: whose request
  /// it was pays for it.
  var nanosecondsElsewhere: Int { get }

  /// A client wants to write into `channel`. May come repeatedly on one connection, for the same
  /// channel too: what each call costs is the handler's to bound. `process` is the one that
  /// connected; its exit, not the end of the connection, proves that it no longer writes.
  func attach(
    channel: String, client: Client, process: consuming ProcessHandle
  ) throws(ControlRefusal) -> Attachment

  /// A client wants a token for writing into `channel`, for one of its children.
  func grant(channel: String, client: Client) throws(ControlRefusal)

  /// `child`, whose process is `process`, redeems a token that `parent` made: it attaches as in
  /// `attach`, by the right of `parent`.
  func redeem(
    channel: String, parent: Client, child: PeerCredentials, process: consuming ProcessHandle
  ) throws(ControlRefusal) -> Attachment

  /// The first channel whose serial number is `index` or higher; nil past the last.
  func describe(index: Int, client: Client) throws(ControlRefusal) -> ChannelDescription?

  /// The same of those that have a damaged buffer.
  func describeDamaged(index: Int, client: Client) throws(ControlRefusal) -> ChannelDescription?

  /// The `bufferIndex`-th buffer of `channel`; nil past the last.
  func statistics(
    channel: String, bufferIndex: Int, client: Client
  ) throws(ControlRefusal) -> BufferStatistics?

  func flush(channel: String, client: Client) throws(ControlRefusal)

  func reset(channel: String, client: Client) throws(ControlRefusal) -> Completion

  /// A new channel with `options` in text form, which may be nonsense, as `channel` may.
  func create(
    channel: String, options: String, keep: Bool, client: Client
  ) throws(ControlRefusal) -> Completion

  func close(channel: String, client: Client) throws(ControlRefusal)

  /// Read the configuration again. A refusal names each change that cannot be made, one a line.
  func reload(client: Client) throws(ControlRefusal)

  /// Gives a buffer to a consumer, until it is unmapped or the connection is over. What the
  /// connection has of it stays as it is where that is refused; so it is, with `.noDescriptorLeft`,
  /// where the bell's descriptor is not below `descriptorLimit`.
  func map(
    channel: String, cpu: Int, unfinished: Bool, descriptorLimit: Int, client: Client
  ) throws(ControlRefusal) -> MappedFiles

  /// What comes next of a buffer that the connection has mapped.
  func next(channel: String, cpu: Int, client: Client) throws(ControlRefusal) -> NextPart

  /// The first `count` parts that were handed out were consumed.
  func consumed(channel: String, cpu: Int, count: Int, client: Client) throws(ControlRefusal)

  func unmap(channel: String, cpu: Int, client: Client) throws(ControlRefusal)

  /// A process that is attached and what it holds of one channel, as `Request.producer` has it; nil
  /// past the last.
  func producer(
    serial: Int, index: Int, client: Client
  ) throws(ControlRefusal) -> ProducerDescription?

  /// Of the readers that the client may see, the first whose serial number is `serial` or higher;
  /// nil past the last.
  func reader(serial: UInt64, client: Client) -> ReaderDescription?

  /// Takes its buffer from the reader of that serial number.
  func evict(serial: UInt64, client: Client) throws(ControlRefusal)

  /// A connection that attached or mapped at least once is over, for whatever reason; its process
  /// may live.
  func disconnected(_ connection: ConnectionID)
}
