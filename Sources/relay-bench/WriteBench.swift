// SPDX-License-Identifier: Apache-2.0
// Nanoseconds per record written: relay without and with times, a bare memcpy, LTTng-UST (always
// with); one writer, and one per CPU.

import LinuxIO
import Relay

struct WriteBench {
  static let subbufSize = 256 << 10
  static let subbufCount = 8
  static let recordSizes = [8, 64, 256]
  /// About 30 ms a sample.
  static let recordCount = 4_000_000
  static let lttngCount = 500_000
  /// Nanoseconds for one record of so many bytes that one writer may take.
  static let targets = [8: 8.0, 64: 12.0]

  let cpus: [Int]
  let effort: Effort

  /// One line of the report.
  private struct Row {
    let cpus: [Int]
    let bytes: Int
    var relay = Samples()
    var timed = Samples()
    var memcpy = Samples()
    var lttng = Samples()
  }

  func run() throws -> [BenchRow] {
    say(
      """

      Writing, ns per record: \(WriteBench.subbufCount) × \(WriteBench.subbufSize >> 10) KiB \
      per CPU, overwrite mode; pinned threads
      """)
    let channel = try Self.open(hasTimestamps: false)
    let timed = try Self.open(hasTimestamps: true)
    let lttng = try LTTngSession.start()
    let name: String
    switch lttng {
    case .running(let session): name = session.version
    case .unavailable(let why):
      say("LTTng-UST: \(why)")
      name = "LTTng-UST"
    }
    var rows = (cpus.count > 1 ? [[cpus[0]], cpus] : [cpus]).flatMap { cpus in
      WriteBench.recordSizes.map { Row(cpus: cpus, bytes: $0) }
    }
    let rings = cpus.map { _ in
      MemcpyRing(byteCount: WriteBench.subbufSize * WriteBench.subbufCount)
    }
    for round in effort.warmAndCounted {
      for index in rows.indices {
        var row = rows[index]
        row.memcpy.add(try memcpyTime(row.bytes, row.cpus, rings))
        row.relay.add(try relayTime(row.bytes, row.cpus, channel))
        row.timed.add(try relayTime(row.bytes, row.cpus, timed))
        if case .running(let session) = lttng {
          row.lttng.add(
            try session.time(
              row.bytes, effort.count(WriteBench.lttngCount), row.cpus))
        }
        if round > 0 { rows[index] = row }
      }
    }
    return report(rows, lttngName: name)
  }

  private static func open(hasTimestamps: Bool) throws -> Channel {
    try Channel.open(
      "bench",
      Geometry(
        subbufSize: WriteBench.subbufSize, subbufCount: WriteBench.subbufCount, mode: .overwrite,
        hasTimestamps: hasTimestamps, online: Processors.online(),
        possible: Processors.possible()))
  }

  private func memcpyTime(
    _ bytes: Int, _ cpus: [Int], _ rings: [MemcpyRing]
  ) throws -> Double {
    let recordCount = effort.count(Self.recordCount)
    return try PinnedThread.mean(on: cpus) { index, line in
      Self.withRecord(bytes) { record in
        rings[index].writeRecords(recordCount / 8, record)
        line.wait()
        let start = nowNanoseconds()
        rings[index].writeRecords(recordCount, record)
        return Double(nowNanoseconds() - start) / Double(recordCount)
      }
    }
  }

  private func relayTime(_ bytes: Int, _ cpus: [Int], _ channel: Channel) throws -> Double {
    let recordCount = effort.count(Self.recordCount)
    return try PinnedThread.mean(on: cpus) { _, line in
      let writer = channel.writer()
      return try Self.withRecord(bytes) { record in
        // Warm up through the exported function, so that it is what the loop inlines.
        withUnsafePointer(to: writer) { pointer in
          for _ in 0..<recordCount / 8 {
            _ = writeOneRecord(pointer, record.baseAddress.unsafelyUnwrapped, bytes)
          }
        }
        line.wait()
        let start = nowNanoseconds()
        let refused = writeRecords(recordCount, record, writer)
        let elapsed = nowNanoseconds() - start
        guard refused == 0 else { throw BenchFailure("an overwrite channel refused a record") }
        return Double(elapsed) / Double(recordCount)
      }
    }
  }

  private static func withRecord(
    _ bytes: Int, _ body: (UnsafeRawBufferPointer) throws -> Double
  ) rethrows -> Double {
    let record = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64)
    record.initializeMemory(as: UInt8.self, repeating: 0x72)
    defer { record.deallocate() }
    return try body(UnsafeRawBufferPointer(record))
  }

  private func report(_ rows: [Row], lttngName: String) -> [BenchRow] {
    var table = Table(
      [
        "writers", "bytes", "relay", "with times", "memcpy", lttngName, "relay/memcpy",
        "LTTng/with times", "target",
      ])
    var results: [BenchRow] = []
    for row in rows {
      let hasLTTng = !row.lttng.values.isEmpty
      func result(
        _ call: String, _ samples: Samples, target: Double? = nil,
        to peer: (name: String, samples: Samples)? = nil
      ) -> BenchRow {
        BenchRow(
          name: "\(call) \(row.bytes) B, \(row.cpus.count) at once", value: samples.median,
          unit: "ns",
          peer: peer.map {
            .init(
              name: $0.name, value: $0.samples.median, ratio: samples.ratios(to: $0.samples).median)
          }, better: .lower, target: target, rounds: samples.values.count)
      }
      let target = row.cpus.count == 1 ? WriteBench.targets[row.bytes] : nil
      let judged = result("write", row.relay, target: target)
      results += [judged, result("write", row.relay, to: ("memcpy", row.memcpy))]
      results.append(
        result("write with time", row.timed, to: hasLTTng ? (lttngName, row.lttng) : nil))
      table.add([
        "\(row.cpus.count)", "\(row.bytes)", row.relay.summary(1), row.timed.summary(1),
        row.memcpy.summary(1),
        hasLTTng ? row.lttng.summary(0) : "–",
        row.relay.ratios(to: row.memcpy).median.text(1),
        hasLTTng ? row.lttng.ratios(to: row.timed).median.text(1) : "–",
        judged.verdict,
      ])
    }
    table.show()
    return results
  }
}
