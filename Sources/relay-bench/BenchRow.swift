// SPDX-License-Identifier: Apache-2.0
// One result as programs read it, and the file of all of them.

import FoundationEssentials
import Glibc
import LinuxIO

struct BenchRow: Encodable {
  enum Better: String, Encodable { case lower, higher }

  /// What the value was compared with, in the same run.
  struct Peer {
    let name: String
    let value: Double
    /// The median of the rounds' ratios, this to the peer: not the ratio of the medians.
    let ratio: Double
  }

  let name: String
  let value: Double
  /// "ns" (per record) or "GiB/s".
  let unit: String
  let peer: Peer?
  let better: Better
  /// The bound of the ratio, where there is a peer, and else of the value; nil: none.
  let target: Double?
  /// How often it was measured.
  let rounds: Int

  /// nil: there is no target.
  var isMet: Bool? {
    guard let target else { return nil }
    let reached = peer?.ratio ?? value
    return better == .lower ? reached <= target : reached >= target
  }

  /// "≤ 8: met"; nothing without a target.
  var verdict: String {
    guard let target, let isMet else { return "" }
    let decimals = target == target.rounded() ? 0 : target * 10 == (target * 10).rounded() ? 1 : 2
    return "\(better == .lower ? "≤" : "≥") \(target.text(decimals)): \(isMet ? "met" : "missed")"
  }

  private enum Key: String, CodingKey {
    case name, value, unit, peer
    case peerValue = "peer_value"
    case ratio, better, target, rounds
  }

  /// Every key in each row: null where there is no peer or no target.
  func encode(to encoder: any Encoder) throws {
    var row = encoder.container(keyedBy: Key.self)
    try row.encode(name, forKey: .name)
    try row.encode(value, forKey: .value)
    try row.encode(unit, forKey: .unit)
    try row.encode(peer?.name, forKey: .peer)
    try row.encode(peer?.value, forKey: .peerValue)
    try row.encode(peer?.ratio, forKey: .ratio)
    try row.encode(better, forKey: .better)
    try row.encode(target, forKey: .target)
    try row.encode(rounds, forKey: .rounds)
  }

  /// Writes the rows to a file, whole or not at all.
  static func write(_ rows: [BenchRow], to path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let bytes = Array(try encoder.encode(rows)) + Array("\n".utf8)
    let part = path + ".part"
    let file = try FileDescriptor.open(part, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
    guard Glibc.write(file.raw, bytes, bytes.count) == bytes.count, rename(part, path) == 0 else {
      throw SystemError(code: errno, operation: "write \(path)")
    }
  }
}
