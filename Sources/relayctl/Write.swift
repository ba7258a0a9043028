// SPDX-License-Identifier: Apache-2.0
// write: standard input into a channel, through its shared memory.

import ArgumentParser
import Glibc
import LinuxIO
import Relay
import RelayControl

struct WriteCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "write", abstract: "Writes standard input into a channel, record by record.",
    discussion: """
      Without options each line, its newline included, is one record. While a discard channel is \
      full, it waits for a reader; with --drop it goes on, and what did not fit is counted as lost.
      """)

  @Argument(help: "The channel.") var channel: String
  @Flag(help: "One record for each line (the default).") var lines = false
  @Option(help: "One record for each SIZE bytes; the last may be shorter.") var block: Int?
  @Flag(help: "Lose records rather than wait while the channel is full.") var drop = false

  func validate() throws {
    guard !(lines && block != nil) else {
      throw ValidationError("--lines and --block exclude each other")
    }
    if let block, block < 1 { throw ValidationError("--block takes a size of 1 byte or more") }
  }

  func run() throws {
    try reporting {
      let client = try ControlClient()
      let opened = try open(client)
      let size = opened.geometry.subbufSize
      if let block, block > size {
        throw CommandFailure.failed(
          "--block \(block): a record is at most one sub-buffer, \(size) bytes here")
      }
      let ending = try Ending()
      var input = RecordInput(STDIN_FILENO, block: block, longestRecord: size, ending)
      var session = WriteSession(
        writer: opened.writer(), channel: channel, drops: drop, longestRecord: size, ending)
      var unwritten = 0
      do {
        while let record = try input.next() {
          guard try !session.write(record) else { continue }
          unwritten = record.count + input.left
          break
        }
      } catch let error as StreamError where input.left > 0 || session.written > 0 {
        throw CommandFailure.failed(
          "\(error); \(session.written) records were written, \(input.left) bytes behind them "
            + "were read and not written")
      }
      try session.finish()
      if unwritten > 0 {
        complain(
          "ended by \(ending.reason) while channel \(channel) was full: \(session.written) "
            + "records were written, \(unwritten) bytes of the input were read and not written")
      }
      try ending.dieIfAsked(
        "\(session.written) records were written, the rest of the input was not read")
    }
  }

  private func open(_ client: ControlClient) throws -> Channel {
    let attached = try client.attach(channel)
    do {
      return try Channel.attach(attached)
    } catch .system(let cause) {
      throw cause
    } catch {
      throw CommandFailure.failed("\(error)")
    }
  }
}

/// Writing, waiting, counting and saying so.
private struct WriteSession: ~Copyable {
  let writer: Writer
  let channel: String
  let drops: Bool
  let longestRecord: Int
  let ending: Ending
  private(set) var written = 0
  private var bytes = 0
  private var lost = 0
  private var tooBig = 0
  private var turnsWithoutReader = 0
  private var progress = Progress()

  init(
    writer: consuming Writer, channel: String, drops: Bool, longestRecord: Int, _ ending: Ending
  ) {
    self.writer = writer
    self.channel = channel
    self.drops = drops
    self.longestRecord = longestRecord
    self.ending = ending
  }

  /// False: the channel is full, and a signal asked for the end.
  mutating func write(_ record: UnsafeRawBufferPointer) throws -> Bool {
    var result = writer.write(record, waitingMilliseconds: 0)
    while result == .full, !drops {
      if ending.isAsked { return false }
      progress.show(records: written, bytes: bytes, isWaiting: true)
      result = writer.write(record, waitingMilliseconds: 500)
      guard result != .full || hasReader() else {
        throw CommandFailure(
          status: EX_UNAVAILABLE,
          message: "relayd is gone: \(written) records were written, the rest were not"
            + lostWithRelayd)
      }
    }
    switch result {
    case .written:
      written += 1
      bytes += record.count
    case .full:
      writer.countLostFull()
      lost += 1
    case .tooBig: tooBig += 1
    case .closed:
      throw CommandFailure.failed(
        "channel \(channel) is closed; \(written) records were written" + lostWithRelayd)
    case .unserved:
      throw CommandFailure(
        status: EX_UNAVAILABLE,
        message: """
          no relayd takes records of channel \(channel) any more; \(written) records were written, \
          the rest were not\(lostWithRelayd)
          """)
    // It ends each record at once.
    case .corrupt, .holding:
      throw CommandFailure.failed(
        "the shared memory of channel \(channel) is damaged; \(written) records were written")
    }
    if written & 0xfff == 0 { progress.show(records: written, bytes: bytes, isWaiting: false) }
    return true
  }

  /// What dies with this process: the channel came back with other sizes, or not at all.
  private var lostWithRelayd: String {
    let count = writer.channel.refusedUnserved
    guard count > 0 else { return "" }
    return "; lost, and counted nowhere else: \(count) record\(count == 1 ? "" : "s") that nobody "
      + "had read, or that no relayd took"
  }

  /// Whether somebody could make room, now or soon: a relayd may come back.
  private mutating func hasReader() -> Bool {
    if writer.channel.isServed {
      turnsWithoutReader = 0
      return true
    }
    turnsWithoutReader += 1
    return turnsWithoutReader < 10
  }

  mutating func finish() throws {
    progress.end(records: written, bytes: bytes)
    // Written into memory that nobody reads any more.
    guard writer.channel.isServed else {
      throw CommandFailure(
        status: EX_UNAVAILABLE,
        message: "relayd is gone: \(written) records were written, but may not have been read"
          + lostWithRelayd)
    }
    if lost > 0 { complain("\(lost) records lost: the channel was full") }
    if tooBig > 0 {
      throw CommandFailure.failed(
        "\(tooBig) records refused: longer than a sub-buffer of channel \(channel), "
          + "\(longestRecord) bytes")
    }
  }
}

/// A line on the terminal, if there is one, now and then.
private struct Progress {
  private let isShown = isatty(STDERR_FILENO) == 1
  private var last = 0
  private let start = Progress.now()

  private static func now() -> Int {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1000 + time.tv_nsec / 1_000_000
  }

  mutating func show(records: Int, bytes: Int, isWaiting: Bool) {
    guard isShown, Progress.now() - last >= 250 else { return }
    last = Progress.now()
    print(records, bytes, isWaiting ? ", full: waiting for a reader" : "", end: "")
  }

  mutating func end(records: Int, bytes: Int) {
    guard isShown else { return }
    print(records, bytes, "", end: "\n")
  }

  private func print(_ records: Int, _ bytes: Int, _ state: String, end: String) {
    let seconds = Double(max(1, Progress.now() - start)) / 1000
    let rate = Int(Double(bytes) / seconds / 1_048_576)
    let text = "\r\(records) records, \(bytes >> 20) MiB, \(rate) MiB/s\(state)\u{1b}[K\(end)"
    try? Stream.print(text, to: STDERR_FILENO)
  }
}
