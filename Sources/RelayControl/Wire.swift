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
//   9 map     name, cpu UInt32
//  10 next    name, cpu, unfinished UInt8 0 or 1
//  11 consumed  name, cpu, count UInt32
//  12 unmap   name, cpu

internal import Relay

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
      "a channel's name has 1 to \(ControlLimits.nameBytes) bytes, and no control characters"
    }
  }
}

private enum MessageType: UInt8 {
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
  case attached = 128
  case channel = 129
  case statistics = 130
  case done = 131
  case end = 132
  case mapped = 133
  case subbuf = 134
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
    case .map(let channel, let cpu): try encoder.buffer(.map, channel, cpu)
    case .next(let channel, let cpu, let unfinished):
      try encoder.buffer(.next, channel, cpu)
      encoder.flag(unfinished)
    case .consumed(let channel, let cpu, let count):
      try encoder.buffer(.consumed, channel, cpu)
      try encoder.count(count)
    case .unmap(let channel, let cpu): try encoder.buffer(.unmap, channel, cpu)
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
      self = .map(channel: channel, cpu: cpu)
    case .next:
      let (channel, cpu) = try decoder.buffer(bytes)
      self = .next(channel: channel, cpu: cpu, unfinished: try decoder.flag(bytes))
    case .consumed:
      let (channel, cpu) = try decoder.buffer(bytes)
      self = .consumed(channel: channel, cpu: cpu, count: try decoder.count(bytes))
    case .unmap:
      let (channel, cpu) = try decoder.buffer(bytes)
      self = .unmap(channel: channel, cpu: cpu)
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
    case .refused:
      let code: UInt32 = try decoder.integer(bytes)
      guard let code = CInt(exactly: code), code > 0 else { throw .malformed }
      let message = try decoder.string(bytes, limit: ControlLimits.messageBytes)
      self = .refused(ControlRefusal(code: code, message: message))
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

extension String {
  /// It holds no control characters.
  fileprivate var isLine: Bool { utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f } }
}

private struct Encoder {
  private var bytes: [UInt8] = []

  init() { bytes.reserveCapacity(256) }

  mutating func begin(_ type: MessageType) {
    bytes += [ControlLimits.version, type.rawValue, 0, 0, 0, 0, 0, 0]
  }

  mutating func integer<Integer: FixedWidthInteger>(_ value: Integer) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }

  mutating func count(_ value: Int) throws(WireError) {
    guard let value = UInt32(exactly: value) else { throw .tooLong }
    integer(value)
  }

  mutating func flag(_ value: Bool) { integer(UInt8(value ? 1 : 0)) }

  mutating func string(_ text: String, limit: Int) throws(WireError) {
    guard text.utf8.count <= limit else { throw .tooLong }
    integer(UInt16(text.utf8.count))
    bytes.append(contentsOf: text.utf8)
  }

  mutating func name(_ name: String) throws(WireError) {
    guard !name.isEmpty, name.utf8.count <= ControlLimits.nameBytes, name.isLine else {
      throw .unusableName
    }
    try string(name, limit: ControlLimits.nameBytes)
  }

  mutating func buffer(
    _ type: MessageType, _ channel: String, _ cpu: Int
  ) throws(WireError) {
    begin(type)
    try name(channel)
    try count(cpu)
  }

  mutating func encode(_ lent: LentSubbuf) throws(WireError) {
    guard lent.pieces.count <= ControlLimits.pieces else { throw .tooLong }
    integer(lent.seq)
    try count(lent.subbuf)
    flag(lent.isRest)
    flag(lent.isLast)
    try count(lent.padding)
    for number in [
      lent.firstRecord, lent.recordCount, lent.lostBefore.overwritten, lent.lostBefore.full,
      lent.lostBefore.stalled, lent.lostBefore.restart, lent.produced, lent.consumed,
    ] { integer(number) }
    integer(UInt16(lent.pieces.count))
    for piece in lent.pieces {
      try count(piece.offset)
      try count(piece.length)
    }
  }

  mutating func encode(_ channel: ChannelDescription) throws(WireError) {
    try string(channel.name, limit: ControlLimits.nameBytes)
    integer(UInt64(channel.subbufSize))
    integer(UInt64(channel.subbufCount))
    flag(channel.isOverwrite)
    flag(channel.isGlobal)
    flag(channel.hasTimestamps)
    try string(channel.frontEnd, limit: ControlLimits.nameBytes)
    try string(channel.pathPrefix, limit: ControlLimits.pathBytes)
    // A bit for each CPU: UInt16 byte count, then the bytes.
    var bitmap: [UInt8] = []
    for cpu in channel.cpus {
      guard (0..<ControlLimits.cpus).contains(cpu) else { throw .tooLong }
      while bitmap.count <= cpu / 8 { bitmap.append(0) }
      bitmap[cpu / 8] |= 1 << UInt8(cpu % 8)
    }
    integer(UInt16(bitmap.count))
    bytes += bitmap
    try string(channel.readMode, limit: ControlLimits.nameBytes)
    try string(channel.wakeup, limit: ControlLimits.nameBytes)
    flag(channel.isTemporary)
    flag(channel.isClosed)
    try count(channel.serial)
  }

  mutating func encode(_ buffer: BufferStatistics) throws(WireError) {
    try count(buffer.cpu)
    try string(buffer.path, limit: ControlLimits.pathBytes)
    for counter in [
      buffer.recordsWritten, buffer.recordsRead, buffer.recordsUnread, buffer.bytesWritten,
      buffer.bytesRead, buffer.bytesUnread, buffer.padding, buffer.subbufsProduced,
      buffer.subbufsConsumed, buffer.lostFull, buffer.lostTooBig, buffer.lostOverwritten,
      buffer.lostStalled, buffer.lostRestart, buffer.aborted, buffer.cancelled, buffer.corrupt,
    ] { integer(counter) }
  }

  consuming func finish() throws(WireError) -> [UInt8] {
    guard bytes.count <= ControlLimits.packetBytes else { throw .tooLong }
    var bytes = bytes
    withUnsafeBytes(of: UInt32(bytes.count - Decoder.headerBytes).littleEndian) {
      for (index, byte) in $0.enumerated() { bytes[4 + index] = byte }
    }
    return bytes
  }
}

/// A position in bytes that are handed in each time; every step checks its bounds.
private struct Decoder {
  static let headerBytes = 8

  private var offset = 0

  mutating func header(_ bytes: RawSpan) throws(WireError) -> MessageType {
    guard bytes.byteCount <= ControlLimits.packetBytes else { throw .malformed }
    let version: UInt8 = try integer(bytes)
    guard version == ControlLimits.version else { throw .unknownVersion(version) }
    let number: UInt8 = try integer(bytes)
    let zero: UInt16 = try integer(bytes)
    let length: UInt32 = try integer(bytes)
    guard zero == 0, Int(length) == bytes.byteCount - Decoder.headerBytes else {
      throw .malformed
    }
    guard let type = MessageType(rawValue: number) else { throw .unknownType(number) }
    return type
  }

  mutating func integer<Integer: FixedWidthInteger>(
    _ bytes: RawSpan
  ) throws(WireError) -> Integer {
    var value: Integer = 0
    for shift in 0..<(Integer.bitWidth / 8) {
      value |= Integer(truncatingIfNeeded: try byte(bytes)) << (shift * 8)
    }
    return value
  }

  private mutating func byte(_ bytes: RawSpan) throws(WireError) -> UInt8 {
    guard offset < bytes.byteCount else { throw .malformed }
    defer { offset += 1 }
    return bytes.unsafeLoad(fromByteOffset: offset, as: UInt8.self)
  }

  mutating func count(_ bytes: RawSpan) throws(WireError) -> Int {
    let value: UInt32 = try integer(bytes)
    return Int(value)
  }

  mutating func flag(_ bytes: RawSpan) throws(WireError) -> Bool {
    let value: UInt8 = try integer(bytes)
    guard value <= 1 else { throw .malformed }
    return value == 1
  }

  /// A length or count that fits Int.
  mutating func size(_ bytes: RawSpan) throws(WireError) -> Int {
    let value: UInt64 = try integer(bytes)
    guard let value = Int(exactly: value) else { throw .malformed }
    return value
  }

  mutating func blob(_ bytes: RawSpan, limit: Int) throws(WireError) -> [UInt8] {
    let length: UInt16 = try integer(bytes)
    guard length <= limit, Int(length) <= bytes.byteCount - offset else { throw .malformed }
    var blob: [UInt8] = []
    blob.reserveCapacity(Int(length))
    for _ in 0..<length { blob.append(try byte(bytes)) }
    return blob
  }

  mutating func string(_ bytes: RawSpan, limit: Int) throws(WireError) -> String {
    guard let text = String(validating: try blob(bytes, limit: limit), as: UTF8.self) else {
      throw .malformed
    }
    return text
  }

  /// Text that ends up in messages and logs.
  mutating func line(_ bytes: RawSpan, limit: Int) throws(WireError) -> String {
    let line = try string(bytes, limit: limit)
    guard line.isLine else { throw .malformed }
    return line
  }

  mutating func name(_ bytes: RawSpan) throws(WireError) -> String {
    let name = try line(bytes, limit: ControlLimits.nameBytes)
    guard !name.isEmpty else { throw .malformed }
    return name
  }

  mutating func buffer(_ bytes: RawSpan) throws(WireError) -> (channel: String, cpu: Int) {
    (try name(bytes), try count(bytes))
  }

  mutating func lentSubbuf(_ bytes: RawSpan) throws(WireError) -> LentSubbuf {
    var lent = LentSubbuf()
    lent.seq = try integer(bytes)
    lent.subbuf = try count(bytes)
    lent.isRest = try flag(bytes)
    lent.isLast = try flag(bytes)
    lent.padding = try count(bytes)
    lent.firstRecord = try integer(bytes)
    lent.recordCount = try integer(bytes)
    lent.lostBefore.overwritten = try integer(bytes)
    lent.lostBefore.full = try integer(bytes)
    lent.lostBefore.stalled = try integer(bytes)
    lent.lostBefore.restart = try integer(bytes)
    lent.produced = try integer(bytes)
    lent.consumed = try integer(bytes)
    let count: UInt16 = try integer(bytes)
    guard count <= ControlLimits.pieces else { throw .malformed }
    for _ in 0..<count {
      let offset = try self.count(bytes)
      lent.pieces.append(LentSubbuf.Piece(offset: offset, length: try self.count(bytes)))
    }
    return lent
  }

  mutating func channelDescription(_ bytes: RawSpan) throws(WireError) -> ChannelDescription {
    var channel = ChannelDescription(
      name: try name(bytes), subbufSize: try size(bytes), subbufCount: try size(bytes),
      isOverwrite: try flag(bytes), isGlobal: try flag(bytes), hasTimestamps: try flag(bytes),
      cpus: [],
      frontEnd: try string(bytes, limit: ControlLimits.nameBytes),
      pathPrefix: try string(bytes, limit: ControlLimits.pathBytes), readMode: "", wakeup: "",
      isTemporary: false, isClosed: false, serial: 0)
    let bitmap = try blob(bytes, limit: ControlLimits.cpus / 8)
    for cpu in 0..<(bitmap.count * 8) where bitmap[cpu / 8] & (1 << UInt8(cpu % 8)) != 0 {
      channel.cpus.append(cpu)
    }
    channel.readMode = try string(bytes, limit: ControlLimits.nameBytes)
    channel.wakeup = try string(bytes, limit: ControlLimits.nameBytes)
    channel.isTemporary = try flag(bytes)
    channel.isClosed = try flag(bytes)
    channel.serial = try count(bytes)
    return channel
  }

  mutating func bufferStatistics(_ bytes: RawSpan) throws(WireError) -> BufferStatistics {
    var buffer = BufferStatistics(
      cpu: try count(bytes), path: try string(bytes, limit: ControlLimits.pathBytes))
    buffer.recordsWritten = try integer(bytes)
    buffer.recordsRead = try integer(bytes)
    buffer.recordsUnread = try integer(bytes)
    buffer.bytesWritten = try integer(bytes)
    buffer.bytesRead = try integer(bytes)
    buffer.bytesUnread = try integer(bytes)
    buffer.padding = try integer(bytes)
    buffer.subbufsProduced = try integer(bytes)
    buffer.subbufsConsumed = try integer(bytes)
    buffer.lostFull = try integer(bytes)
    buffer.lostTooBig = try integer(bytes)
    buffer.lostOverwritten = try integer(bytes)
    buffer.lostStalled = try integer(bytes)
    buffer.lostRestart = try integer(bytes)
    buffer.aborted = try integer(bytes)
    buffer.cancelled = try integer(bytes)
    buffer.corrupt = try integer(bytes)
    return buffer
  }

  /// Bytes after the last field are refused: they would be a field this version doesn't know.
  func finish(_ bytes: RawSpan) throws(WireError) {
    guard offset == bytes.byteCount else { throw .malformed }
  }
}
