// SPDX-License-Identifier: Apache-2.0
// list and stat: what channels there are, what was written, read and lost; as text or JSON.

import ArgumentParser
import FoundationEssentials
import Glibc
import LinuxIO
import Relay
import RelayControl

struct ListCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Lists the channels.")

  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    try reporting {
      let channels = try ControlClient().list()
      let damaged = try DamagedChannels()
      if json {
        try printJSON(channels.map { ListedChannel($0, isDamaged: damaged.contains($0)) })
        return
      }
      var rows = [["CHANNEL", "MODE", "READ", "WAKEUP", "STATE", "SUB-BUFFERS", "DEVICES"]]
      for channel in channels {
        rows.append([
          channel.name, channel.isOverwrite ? "overwrite" : "discard", channel.readMode,
          channel.wakeup, state(channel, damaged), "\(channel.subbufCount) × \(channel.subbufSize)",
          devices(channel),
        ])
      }
      try printTable(rows)
    }
  }

  private func state(_ channel: ChannelDescription, _ damaged: DamagedChannels) -> String {
    if damaged.contains(channel) { return "damaged" }
    return channel.isClosed ? "closed" : channel.isTemporary ? "temporary" : "open"
  }

  /// "/dev/relay0 … /dev/relay3", or each by name where the numbers have holes.
  private func devices(_ channel: ChannelDescription) -> String {
    let paths = channel.cpus.map { channel.pathPrefix + "\($0)" }
    guard !paths.isEmpty else { return "none now" }
    guard paths.count > 2, let first = channel.cpus.first, let last = channel.cpus.last,
      last - first == paths.count - 1
    else { return paths.joined(separator: " ") }
    return "\(paths[0]) … \(paths[paths.count - 1])"
  }
}

/// Which channels have a damaged buffer.
private struct DamagedChannels {
  private let serials: Set<Int>

  /// Of a daemon that does not say, none.
  init() throws(ControlError) {
    do throws(ControlError) {
      // Its own connection: one that is older closes that.
      serials = Set(try ControlClient().listDamaged().map(\.serial))
    } catch .unknownRequest {
      serials = []
    }
  }

  func contains(_ channel: ChannelDescription) -> Bool { serials.contains(channel.serial) }
}

private struct ListedChannel: Encodable {
  let name: String
  let mode: String
  let subbufSize: Int
  let nSubbufs: Int
  let global: Bool
  let timestamps: Bool
  let read: String
  let wakeup: String
  let temporary: Bool
  let closed: Bool
  let damaged: Bool
  let backend: String
  let devices: [String]

  init(_ channel: ChannelDescription, isDamaged: Bool) {
    damaged = isDamaged
    name = channel.name
    mode = channel.isOverwrite ? "overwrite" : "discard"
    subbufSize = channel.subbufSize
    nSubbufs = channel.subbufCount
    global = channel.isGlobal
    timestamps = channel.hasTimestamps
    read = channel.readMode
    wakeup = channel.wakeup
    temporary = channel.isTemporary
    closed = channel.isClosed
    backend = channel.frontEnd
    devices = channel.cpus.map { channel.pathPrefix + "\($0)" }
  }
}

struct StatCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "stat", abstract: "Prints what was written, read and lost, for each buffer.",
    discussion: """
      written = read + unread + overwritten + stalled. What was refused was never written: full \
      (no free sub-buffer), too big (longer than a sub-buffer). Aborted records are those whose \
      writer died, cancelled ones those it gave up. Restart counts what a relayd that died left \
      unread in memory with which the next one did not go on. Corrupt counts damage done to the \
      shared memory; such a buffer delivers nothing more. Backlog max is the most sub-buffers that \
      waited to be read at one moment. Lost is the share of all those lost, refused and aborted \
      ones included, in the records that writers did not cancel. Held says which processes hold \
      sub-buffers by records they have not finished (relayctl producers), and how many: PID:N. The \
      total is that of all lines above it; its backlog is the largest of theirs.
      """)

  @Argument(help: "The channel; all if absent.") var channel: String?
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    try reporting {
      let client = try ControlClient()
      let buffers = try channel.map { try statistics(of: $0, client) } ?? allStatistics(client)
      let holders = try Holders()
      if json {
        try printJSON(
          buffers.map {
            ListedStatistics($0.channel, $0.buffer, holders[$0.channel, $0.buffer.cpu])
          })
      } else {
        try printTable(table(buffers, holders))
      }
    }
  }

  private typealias Account = (channel: String, buffer: BufferStatistics)

  private func statistics(
    of name: String, _ client: ControlClient
  ) throws(ControlError) -> [Account] {
    try client.stat(name).map { (name, $0) }
  }

  /// Channels come and go: one that went since the list was made, or that was closed and made
  /// anew, is no error.
  private func allStatistics(_ client: ControlClient) throws(ControlError) -> [Account] {
    var seen: Set<String> = []
    var buffers: [Account] = []
    for channel in try client.list() where seen.insert(channel.name).inserted {
      do throws(ControlError) {
        buffers += try statistics(of: channel.name, client)
      } catch .refused(let refusal) where refusal.code == ENOENT {}
    }
    return buffers
  }

  private func table(_ buffers: [Account], _ holders: Holders) -> [[String]] {
    let header = [
      "DEVICE", "WRITTEN", "READ", "UNREAD", "OVERWRITTEN", "FULL", "TOO BIG", "STALLED",
      "RESTART", "ABORTED", "CANCELLED", "CORRUPT", "HELD", "BYTES READ", "BACKLOG MAX", "LOST",
    ]
    let rows = buffers.map {
      row($0.buffer.path, $0.buffer.counts, holders.text($0.channel, $0.buffer.cpu))
    }
    guard buffers.count > 1 else { return [header] + rows }
    let held = buffers.reduce(0) { $0 + holders.subbufs($1.channel, $1.buffer.cpu) }
    return [header] + rows + [row("total", .total(of: buffers.map(\.buffer.counts)), "\(held)")]
  }

  private func row(_ name: String, _ s: Statistics, _ held: String) -> [String] {
    let numbers = [
      s.recordsWritten, s.recordsRead, s.recordsUnread, s.lostOverwritten, s.lostFull,
      s.lostTooBig, s.lostStalled, s.lostRestart, s.aborted, s.cancelled, s.corrupt,
    ]
    return [name] + numbers.map(String.init)
      + [held, "\(s.bytesRead)", "\(s.backlogMax)", LossShare(s).text]
  }
}

/// relay's counters of one buffer; in JSON by relay's names, such as subbufs_produced.
private struct ListedStatistics: Encodable {
  let channel: String
  let cpu: Int
  let path: String
  let subbufsProduced: UInt64
  let subbufsConsumed: UInt64
  let recordsWritten: UInt64
  let recordsRead: UInt64
  let recordsUnread: UInt64
  let bytesWritten: UInt64
  let bytesRead: UInt64
  let bytesUnread: UInt64
  let padding: UInt64
  let lostFull: UInt64
  let lostTooBig: UInt64
  let lostOverwritten: UInt64
  let lostStalled: UInt64
  let lostRestart: UInt64
  let aborted: UInt64
  let cancelled: UInt64
  let corrupt: UInt64
  let backlogMax: UInt64
  /// By all causes, and of all that writers did not cancel.
  let lost: UInt64
  let lostPercent: Double
  let heldBy: [Holders.Holder]

  init(_ channel: String, _ buffer: BufferStatistics, _ holders: [Holders.Holder]) {
    heldBy = holders
    self.channel = channel
    cpu = buffer.cpu
    path = buffer.path
    let s = buffer.counts
    subbufsProduced = s.subbufsProduced
    subbufsConsumed = s.subbufsConsumed
    recordsWritten = s.recordsWritten
    recordsRead = s.recordsRead
    recordsUnread = s.recordsUnread
    bytesWritten = s.bytesWritten
    bytesRead = s.bytesRead
    bytesUnread = s.bytesUnread
    padding = s.padding
    lostFull = s.lostFull
    lostTooBig = s.lostTooBig
    lostOverwritten = s.lostOverwritten
    lostStalled = s.lostStalled
    lostRestart = s.lostRestart
    aborted = s.aborted
    cancelled = s.cancelled
    corrupt = s.corrupt
    backlogMax = s.backlogMax
    let share = LossShare(s)
    lost = share.lost
    lostPercent = share.percent
  }
}

func printJSON(_ value: some Encodable) throws {
  let encoder = JSONEncoder()
  encoder.keyEncodingStrategy = .convertToSnakeCase
  encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
  // Of what is unprintable the encoder escapes C0 only. Outside of strings there are line ends.
  let text = String(decoding: try encoder.encode(value), as: UTF8.self).printableLines
  try Stream.print(text + "\n", to: STDOUT_FILENO)
}

/// Columns as wide as their widest cell; all but the first and text ones to the right.
func printTable(_ rows: [[String]]) throws {
  let rows = rows.map { $0.map(\.printable) }
  var text = ""
  let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max()! }
  for row in rows {
    var line = ""
    for (column, cell) in row.enumerated() {
      let space = String(repeating: " ", count: widths[column] - cell.count)
      let isNumber = rows.dropFirst().allSatisfy {
        $0[column].utf8.allSatisfy("0123456789.%".utf8.contains)
      }
      line += isNumber && rows.count > 1 ? space + cell : cell + space
      if column < row.count - 1 { line += "  " }
    }
    while line.last == " " { line.removeLast() }
    text += line + "\n"
  }
  try Stream.print(text, to: STDOUT_FILENO)
}
