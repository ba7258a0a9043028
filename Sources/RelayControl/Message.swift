// SPDX-License-Identifier: Apache-2.0
// The control protocol's messages and their limits. How they become bytes is in Wire.swift.

internal import LinuxIO
public import Relay

/// What a client asks. Each request is one packet and gets exactly one reply packet.
public enum Request: Equatable, Sendable {
  /// Descriptors for writing into a channel.
  case attach(channel: String)
  /// The first channel whose serial number is `index` or higher: an enumeration that misses nothing
  /// that is there all the time.
  case list(index: Int)
  /// The same of those that have a damaged buffer.
  case damaged(index: Int)
  /// The counters of the `bufferIndex`-th buffer of a channel.
  case stat(channel: String, bufferIndex: Int)
  case flush(channel: String)
  case reset(channel: String)
  /// A new channel. `options` is text such as "subbuf_size=4KiB,n_subbufs=4,global"; empty for
  /// the defaults. Unless `keep`, the channel is gone at the last detach.
  case create(channel: String, options: String, keep: Bool)
  case close(channel: String)
  /// Reads the configuration again.
  case reload
  /// Descriptors for reading a channel's buffer where it lies, which nobody else reads from then
  /// on. One buffer of a channel once on a connection, whose end gives it up.
  /// - unfinished: also what is committed in the sub-buffer that writers are in.
  case map(channel: String, cpu: Int, unfinished: Bool)
  /// The next part of a mapped buffer.
  case next(channel: String, cpu: Int)
  /// So many of the parts handed out are not needed any more, in their order.
  case consumed(channel: String, cpu: Int, count: Int)
  /// Gives a mapped buffer up: what was not consumed is the next reader's.
  case unmap(channel: String, cpu: Int)
  /// What one process holds of one channel: of the first process whose serial number is `serial` or
  /// higher, its `index`-th channel, or the first one of a process with a higher number.
  case producer(serial: Int, index: Int)
  /// Makes this connection a token: whichever process sends `redeem` through it first attaches to
  /// the channel in its own name, by the right of the process that connected. Until then the
  /// connection takes nothing else.
  case token(channel: String)
  /// Answered as `attach`.
  case redeem
  /// The first open file or mapped consumer whose serial number is `serial` or higher.
  case reader(serial: UInt64)
  /// Takes its buffer from the reader of that serial number.
  case evict(serial: UInt64)

  /// About a buffer that the connection has mapped.
  var isOfConsumer: Bool {
    switch self {
    case .next, .consumed, .unmap: true
    default: false
    }
  }
}

/// What the daemon answers. Any request may be answered by `.refused`.
public enum Reply: Equatable, Sendable {
  /// With four descriptors: geometry (sealed memory file), ring (memory file), wake (doorbell),
  /// life (the daemon's life page).
  case attached(owner: UInt16)
  case channel(ChannelDescription)
  case statistics(BufferStatistics)
  /// To `next`: there is nothing now.
  case done
  /// There is no such index: the enumeration is over. To `next`: the channel is closed and drained.
  case end
  case refused(ControlRefusal)
  /// With three descriptors: geometry and ring (memory files, open for reading only), bell (the
  /// listening end of a doorbell that rings when `next` would return something).
  case mapped
  case subbuf(LentSubbuf)
  case producer(ProducerDescription)
  case reader(ReaderDescription)
}

/// Why the daemon does not do what it was asked.
public struct ControlRefusal: Error, Equatable, Sendable, CustomStringConvertible {
  /// An errno value, positive.
  public let code: CInt
  /// For a person; may have several lines, in which what is unprintable is escaped. Cut to
  /// `ControlLimits.messageBytes` on the wire.
  public let message: String

  public init(code: CInt, message: String) {
    self.code = code
    self.message = message.printableLines
  }

  public var description: String { message }
}

/// A channel as a client sees it.
public struct ChannelDescription: Equatable, Sendable {
  public var name: String
  /// Payload bytes per sub-buffer.
  public var subbufSize: Int
  /// Sub-buffers per buffer.
  public var subbufCount: Int
  /// Overwrites its oldest data instead of refusing new records.
  public var isOverwrite: Bool
  /// One buffer for all CPUs.
  public var isGlobal: Bool
  /// Each record carries its time.
  public var hasTimestamps: Bool
  /// The CPUs whose buffer has a file now, ascending; each below `ControlLimits.cpus`.
  public var cpus: [Int]
  /// What serves the files: "cuse" or "fuse".
  public var frontEnd: String
  /// The path of a buffer's file without its CPU number, such as "/dev/relay".
  public var pathPrefix: String
  /// What a read of an empty buffer does: "eof" ends, "block" waits.
  public var readMode: String
  /// What wakes a poll: "data" any, "subbuffer" a whole sub-buffer.
  public var wakeup: String
  /// Gone at the last detach.
  public var isTemporary: Bool
  /// Takes no more records; what it holds can still be read.
  public var isClosed: Bool
  /// Its place in the order in which channels were opened; no other channel of this daemon's gets
  /// the same.
  public var serial: Int

  public init(
    name: String, subbufSize: Int, subbufCount: Int, isOverwrite: Bool, isGlobal: Bool,
    hasTimestamps: Bool, cpus: [Int], frontEnd: String, pathPrefix: String, readMode: String,
    wakeup: String, isTemporary: Bool, isClosed: Bool, serial: Int
  ) {
    self.name = name
    self.subbufSize = subbufSize
    self.subbufCount = subbufCount
    self.isOverwrite = isOverwrite
    self.isGlobal = isGlobal
    self.hasTimestamps = hasTimestamps
    self.cpus = cpus
    self.frontEnd = frontEnd
    self.pathPrefix = pathPrefix
    self.readMode = readMode
    self.wakeup = wakeup
    self.isTemporary = isTemporary
    self.isClosed = isClosed
    self.serial = serial
  }
}

/// A process that is attached, and what it holds of one of its channels.
public struct ProducerDescription: Equatable, Sendable {
  /// What a process holds of the buffer of a CPU.
  public struct Held: Equatable, Sendable {
    public var cpu: Int
    /// Records being written, or left open, and the sub-buffers they are in.
    public var records: Int
    public var subbufs: Int

    public init(cpu: Int, records: Int, subbufs: Int) {
      self.cpu = cpu
      self.records = records
      self.subbufs = subbufs
    }
  }

  /// Its place in the order in which processes came; no other one of this daemon's gets the same.
  public var serial: Int
  /// Which of its channels this is about.
  public var index: Int
  /// 0: it has no number in the daemon's pid namespace.
  public var pid: Int
  public var uid: UInt32
  /// As in /proc/PID/comm; empty where that is not known.
  public var command: String
  /// Empty: all of its channels are gone.
  public var channel: String
  /// By CPU, where there is anything; of more than `ControlLimits.heldBuffers` those of which it
  /// holds the most sub-buffers.
  public var held: [Held]

  public init(
    serial: Int, index: Int, pid: Int, uid: UInt32, command: String, channel: String, held: [Held]
  ) {
    self.serial = serial
    self.index = index
    self.pid = pid
    self.uid = uid
    self.command = command
    self.channel = channel
    self.held = held
  }
}

/// An open file or a mapped consumer of a buffer.
public struct ReaderDescription: Equatable, Sendable {
  /// Its place in the order in which they came; no other one gets the same while the machine runs.
  /// Of a daemon of an earlier release: while that runs.
  public var serial: UInt64
  /// The device node or file of the buffer.
  public var path: String
  /// "file", "exclusive", "peek", "write", "mapped", "lost" or "evicted"; others may come.
  public var kind: String
  /// The process that opened or mapped it; 0: it has no number in the daemon's pid namespace, or
  /// is hidden.
  public var pid: Int
  public var uid: UInt32
  /// As in /proc/PID/comm; empty where the process has ended, or is not known.
  public var command: String
  /// When that was, since 1970.
  public var milliseconds: UInt64

  public init(
    serial: UInt64, path: String, kind: String, pid: Int, uid: UInt32, command: String,
    milliseconds: UInt64
  ) {
    self.serial = serial
    self.path = path
    self.kind = kind
    self.pid = pid
    self.uid = uid
    self.command = command
    self.milliseconds = milliseconds
  }
}

/// The account of one channel buffer.
public struct BufferStatistics: Equatable, Sendable {
  public var cpu: Int
  /// The device node or file that reads this buffer.
  public var path: String
  public var counts: Statistics

  public init(cpu: Int, path: String, counts: Statistics) {
    self.cpu = cpu
    self.path = path
    self.counts = counts
  }
}

/// The protocol's bounds.
public enum ControlLimits {
  public static let version: UInt8 = 4
  /// Longest packet, both ways.
  public static let packetBytes = 4096
  /// Longest channel name.
  public static let nameBytes = 255
  public static let pathBytes = 1023
  /// Longest text of a channel's options.
  public static let optionsBytes = 1023
  public static let messageBytes = 3000
  /// CPU numbers are below this.
  public static let cpus = 8192
  /// Pieces of a `.subbuf` reply.
  public static let pieces = 64
  /// Longest command of a `.producer` or `.reader` reply, and its buffers.
  public static let commandBytes = 64
  public static let heldBuffers = 256
  /// Descriptors of an `.attached` reply; other replies have fewer.
  public static let attachDescriptors = 4
}
