// SPDX-License-Identifier: Apache-2.0
// list and stat: what channels there are, what was written, read and lost; as text or JSON.

import ArgumentParser
import FoundationEssentials
import RelayControl

struct ListCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Lists the channels.")

  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    try reporting {
      let channels = try ControlClient().list()
      if json {
        try printJSON(channels.map(ListedChannel.init))
        return
      }
      var rows = [["CHANNEL", "MODE", "SUB-BUFFERS", "DEVICES"]]
      for channel in channels {
        rows.append([
          channel.name, channel.isOverwrite ? "overwrite" : "discard",
          "\(channel.subbufCount) × \(channel.subbufSize)", devices(channel),
        ])
      }
      printTable(rows)
    }
  }

  /// "/dev/relay0 … /dev/relay3", or each by name where the numbers have holes.
  private func devices(_ channel: ChannelDescription) -> String {
    let paths = channel.cpus.map { channel.pathPrefix + "\($0)" }
    let isDense = channel.cpus == Array(channel.cpus[0]...channel.cpus[channel.cpus.count - 1])
    guard paths.count > 2, isDense else { return paths.joined(separator: " ") }
    return "\(paths[0]) … \(paths[paths.count - 1])"
  }
}

private struct ListedChannel: Encodable {
  let name: String
  let mode: String
  let subbuf_size: Int
  let n_subbufs: Int
  let global: Bool
  let backend: String
  let devices: [String]

  init(_ channel: ChannelDescription) {
    name = channel.name
    mode = channel.isOverwrite ? "overwrite" : "discard"
    subbuf_size = channel.subbufSize
    n_subbufs = channel.subbufCount
    global = channel.isGlobal
    backend = channel.frontEnd
    devices = channel.cpus.map { channel.pathPrefix + "\($0)" }
  }
}

struct StatCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "stat", abstract: "Prints what was written, read and lost, for each buffer.",
    discussion: """
      written = read + unread + overwritten. What was refused was never written: full (no free
      sub-buffer), too big (longer than a sub-buffer). Aborted records are those whose writer died,
      cancelled ones those it gave up.
      """)

  @Argument(help: "The channel; all if absent.") var channel: String?
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    try reporting {
      let client = try ControlClient()
      let names = try channel.map { [$0] } ?? client.list().map(\.name)
      var buffers: [ListedStatistics] = []
      for name in names { buffers += try client.stat(name).map { ListedStatistics(name, $0) } }
      if json { try printJSON(buffers) } else { printTable(table(buffers)) }
    }
  }

  private func table(_ buffers: [ListedStatistics]) -> [[String]] {
    var rows = [
      [
        "DEVICE", "WRITTEN", "READ", "UNREAD", "OVERWRITTEN", "FULL", "TOO BIG", "ABORTED",
        "CANCELLED", "BYTES READ",
      ]
    ]
    for b in buffers {
      let numbers = [
        b.records_written, b.records_read, b.records_unread, b.lost_overwritten, b.lost_full,
        b.lost_too_big, b.aborted, b.cancelled, b.bytes_read,
      ]
      rows.append([b.path] + numbers.map(String.init))
    }
    return rows
  }
}

/// relay's counters of one buffer, by the names of its C API.
private struct ListedStatistics: Encodable {
  let channel: String
  let cpu: Int
  let path: String
  let subbufs_produced: UInt64
  let subbufs_consumed: UInt64
  let records_written: UInt64
  let records_read: UInt64
  let records_unread: UInt64
  let bytes_written: UInt64
  let bytes_read: UInt64
  let bytes_unread: UInt64
  let padding: UInt64
  let lost_full: UInt64
  let lost_too_big: UInt64
  let lost_overwritten: UInt64
  let lost_stalled: UInt64
  let aborted: UInt64
  let cancelled: UInt64

  init(_ channel: String, _ s: BufferStatistics) {
    self.channel = channel
    cpu = s.cpu
    path = s.path
    subbufs_produced = s.subbufsProduced
    subbufs_consumed = s.subbufsConsumed
    records_written = s.recordsWritten
    records_read = s.recordsRead
    records_unread = s.recordsUnread
    bytes_written = s.bytesWritten
    bytes_read = s.bytesRead
    bytes_unread = s.bytesUnread
    padding = s.padding
    lost_full = s.lostFull
    lost_too_big = s.lostTooBig
    lost_overwritten = s.lostOverwritten
    lost_stalled = s.lostStalled
    aborted = s.aborted
    cancelled = s.cancelled
  }
}

private func printJSON(_ value: some Encodable) throws {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
  print(String(decoding: try encoder.encode(value), as: UTF8.self))
}

/// Columns as wide as their widest cell; all but the first and text ones to the right.
private func printTable(_ rows: [[String]]) {
  let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max()! }
  for row in rows {
    var line = ""
    for (column, cell) in row.enumerated() {
      let space = String(repeating: " ", count: widths[column] - cell.count)
      let isNumber = rows.dropFirst().allSatisfy { Int($0[column]) != nil }
      line += isNumber && rows.count > 1 ? space + cell : cell + space
      if column < row.count - 1 { line += "  " }
    }
    while line.last == " " { line.removeLast() }
    print(line)
  }
}
