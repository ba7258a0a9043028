// SPDX-License-Identifier: Apache-2.0
// Messages to bytes and back. Nothing here trusts a byte, and nothing here does I/O.
//
//   0  version  UInt8      all integers little-endian
//   1  type     UInt8      requests 1…, replies 128…
//   2  zero     UInt16
//   4  length   UInt32     of the body, which ends the packet
//   8  body                strings: UInt16 byte count, UTF-8
//
//   1 attach  name                    128 attached    owner UInt16
//   2 list    serial UInt32           129 channel     see encode(_: ChannelDescription)
//   3 stat    name, index UInt32      130 statistics  see encode(_: BufferStatistics)
//   4 flush   name                    131 done
//   5 reset   name                    132 end
//   6 create  name, options,          255 refused     code UInt32, message
//             keep UInt8 0 or 1
//   7 close   name                    133 mapped
//   8 reload                          134 subbuf      see encode(_: LentSubbuf)
//   9 map     name, cpu UInt32, unfinished UInt8 0 or 1
//  10 next    name, cpu
//  11 consumed  name, cpu, count UInt32
//  12 unmap   name, cpu
//  13 producer  serial UInt32, index UInt32
//                                   135 producer    see encode(_: ProducerDescription)
//  14 token   name
//  15 redeem
//  16 reader  serial UInt64          136 reader      see encode(_: ReaderDescription)
//  17 evict   serial UInt64
//  24 damaged  serial UInt32         129 channel

internal import LinuxIO

/// Why bytes are no message.
public enum WireError: Error, Equatable, Sendable, CustomStringConvertible {
  case unknownVersion(UInt8)
  case unknownType(UInt8)
  /// Too short, too long, or a field out of its bounds.
  case malformed
  /// A text or number to be encoded has no place in a packet.
  case tooLong
  /// What is to be encoded cannot be a channel's name.
  case unusableName

  public var description: String {
    switch self {
    case .unknownVersion(let version):
      "control protocol version \(version) instead of \(ControlLimits.version): the programs are "
        + "of different releases"
    case .unknownType(let type): "unknown control message type \(type)"
    case .malformed: "malformed control message"
    case .tooLong: "more than fits into a control message; use shorter texts"
    case .unusableName:
      "a channel's name has 1 to \(ControlLimits.nameBytes) bytes, and no control or "
        + "bidirectional characters"
    }
  }
}

enum MessageType: UInt8 {
  case attach = 1
  case list = 2
  case stat = 3
  case flush = 4
  case reset = 5
  case create = 6
  case close = 7
  case reload = 8
  case map = 9
  case next = 10
  case consumed = 11
  case unmap = 12
  case producer = 13
  case token = 14
  case redeem = 15
  case reader = 16
  case evict = 17
  case damaged = 24
  case attached = 128
  case channel = 129
  case statistics = 130
  case done = 131
  case end = 132
  case mapped = 133
  case subbuf = 134
  case producerReply = 135
  case readerReply = 136
  case refused = 255
}

extension Request {
  /// The packet; `.unusableName` or, for a text or index that has no place in one, `.tooLong`.
  public func encoded() throws(WireError) -> [UInt8] {
    var encoder = Encoder()
    switch self {
    case .attach(let channel):
      encoder.begin(.attach)
      try encoder.name(channel)
    case .list(let index):
      encoder.begin(.list)
      try encoder.count(index)
    case .damaged(let index):
      encoder.begin(.damaged)
      try encoder.count(index)
    case .stat(let channel, let bufferIndex):
      encoder.begin(.stat)
      try encoder.name(channel)
      try encoder.count(bufferIndex)
    case .flush(let channel):
      encoder.begin(.flush)
      try encoder.name(channel)
    case .reset(let channel):
      encoder.begin(.reset)
      try encoder.name(channel)
    case .create(let channel, let options, let keep):
      encoder.begin(.create)
      try encoder.name(channel)
      try encoder.string(options, limit: ControlLimits.optionsBytes)
      encoder.flag(keep)
    case .close(let channel):
      encoder.begin(.close)
      try encoder.name(channel)
    case .reload: encoder.begin(.reload)
    case .map(let channel, let cpu, let unfinished):
      try encoder.buffer(.map, channel, cpu)
      encoder.flag(unfinished)
    case .next(let channel, let cpu): try encoder.buffer(.next, channel, cpu)
    case .consumed(let channel, let cpu, let count):
      try encoder.buffer(.consumed, channel, cpu)
      try encoder.count(count)
    case .unmap(let channel, let cpu): try encoder.buffer(.unmap, channel, cpu)
    case .token(let channel):
      encoder.begin(.token)
      try encoder.name(channel)
    case .redeem: encoder.begin(.redeem)
    case .reader(let serial):
      encoder.begin(.reader)
      encoder.integer(serial)
    case .evict(let serial):
      encoder.begin(.evict)
      encoder.integer(serial)
    case .producer(let serial, let index):
      encoder.begin(.producer)
      try encoder.count(serial)
      try encoder.count(index)
    }
    return try encoder.finish()
  }

  /// The request that exactly `bytes` hold.
  public init(decoding bytes: RawSpan) throws(WireError) {
    var decoder = Decoder()
    let type = try decoder.header(bytes)
    switch type {
    case .attach: self = .attach(channel: try decoder.name(bytes))
    case .list: self = .list(index: try decoder.count(bytes))
    case .damaged: self = .damaged(index: try decoder.count(bytes))
    case .stat:
      let channel = try decoder.name(bytes)
      self = .stat(channel: channel, bufferIndex: try decoder.count(bytes))
    case .flush: self = .flush(channel: try decoder.name(bytes))
    case .reset: self = .reset(channel: try decoder.name(bytes))
    case .create:
      let channel = try decoder.name(bytes)
      let options = try decoder.line(bytes, limit: ControlLimits.optionsBytes)
      self = .create(channel: channel, options: options, keep: try decoder.flag(bytes))
    case .close: self = .close(channel: try decoder.name(bytes))
    case .reload: self = .reload
    case .map:
      let (channel, cpu) = try decoder.buffer(bytes)
      self = .map(channel: channel, cpu: cpu, unfinished: try decoder.flag(bytes))
    case .next:
      let (channel, cpu) = try decoder.buffer(bytes)
      self = .next(channel: channel, cpu: cpu)
    case .consumed:
      let (channel, cpu) = try decoder.buffer(bytes)
      self = .consumed(channel: channel, cpu: cpu, count: try decoder.count(bytes))
    case .unmap:
      let (channel, cpu) = try decoder.buffer(bytes)
      self = .unmap(channel: channel, cpu: cpu)
    case .token: self = .token(channel: try decoder.name(bytes))
    case .redeem: self = .redeem
    case .reader: self = .reader(serial: try decoder.integer(bytes))
    case .evict: self = .evict(serial: try decoder.integer(bytes))
    case .producer:
      let serial = try decoder.count(bytes)
      self = .producer(serial: serial, index: try decoder.count(bytes))
    default: throw .unknownType(type.rawValue)
    }
    try decoder.finish(bytes)
  }
}

extension Reply {
  /// The packet; `.tooLong` if a field is over its limit.
  public func encoded() throws(WireError) -> [UInt8] {
    var encoder = Encoder()
    switch self {
    case .attached(let owner):
      encoder.begin(.attached)
      encoder.integer(owner)
    case .channel(let description):
      encoder.begin(.channel)
      try encoder.encode(description)
    case .statistics(let statistics):
      encoder.begin(.statistics)
      try encoder.encode(statistics)
    case .done: encoder.begin(.done)
    case .end: encoder.begin(.end)
    case .mapped: encoder.begin(.mapped)
    case .subbuf(let lent):
      encoder.begin(.subbuf)
      try encoder.encode(lent)
    case .producer(let producer):
      encoder.begin(.producerReply)
      try encoder.encode(producer)
    case .reader(let reader):
      encoder.begin(.readerReply)
      try encoder.encode(reader)
    case .refused(let refusal):
      encoder.begin(.refused)
      encoder.integer(UInt32(truncatingIfNeeded: refusal.code))
      try encoder.string(
        cut(refusal.message, to: ControlLimits.messageBytes), limit: ControlLimits.messageBytes)
    }
    return try encoder.finish()
  }

  /// The reply that exactly `bytes` hold.
  public init(decoding bytes: RawSpan) throws(WireError) {
    var decoder = Decoder()
    let type = try decoder.header(bytes)
    switch type {
    case .attached: self = .attached(owner: try decoder.integer(bytes))
    case .channel: self = .channel(try decoder.channelDescription(bytes))
    case .statistics: self = .statistics(try decoder.bufferStatistics(bytes))
    case .done: self = .done
    case .end: self = .end
    case .mapped: self = .mapped
    case .subbuf: self = .subbuf(try decoder.lentSubbuf(bytes))
    case .producerReply: self = .producer(try decoder.producerDescription(bytes))
    case .readerReply: self = .reader(try decoder.readerDescription(bytes))
    case .refused:
      let code: UInt32 = try decoder.integer(bytes)
      guard let code = CInt(exactly: code), code > 0 else { throw .malformed }
      let message = try decoder.string(bytes, limit: ControlLimits.messageBytes)
      // Of a daemon that does not escape what others chose.
      let printable = cut(message.printableLines, to: ControlLimits.messageBytes)
      self = .refused(ControlRefusal(code: code, message: printable))
    default: throw .unknownType(type.rawValue)
    }
    try decoder.finish(bytes)
  }
}

/// The longest prefix of whole characters within `limit` bytes.
private func cut(_ text: String, to limit: Int) -> String {
  var text = text[...]
  while text.utf8.count > limit { text.removeLast() }
  return String(text)
}
