// SPDX-License-Identifier: Apache-2.0
// How much was consumed from a channel and not accepted by an output.

/// A part of a record in an output.
struct Part {
  /// Bytes of the output.
  var count: Int
  /// Those of them that are the record's; they are the last ones.
  var payload: Int
  /// The part before it was of the same record.
  var continues: Bool
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
