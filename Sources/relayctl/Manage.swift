// SPDX-License-Identifier: Apache-2.0
// create, close, reload, flush and reset: what changes channels. Each is one request; the daemon
// decides whether it may be.

import ArgumentParser
import Glibc
import RelayControl

struct CreateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "create", abstract: "Makes a channel while relayd runs.",
    discussion: """
      For root, the user who runs relayd and members of its create_group. Without --keep the \
      channel is gone when the last process that attached to it has ended. Options left out take \
      relayd's defaults.
      """)

  enum Mode: String, CaseIterable, ExpressibleByArgument { case discard, overwrite }
  enum ReadMode: String, CaseIterable, ExpressibleByArgument { case eof, block }
  enum Wakeup: String, CaseIterable, ExpressibleByArgument { case data, subbuffer }

  @Argument(help: "The channel's name.") var channel: String
  @Option(help: "Bytes of a sub-buffer, such as 65536 or 256KiB.") var subbufSize: String?
  @Option(help: "Sub-buffers of each buffer.") var nSubbufs: Int?
  @Option(help: "What a full buffer loses: new records or its oldest.") var mode: Mode?
  @Flag(name: .customLong("global"), help: "One buffer for all CPUs.") var isGlobal = false
  @Flag(help: "Each record carries its time.") var timestamps = false
  @Flag(help: "relayd takes the memory now, and is charged for it.") var prefault = false
  @Option(help: "What a read does when there is nothing: end or wait.") var read: ReadMode?
  @Flag(help: "A write to a device is a record; its mode says who may.") var write = false
  @Option(help: "What wakes a reader: any data or a whole sub-buffer.") var wakeup: Wakeup?
  @Option(help: "How long a stopped writer holds others up, such as 500ms, 1s or never.")
  var stallTimeout: String?
  @Option(help: "How long a mapped consumer may keep what it has, such as 500ms, 5s or never.")
  var consumerTimeout: String?
  @Option(help: "The user whom the devices belong to.") var owner: String?
  @Option(help: "The group of the devices.") var group: String?
  @Option(help: "The mode of the devices, such as 0440.") var permissions: String?
  @Option(help: "The group whose members may write.") var writers: String?
  @Option(help: "Processes that may be attached at once.") var maxProducers: Int?
  @Flag(help: "The channel stays until it is closed.") var keep = false

  /// Those that were given, with the daemon's names for them.
  private var given: [(key: String, value: String)] {
    let all: [(String, String?)] = [
      ("subbuf_size", subbufSize), ("n_subbufs", nSubbufs.map(String.init)),
      ("mode", mode?.rawValue), ("read", read?.rawValue), ("wakeup", wakeup?.rawValue),
      ("stall_timeout", stallTimeout), ("consumer_timeout", consumerTimeout),
      ("owner", owner), ("group", group),
      ("permissions", permissions), ("writers", writers),
      ("max_producers", maxProducers.map(String.init)),
    ]
    return all.compactMap { key, value in value.map { (key, $0) } }
  }

  func validate() throws {
    for (key, value) in given where value.isEmpty || value.contains(",") {
      let option = "--" + String(key.map { $0 == "_" ? "-" : $0 })
      throw ValidationError("\(option) \"\(value)\": one value, without commas")
    }
  }

  func run() throws {
    let options =
      given.map { "\($0.key)=\($0.value)" } + (isGlobal ? ["global"] : [])
      + (timestamps ? ["timestamps"] : []) + (prefault ? ["prefault"] : [])
      + (write ? ["write"] : [])
    try reporting {
      do {
        try patientClient().create(channel, options: options.joined(separator: ","), keep: keep)
      } catch ControlError.refused(let refusal) where refusal.code == EINVAL {
        throw CommandFailure(status: EX_USAGE, message: refusal.message)
      }
    }
  }
}

struct CloseCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "close", abstract: "Closes a channel.",
    discussion: """
      For root, the user who runs relayd and who created the channel. Writers are refused from \
      then on; who has a device open gets what is left, then the end; nobody else can open it.
      """)

  @Argument(help: "The channel.") var channel: String

  func run() throws { try reporting { try ControlClient().close(channel) } }
}

struct ReloadCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "reload", abstract: "Makes relayd read its configuration again.",
    discussion: """
      Channels that are new in it appear, those no longer in it close. Those that changed stay as \
      they are: each is named, and the exit status is 1. SIGHUP does the same.
      """)

  @Option(help: "The relayd of this process number, whatever socket it serves.") var pid: Int32?

  func run() throws { try reporting { try patientClient(path()).reload() } }
}

extension ReloadCommand {
  private func path() throws -> String {
    guard let pid else { return ControlClient.defaultPath }
    if let path = try ServedSocket.path(of: pid) { return path }
    throw CommandFailure(
      status: EX_UNAVAILABLE, message: "process \(pid) serves no control socket; is it a relayd?")
  }
}

struct FlushCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "flush",
    abstract: "Puts what the buffers of a channel hold into sub-buffers of their own.")

  @Argument(help: "The channel.") var channel: String

  func run() throws { try reporting { try ControlClient().flush(channel) } }
}

struct ResetCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "reset", abstract: "Forgets all data and counts of a channel.",
    discussion: """
      For root, the user who runs relayd and who created the channel. A channel with a damaged \
      buffer, or one that is full of records left open for good, gets fresh memory; where that \
      cannot be had, the reset says why and fails.
      """)

  @Argument(help: "The channel.") var channel: String

  func run() throws { try reporting { try patientClient().reset(channel) } }
}

/// For requests that relayd answers only once it has made channels, taken memory or looked through
/// an index.
private func patientClient(
  _ path: String = ControlClient.defaultPath
) throws(ControlError) -> ControlClient {
  try ControlClient(path: path, timeoutMilliseconds: 60_000)
}
