// SPDX-License-Identifier: Apache-2.0
// Throughput of read(2) through relayfs, a real relayd and its ring, against a FUSE server that
// does nothing but answer.

import LinuxIO

/// A channel to read, and how much of it one fill is.
struct BenchRing {
  let channel: String
  let subbufSize: Int
  let subbufCount: Int

  var byteCount: Int { subbufSize * subbufCount }
  /// All but one sub-buffer, so that filling never meets a full channel.
  var fillBytes: Int { byteCount - subbufSize }
  /// Fills of one sample.
  var fills: Int { max(1, ReadBench.sampleBytes / fillBytes) }
  var file: String { "\(channel)0" }
  var option: String {
    "\(channel):global,subbuf_size=\(subbufSize >> 10)KiB,n_subbufs=\(subbufCount)"
  }
  var label: String { "\(subbufCount) × \(subbufSize >> 10) KiB" }
}

struct ReadBench {
  static let readSizes = [64 << 10, 128 << 10]
  /// What relayd makes unless told otherwise, and one that no cache holds.
  static let rings = [
    BenchRing(channel: "small", subbufSize: 256 << 10, subbufCount: 8),
    BenchRing(channel: "large", subbufSize: 4 << 20, subbufCount: 16),
  ]
  static let sampleBytes = 60 << 20
  /// Of a null server's throughput that relayfs has to reach.
  static let target = 0.9

  let cpus: [Int]
  let effort: Effort
  /// Bytes of a record.
  let recordSize: Int

  private struct Row {
    let ring: BenchRing
    let readSize: Int
    var relayfs = Samples()
    /// Replies from one small buffer, which stays in the CPU's cache.
    var cached = Samples()
    /// Replies from as much memory as the ring has. No upper bound: nothing has just written there,
    /// while our fill leaves the end of the ring in the cache.
    var sameMemory = Samples()
  }

  func run() throws -> [BenchRow] {
    say(
      """

      Reading, GiB/s: records of \(recordSize) bytes, \(ReadBench.sampleBytes >> 20) MiB a sample
      """)
    guard let null = Programs.peer("null_fuse_server") else {
      say("null FUSE server: not built (make bench)")
      return []
    }
    var table = Table([
      "server's CPU", "ring", "read(2)", "relayfs", "null server", "null, ring's size",
      "relayfs/null", "/ring's size", "target",
    ])
    var results = try measure("the reader's", servers: [cpus[0]], reader: [cpus[0]], null, &table)
    if cpus.count > 1 {
      results += try measure("another", servers: [cpus[1]], reader: [cpus[0]], null, &table)
      results += try measure("any", servers: cpus, reader: cpus, null, &table)
    }
    table.show()
    say(
      """
        null server: answers from 128 KiB that stay in the cache; a ring larger than the cache \
      pays for memory, as the null server with a buffer of the ring's size does
      """)
    if cpus.count > 1 {
      say("  any: where the kernel puts a server decides here, so there is no target")
    }
    return results
  }

  private func measure(
    _ place: String, servers: [Int], reader: [Int], _ null: String, _ table: inout Table
  ) throws -> [BenchRow] {
    defer { try? Affinity.set(cpus) }
    // Inherited by the servers.
    try Affinity.set(servers)
    let files = try ServedFiles(null: null, effort: effort)
    try Affinity.set(reader)
    var rows = ReadBench.rings.flatMap { ring in
      ReadBench.readSizes.map { Row(ring: ring, readSize: $0) }
    }
    for round in effort.warmAndCounted {
      for index in rows.indices {
        var row = rows[index]
        row.relayfs.add(try files.readRelayfs(row.ring, row.readSize, recordSize: recordSize))
        row.sameMemory.add(try files.readNull(row.ring, row.readSize, .sameMemory))
        row.cached.add(try files.readNull(row.ring, row.readSize, .oneBuffer))
        if round > 0 { rows[index] = row }
      }
    }
    return rows.flatMap { row in
      let ratios = row.relayfs.ratios(to: row.cached)
      let name = "read \(row.ring.label), \(row.readSize >> 10) KiB a read, server's CPU: \(place)"
      func result(_ peer: String, _ other: Samples, _ target: Double?) -> BenchRow {
        BenchRow(
          name: name, value: row.relayfs.median, unit: "GiB/s",
          peer: .init(
            name: peer, value: other.median, ratio: row.relayfs.ratios(to: other).median),
          better: .higher, target: target, rounds: row.relayfs.values.count)
      }
      let judged = result(
        "null FUSE server", row.cached, servers.count > 1 ? nil : ReadBench.target)
      table.add([
        place, row.ring.label, "\(row.readSize >> 10) KiB",
        row.relayfs.summary(2), row.cached.summary(2), row.sameMemory.summary(2),
        ratios.summary(2), row.relayfs.ratios(to: row.sameMemory).median.text(2),
        judged.verdict,
      ])
      return [judged, result("null FUSE server with the ring's memory", row.sameMemory, nil)]
    }
  }
}
