// SPDX-License-Identifier: Apache-2.0
// readers: who has which buffer open or mapped, as text or JSON; and the end of that for some.

import ArgumentParser
import Glibc
import LinuxIO
import RelayControl

struct ReadersCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "readers", abstract: "Lists who has which buffer open or mapped, and evicts some.",
    discussion: """
      root, relayd's own user and the user who owns a device see all of its readers, others only \
      their own; who sees a reader may evict it. What a reader does to its buffer: file reads, and \
      shares the buffer with other files; exclusive is the only file that may read; peek reads and \
      consumes nothing; write is open for writing only; mapped is the mapped consumer that has the \
      buffer; lost is one that lost it, and may ask for it again; evicted is a file that was \
      evicted, and not closed yet. A number is given once while the machine runs, also where \
      relayd is restarted.

      Reads of an evicted file fail with ESTALE, and an evicted consumer is told as one that was \
      too slow. What it had and did not report as consumed is the next reader's. For 10 seconds \
      its user, unless that is root or relayd's own, can neither open nor map that buffer: others \
      come first.
      """)

  @Option(
    name: .customLong("evict"), parsing: .upToNextOption,
    help: ArgumentHelp("Evict the readers of these numbers.", valueName: "number"))
  var evicted: [UInt64] = []

  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    try reporting {
      let client = try ControlClient()
      guard evicted.isEmpty else {
        try evict(client)
        return
      }
      let readers = try client.readers().map(ListedReader.init)
      if json {
        try printJSON(readers)
        return
      }
      var rows = [["NUMBER", "BUFFER", "KIND", "PID", "USER", "COMMAND", "SINCE"]]
      for reader in readers {
        rows.append([
          "\(reader.number)", reader.buffer, reader.kind, reader.pid.map { "\($0)" } ?? "-",
          reader.user ?? "\(reader.uid)", reader.command.isEmpty ? "-" : reader.command,
          localTime(Int(reader.since)),
        ])
      }
      try printTable(rows)
    }
  }

  /// Each of them, also where another one is gone already.
  private func evict(_ client: ControlClient) throws {
    var refused: ControlError?
    for number in evicted {
      do throws(ControlError) {
        try client.evict(reader: number)
      } catch {
        guard case .refused = error else { throw error }
        if let refused { complain("\(refused)") }
        refused = error
      }
    }
    if let refused { throw refused }
  }

  /// Such as "2026-11-30 21:11:46".
  private func localTime(_ seconds: Int) -> String {
    var (time, parts) = (time_t(seconds), tm())
    localtime_r(&time, &parts)
    var text = [CChar](repeating: 0, count: 64)
    let count = strftime(&text, text.count, "%Y-%m-%d %H:%M:%S", &parts)
    return String(decoding: text[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}

private struct ListedReader: Encodable {
  let number: UInt64
  let buffer: String
  let kind: String
  /// nil: it has none that relayd knows.
  let pid: Int?
  let uid: UInt32
  let user: String?
  let command: String
  /// Seconds since 1970.
  let since: Double

  init(_ reader: ReaderDescription) {
    number = reader.serial
    buffer = reader.path
    kind = reader.kind
    pid = reader.pid > 0 ? reader.pid : nil
    uid = reader.uid
    user = Accounts.userName(reader.uid)
    command = reader.command
    since = Double(min(reader.milliseconds, 1 << 50)) / 1000
  }
}
