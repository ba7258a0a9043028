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
  let rounds: Int

  /// One line of the report.
  private struct Row {
    let cpus: [Int]
    let bytes: Int
    var relay = Samples()
    var timed = Samples()
    var memcpy = Samples()
    var lttng = Samples()
  }

  func run() throws {
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
    // The first round touches every page and is not counted.
    for round in 0...rounds {
      for index in rows.indices {
        var row = rows[index]
        row.memcpy.add(try Self.memcpyTime(row.bytes, row.cpus, rings))
        row.relay.add(try Self.relayTime(row.bytes, row.cpus, channel))
        row.timed.add(try Self.relayTime(row.bytes, row.cpus, timed))
        if case .running(let session) = lttng {
          row.lttng.add(try session.time(row.bytes, WriteBench.lttngCount, row.cpus))
        }
        if round > 0 { rows[index] = row }
      }
    }
    report(rows, lttngName: name)
  }

  private static func open(hasTimestamps: Bool) throws -> Channel {
    try Channel.open(
      "bench",
      Geometry(
        subbufSize: WriteBench.subbufSize, subbufCount: WriteBench.subbufCount, mode: .overwrite,
        hasTimestamps: hasTimestamps, online: Processors.online(),
        possible: Processors.possible()))
  }

  private static func memcpyTime(
    _ bytes: Int, _ cpus: [Int], _ rings: [MemcpyRing]
  ) throws -> Double {
    try PinnedThread.mean(on: cpus) { index, line in
      withRecord(bytes) { record in
        rings[index].writeRecords(recordCount / 8, record)
        line.wait()
        let start = nowNanoseconds()
        rings[index].writeRecords(recordCount, record)
        return Double(nowNanoseconds() - start) / Double(recordCount)
      }
    }
  }

  private static func relayTime(_ bytes: Int, _ cpus: [Int], _ channel: Channel) throws -> Double {
    try PinnedThread.mean(on: cpus) { _, line in
      let writer = channel.writer()
      return try withRecord(bytes) { record in
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

  private func report(_ rows: [Row], lttngName: String) {
    var table = Table(
      [
        "writers", "bytes", "relay", "with times", "memcpy", lttngName, "relay/memcpy",
        "LTTng/with times", "target",
      ])
    for row in rows {
      let hasLTTng = !row.lttng.values.isEmpty
      let target = row.cpus.count == 1 ? WriteBench.targets[row.bytes] : nil
      table.add([
        "\(row.cpus.count)", "\(row.bytes)", row.relay.summary(1), row.timed.summary(1),
        row.memcpy.summary(1),
        hasLTTng ? row.lttng.summary(0) : "–",
        row.relay.ratios(to: row.memcpy).median.text(1),
        hasLTTng ? row.lttng.ratios(to: row.timed).median.text(1) : "–",
        target.map { "≤ \($0.text(0)): \(row.relay.median <= $0 ? "met" : "missed")" } ?? "",
      ])
    }
    table.show()
  }
}
