// SPDX-License-Identifier: Apache-2.0
// How much was consumed from a channel and not accepted by an output; what waits to be written.

/// A part of a record in an output. Small: there is one for each record that waits.
struct Part {
  private let bytes: UInt32
  private let payloadBytes: UInt32
  /// The part before it was of the same record.
  let continues: Bool

  /// - Parameters:
  ///   - count: bytes of the output, less than 4 GiB: a read returns no more than 128 KiB.
  ///   - payload: those of them that are the record's; they are the last ones.
  init(count: Int, payload: Int, continues: Bool) {
    bytes = UInt32(count)
    payloadBytes = UInt32(payload)
    self.continues = continues
  }

  var count: Int { Int(bytes) }
  var payload: Int { Int(payloadBytes) }
}

/// Records, of which a part at least was consumed and not written, and the bytes of those parts.
/// Times that records are printed with are no part of them.
struct Unwritten: Equatable {
  private(set) var records = 0
  private(set) var bytes = 0

  var isEmpty: Bool { records == 0 }

  /// - Parameter isFirst: the part before it is not among these.
  mutating func add(_ part: Part, isFirst: Bool) {
    if isFirst || !part.continues { records += 1 }
    bytes += part.payload
  }

  static func + (one: Unwritten, other: Unwritten) -> Unwritten {
    Unwritten(records: one.records + other.records, bytes: one.bytes + other.bytes)
  }

  /// "11800 records (118000 bytes)"
  func text(knowsRecords: Bool) -> String {
    knowsRecords ? "\(records) records (\(bytes) bytes)" : "\(bytes) bytes"
  }
}

/// What was appended to an output and is not written. A record costs one call of `append`: each
/// field of a class that is used for it would cost a check for exclusive access of its own.
struct Unflushed: ~Copyable {
  /// As much as one read returns, and what is printed beside it.
  private let storage = UnsafeMutableRawBufferPointer.allocate(
    byteCount: 2 * Unflushed.limit, alignment: 16)
  private var count = 0
  /// The parts of records among the bytes, in order.
  private var parts: [Part] = []
  /// Whole and begun records among the bytes.
  private(set) var total = Unwritten()
  /// Bytes that were appended since this was last set to 0.
  var appended = 0
  private var takesMore = true

  /// More bytes than this are not gathered.
  static let limit = 128 << 10

  deinit { storage.deallocate() }

  var isEmpty: Bool { parts.isEmpty }
  var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: storage[..<count]) }

  /// False, and nothing done: there is no room beside what is gathered, or nothing is any more.
  mutating func append(
    _ payload: UnsafeRawBufferPointer, prefix: String, continues: Bool
  ) -> Bool {
    let start = count
    var end = start + payload.count
    if !prefix.isEmpty { end += prefix.utf8.count }
    guard takesMore, end <= Unflushed.limit || start == 0 else { return false }
    precondition(end <= storage.count)
    let part = Part(count: end - start, payload: payload.count, continues: continues)
    if !prefix.isEmpty {
      UnsafeMutableRawBufferPointer(rebasing: storage[start..<end]).copyBytes(from: prefix.utf8)
    }
    if let source = payload.baseAddress {
      (storage.baseAddress! + end - payload.count).copyMemory(
        from: source, byteCount: payload.count)
    }
    count = end
    appended += end - start
    total.add(part, isFirst: parts.isEmpty)
    parts.append(part)
    return true
  }

  mutating func removeAll() {
    count = 0
    parts.removeAll(keepingCapacity: true)
    total = Unwritten()
  }

  /// From now on `append` takes nothing.
  mutating func refuse() { takesMore = false }

  /// Adds those that have bytes behind the first `done` to `unwritten`.
  func count(from done: Int, in unwritten: inout Unwritten) {
    var start = 0
    for part in parts {
      let end = start + part.count
      if end > done {
        let rest = Part(
          count: end - max(start, done), payload: min(part.payload, end - done),
          continues: part.continues)
        unwritten.add(rest, isFirst: unwritten.records == 0)
      }
      start = end
    }
  }
}
