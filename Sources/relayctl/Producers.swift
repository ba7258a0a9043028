// SPDX-License-Identifier: Apache-2.0
// producers: which processes write, and what they hold by records that they have not finished; as
// text or JSON.

import ArgumentParser
import Glibc
import LinuxIO
import Relay
import RelayControl

struct ProducersCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "producers", abstract: "Lists the processes that write, and what each holds.",
    discussion: """
      A record that was reserved and neither committed nor cancelled is open; usually because it \
      is being written at this moment. One that stays open holds its sub-buffer: nobody writes \
      into that again until the process ends it, or ends. Sub-buffers are counted over all \
      buffers of its channels. Where /proc hides the processes of other users (hidepid), so does \
      this.
      """)

  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    try reporting {
      let producers = ListedProducer.all(of: try ControlClient().producers())
      if json {
        try printJSON(producers)
        return
      }
      var rows = [["PID", "USER", "COMMAND", "CHANNELS", "OPEN RECORDS", "SUB-BUFFERS HELD"]]
      for producer in producers {
        rows.append([
          producer.pid.map { "\($0)" } ?? "-", producer.user ?? "\(producer.uid)",
          producer.command.isEmpty ? "-" : producer.command,
          producer.channels.isEmpty ? "-" : producer.channels.map(\.name).joined(separator: ","),
          "\(producer.openRecords)", "\(producer.subbufsHeld)",
        ])
      }
      try printTable(rows)
    }
  }
}

private struct ListedProducer: Encodable {
  struct Buffer: Encodable {
    let cpu: Int
    let openRecords: Int
    let subbufsHeld: Int
  }

  struct Channel: Encodable {
    let name: String
    let buffers: [Buffer]
  }

  /// nil: it has none that relayd knows.
  let pid: Int?
  let uid: UInt32
  let user: String?
  let command: String
  var channels: [Channel] = []
  var openRecords = 0
  var subbufsHeld = 0

  init(_ producer: ProducerDescription) {
    pid = producer.pid > 0 ? producer.pid : nil
    uid = producer.uid
    user = Accounts.userName(producer.uid)
    command = producer.command
  }

  /// One for each process.
  static func all(of parts: [ProducerDescription]) -> [ListedProducer] {
    var all: [ListedProducer] = []
    var serial = -1
    for part in parts {
      if part.serial != serial { all.append(ListedProducer(part)) }
      serial = part.serial
      guard !part.channel.isEmpty else { continue }
      let buffers = part.held.map {
        Buffer(cpu: $0.cpu, openRecords: $0.records, subbufsHeld: $0.subbufs)
      }
      all[all.count - 1].channels.append(Channel(name: part.channel, buffers: buffers))
      all[all.count - 1].openRecords += part.held.reduce(0) { $0 + $1.records }
      all[all.count - 1].subbufsHeld += part.held.reduce(0) { $0 + $1.subbufs }
    }
    return all
  }
}

/// Which processes hold sub-buffers of which buffer.
struct Holders {
  struct Holder: Encodable {
    let pid: Int
    let command: String
    let openRecords: Int
    let subbufs: Int
  }

  private struct Buffer: Hashable {
    let channel: String
    let cpu: Int
  }

  private var byBuffer: [Buffer: [Holder]] = [:]

  /// Of a daemon that does not say, nobody.
  init() throws(ControlError) {
    let producers: [ProducerDescription]
    do throws(ControlError) {
      // Its own connection: one that is older closes that.
      producers = try ControlClient().producers()
    } catch .unknownRequest {
      return
    }
    for producer in producers {
      for held in producer.held {
        byBuffer[Buffer(channel: producer.channel, cpu: held.cpu), default: []].append(
          Holder(
            pid: producer.pid, command: producer.command, openRecords: held.records,
            subbufs: held.subbufs))
      }
    }
  }

  /// Those of one buffer.
  subscript(channel: String, cpu: Int) -> [Holder] {
    byBuffer[Buffer(channel: channel, cpu: cpu)] ?? []
  }

  /// Each counted once for each process that holds it.
  func subbufs(_ channel: String, _ cpu: Int) -> Int {
    self[channel, cpu].reduce(0) { $0 + $1.subbufs }
  }

  /// "1234:3,77:1", or "0".
  func text(_ channel: String, _ cpu: Int) -> String {
    let holders = self[channel, cpu]
    guard !holders.isEmpty else { return "0" }
    return holders.map { "\($0.pid > 0 ? "\($0.pid)" : "-"):\($0.subbufs)" }.joined(separator: ",")
  }
}
