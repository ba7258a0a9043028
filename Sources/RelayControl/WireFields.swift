// SPDX-License-Identifier: Apache-2.0
// The fields of messages, to bytes and back: every step checks its bounds.

internal import LinuxIO
internal import Relay

extension String {
  /// It holds no control characters.
  fileprivate var isLine: Bool { utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f } }
}

struct Encoder {
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
    guard !name.isEmpty, name.utf8.count <= ControlLimits.nameBytes, name.isPrintable
    else {
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
    for counter in counters { integer(buffer.counts[keyPath: counter]) }
  }

  mutating func encode(_ producer: ProducerDescription) throws(WireError) {
    guard producer.held.count <= ControlLimits.heldBuffers else { throw .tooLong }
    try count(producer.serial)
    try count(producer.index)
    try count(producer.pid)
    integer(producer.uid)
    try string(producer.command, limit: ControlLimits.commandBytes)
    try string(producer.channel, limit: ControlLimits.nameBytes)
    integer(UInt16(producer.held.count))
    for held in producer.held {
      try count(held.cpu)
      try count(held.records)
      try count(held.subbufs)
    }
  }

  mutating func encode(_ reader: ReaderDescription) throws(WireError) {
    integer(reader.serial)
    try string(reader.path, limit: ControlLimits.pathBytes)
    try string(reader.kind, limit: ControlLimits.nameBytes)
    try count(reader.pid)
    integer(reader.uid)
    try string(reader.command, limit: ControlLimits.commandBytes)
    integer(reader.milliseconds)
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
struct Decoder {
  static let headerBytes = 8
  static let typeOffset = 1

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
    let name = try string(bytes, limit: ControlLimits.nameBytes)
    guard !name.isEmpty, name.isPrintable else { throw .malformed }
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
    let cpu = try count(bytes)
    let path = try string(bytes, limit: ControlLimits.pathBytes)
    var counts = Statistics()
    for counter in counters { counts[keyPath: counter] = try integer(bytes) }
    return BufferStatistics(cpu: cpu, path: path, counts: counts)
  }

  mutating func producerDescription(_ bytes: RawSpan) throws(WireError) -> ProducerDescription {
    var producer = ProducerDescription(
      serial: try count(bytes), index: try count(bytes), pid: try count(bytes),
      uid: try integer(bytes), command: try line(bytes, limit: ControlLimits.commandBytes),
      channel: try line(bytes, limit: ControlLimits.nameBytes), held: [])
    let count: UInt16 = try integer(bytes)
    guard count <= ControlLimits.heldBuffers else { throw .malformed }
    for _ in 0..<count {
      let cpu = try self.count(bytes)
      let records = try self.count(bytes)
      producer.held.append(
        ProducerDescription.Held(cpu: cpu, records: records, subbufs: try self.count(bytes)))
    }
    return producer
  }

  mutating func readerDescription(_ bytes: RawSpan) throws(WireError) -> ReaderDescription {
    ReaderDescription(
      serial: try integer(bytes), path: try line(bytes, limit: ControlLimits.pathBytes),
      kind: try line(bytes, limit: ControlLimits.nameBytes), pid: try count(bytes),
      uid: try integer(bytes), command: try line(bytes, limit: ControlLimits.commandBytes),
      milliseconds: try integer(bytes))
  }

  /// Bytes after the last field are refused: they would be a field this version doesn't know.
  func finish(_ bytes: RawSpan) throws(WireError) {
    guard offset == bytes.byteCount else { throw .malformed }
  }
}

/// In the order in which they travel.
private var counters: [WritableKeyPath<Statistics, UInt64>] {
  [
    \.recordsWritten, \.recordsRead, \.recordsUnread, \.bytesWritten, \.bytesRead, \.bytesUnread,
    \.padding, \.subbufsProduced, \.subbufsConsumed, \.lostFull, \.lostTooBig, \.lostOverwritten,
    \.lostStalled, \.lostRestart, \.aborted, \.cancelled, \.corrupt,
    \.backlogMax,
  ]
}
