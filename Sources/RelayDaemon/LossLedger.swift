// SPDX-License-Identifier: Apache-2.0
// What nobody had read when a relayd ended, for the next one, which may not be handed the memory it
// is in. The file's form is documented in relayd(8); by which rule each record is counted once, in
// Relay's LostForGood.swift.

internal import LinuxIO
internal import Relay

/// The unread records of one buffer.
struct LossEntry: Equatable {
  var channel: String
  var cpu: Int
  /// Of the memory they are in.
  var incarnation: UInt64
  var records: UInt64

  var text: String { "\(channel) \(cpu) \(String(incarnation, radix: 16)) \(records)" }

  init(channel: String, cpu: Int, incarnation: UInt64, records: UInt64) {
    self.channel = channel
    self.cpu = cpu
    self.incarnation = incarnation
    self.records = records
  }

  /// nil for what is no such line.
  init?(_ line: Substring) {
    let words = line.split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 4, let options = try? ChannelOptions(name: String(words[0])),
      let cpu = Int(words[1]), (0...Geometry.maximumCPU).contains(cpu),
      let incarnation = UInt64(words[2], radix: 16), let records = UInt64(words[3])
    else { return nil }
    self.init(channel: options.name, cpu: cpu, incarnation: incarnation, records: records)
  }
}

/// The file, and those of its entries that have not been counted yet.
final class LossLedger {
  static let heading =
    "# relayd: unread when it ended. CHANNEL CPU INCARNATION RECORDS; see relayd(8).\n"
  /// Of channels that never come again the oldest are let go of. What a relayd leaves itself is
  /// written in any case.
  static let maximumCount = 4096

  private let file: RuntimeFile
  private let log: (String) -> Void
  private(set) var pending: [LossEntry] = []
  /// Records counted and not logged yet, by channel.
  private var untold: [String: UInt64] = [:]
  /// A relayd serves, and has not said what it leaves.
  private static let runningLine = "running"
  private var isRunning = false
  /// The relayd before was killed: what it left unread is not in the file.
  private(set) var wasKilled = false

  /// Reads the file of the relayd before.
  init(_ file: RuntimeFile, log: @escaping (String) -> Void) {
    self.file = file
    self.log = log
    do throws(SystemError) {
      guard let bytes = try file.read() else { return }
      for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n")
      where !line.hasPrefix("#") {
        if line == LossLedger.runningLine {
          wasKilled = true
        } else if let entry = LossEntry(line) {
          pending.append(entry)
        } else {
          log("\(file.path): a line is not one of relayd's, and not counted: \(line)")
        }
      }
    } catch {
      log("\(error): what the relayd before left unread is not known")
    }
  }

  /// Memories that were handed over are not lost, or are counted by who gives them up.
  func dropHanded(_ isHanded: (LossEntry) -> Bool) { pending.removeAll(where: isHanded) }

  /// Counts what was lost with earlier memories of a channel that is about to be there, for
  /// `tell`. A memory whose notes say that it has these counted was handed over by a relayd that
  /// was killed before its file said so.
  /// REQUIRES: where the memory is new, that it is not kept yet: then it has them counted before
  /// anybody can be handed it.
  func count(in channel: Channel, except isHanded: (LossEntry) -> Bool) {
    let name = channel.name
    pending.removeAll { $0.channel == name && isHanded($0) }
    let lost = pending.filter { $0.channel == name && $0.records > 0 }
    pending.removeAll { $0.channel == name }
    guard !lost.isEmpty else { return }
    let stamp = LossLedger.stamp(lost)
    let notes = ChannelNotes(channel)
    if notes?.countedLosses != stamp {
      for entry in lost { channel.countLostByRestart(entry.records, cpu: entry.cpu) }
      notes?.countedLosses = stamp
    }
    untold[name, default: 0] &+= lost.reduce(0) { $0 &+ $1.records }
  }

  /// Not 0.
  private static func stamp(_ entries: [LossEntry]) -> UInt64 {
    Checksum.of(entries.lazy.flatMap { [UInt64($0.cpu), $0.incarnation, $0.records] }) | 1
  }

  /// Has the file forget what was counted, and then logs it: a relayd that is killed in between
  /// has it counted, and none says it twice.
  func tell() {
    guard !untold.isEmpty else { return }
    store([])
    for (name, total) in untold.sorted(by: { $0.key < $1.key }) {
      log(
        "channel \(name): \(records(total)) that nobody had read when the last relayd ended "
          + "\(total == 1 ? "is" : "are") lost: its memory was not handed over; counted in "
          + "lost_restart")
    }
    untold = [:]
  }

  /// Has the file say that a relayd runs, and logs what is lost: what was counted, and what of
  /// channels that are not there stays in the file.
  func begin() {
    isRunning = true
    store([])
    tell()
    for name in Set(pending.map(\.channel)).sorted() {
      let total = pending.reduce(0) { $0 &+ ($1.channel == name ? $1.records : 0) }
      guard total > 0 else { continue }
      log(
        "channel \(name): \(records(total)) that nobody had read when a relayd ended "
          + "\(total == 1 ? "is" : "are") lost, and there is no such channel now; "
          + "counted in lost_restart once there is one")
    }
  }

  /// The last word of this relayd: what it leaves unread.
  func end(_ entries: [LossEntry]) -> Bool {
    isRunning = false
    return store(entries)
  }

  /// Has the file say these, and what is pending. False, and logged, where that cannot be.
  @discardableResult
  func store(_ entries: [LossEntry]) -> Bool {
    letGoOfOldest()
    let all = (pending + entries).filter { $0.records > 0 }
    guard isRunning || !all.isEmpty else {
      file.remove()
      return true
    }
    do throws(SystemError) {
      let lines = (isRunning ? [LossLedger.runningLine] : []) + all.map(\.text)
      try file.replace(LossLedger.heading + lines.map { $0 + "\n" }.joined())
      return true
    } catch {
      log("\(error): if their memory is lost, these records are not counted")
      return false
    }
  }

  private func letGoOfOldest() {
    pending.removeAll { $0.records == 0 }
    let count = pending.count - LossLedger.maximumCount
    guard count > 0 else { return }
    let lost = pending.prefix(count).reduce(0) { $0 &+ $1.records }
    pending.removeFirst(count)
    log(
      "\(file.path): \(records(lost)) of channels that are not there any more will not be counted: "
        + "it has room for \(LossLedger.maximumCount) buffers of such channels")
  }

  private func records(_ count: UInt64) -> String { "\(count) record\(count == 1 ? "" : "s")" }
}
