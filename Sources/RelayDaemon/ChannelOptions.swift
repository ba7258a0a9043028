// SPDX-License-Identifier: Apache-2.0
// One channel as its user asks for it: its name and options, from a file or from
// NAME[:key=value,…]. The limits that depend on the machine are Geometry's.

public import Relay
internal import RelayControl

/// A channel to be opened.
public struct ChannelOptions: Equatable, Sendable {
  /// What a blocking read does when there is nothing.
  public enum ReadMode: String, CaseIterable, Sendable {
    /// Return 0, as at the end of a file.
    case eof
    /// Wait for data.
    case block
  }

  public var name: String
  /// Payload bytes per sub-buffer.
  public var subbufSize = 256 << 10
  public var subbufCount = 8
  public var mode = ChannelMode.discard
  /// One buffer for all CPUs.
  public var isGlobal = false
  /// Each record carries its time.
  public var hasTimestamps = false
  /// Memory is taken, and charged to the daemon, before anybody writes.
  public var isPrefaulted = false
  public var read = ReadMode.eof
  /// Who may open a device for writing writes a record with each write(2).
  public var isWritable = false
  public var wakeup = Wakeup.data
  /// How long a record that is being written may hold back what is behind it, in milliseconds; nil:
  /// for ever.
  public var stallTimeout: Int? = 1000
  /// How long a mapped consumer may keep what it was handed out, or leave what it was offered, in
  /// milliseconds; nil: for ever.
  public var consumerTimeout: Int? = 5000
  /// The user who owns the files, by name or number; nil: the daemon's.
  public var owner: String?
  /// The group of the files, by name or number; nil: the daemon's.
  public var group: String?
  /// The mode of the files; relay's default lets only the owner read.
  public var permissions: UInt32 = 0o400
  /// The group whose members may write, by name or number; nil: only root and the daemon's user.
  public var writers: String?
  /// Producers attached at one time; nil: as many as the daemon allows in all.
  public var maximumProducers: Int?

  /// With relay's usual sizes: 8 sub-buffers of 256 KiB, no-overwrite mode, a buffer for each CPU.
  public init(name: String) throws(OptionError) {
    try ChannelOptions.check(name: name)
    self.name = name
  }

  /// For a name that is checked elsewhere.
  init(unchecked name: String) { self.name = name }

  /// Parses `NAME[:subbuf_size=256KiB,n_subbufs=8,mode=discard|overwrite,global,…]`: every key
  /// that a configuration file takes.
  public init(parsing text: String) throws(OptionError) {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    try self.init(name: String(parts[0]))
    guard parts.count == 2 else { return }
    var given: Set<Substring> = []
    for option in parts[1].split(separator: ",", omittingEmptySubsequences: false) {
      let pair = option.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      do throws(OptionError) {
        guard given.insert(pair[0]).inserted else {
          throw OptionError("\(pair[0]) is given twice")
        }
        let value = pair.count == 2 ? Setting.Value.word(String(pair[1])) : .absent
        try set(Setting(key: String(pair[0]), value: value))
      } catch {
        throw OptionError("channel \(name): \(error)")
      }
    }
  }

  /// Every key, in the order of the manual.
  static let keys = [
    "subbuf_size", "n_subbufs", "mode", "global", "timestamps", "prefault", "read", "write",
    "wakeup", "stall_timeout", "consumer_timeout", "owner", "group", "permissions", "writers",
    "max_producers",
  ]

  mutating func set(_ setting: Setting) throws(OptionError) {
    switch setting.key {
    case "subbuf_size":
      let size = try setting.size()
      try ChannelOptions.check(subbufSize: size, subbufCount: 2)
      subbufSize = size
    case "n_subbufs":
      let count = try setting.wholeNumber(such: 8)
      try ChannelOptions.check(subbufSize: 1, subbufCount: count)
      subbufCount = count
    case "mode": mode = try setting.choice(of: ChannelMode.self)
    case "global": isGlobal = try setting.flag()
    case "timestamps": hasTimestamps = try setting.flag()
    case "prefault": isPrefaulted = try setting.flag()
    case "read": read = try setting.choice(of: ReadMode.self)
    case "write": isWritable = try setting.flag()
    case "wakeup": wakeup = try setting.choice(of: Wakeup.self)
    case "stall_timeout": stallTimeout = try setting.timeout()
    case "consumer_timeout": consumerTimeout = try setting.timeout()
    case "owner": owner = try setting.user()
    case "group": group = try setting.group()
    case "permissions": permissions = try setting.permissions()
    case "writers": writers = try setting.group()
    case "max_producers": maximumProducers = try setting.count(such: 16)
    default:
      throw OptionError(
        "unknown option \(TOMLText.key(setting.key)); there are "
          + ChannelOptions.keys.joined(separator: ", "))
    }
  }

  private static func check(subbufSize: Int, subbufCount: Int) throws(OptionError) {
    do {
      _ = try Geometry(subbufSize: subbufSize, subbufCount: subbufCount, entryCount: nil)
    } catch { throw OptionError(error.description) }
  }
}

// Names: a path below /dev that, with a CPU's number behind it, is one device and no other's.
extension ChannelOptions {
  public static let maximumNameLength = 64

  static func check(name: String) throws(OptionError) {
    func refusal(_ reason: String) -> OptionError {
      OptionError("channel name \(TOMLText.string(name)): \(reason)")
    }
    guard !name.isEmpty else { throw OptionError("a channel needs a name") }
    guard name.utf8.count <= maximumNameLength else {
      throw refusal("over \(maximumNameLength) bytes")
    }
    let components = name.split(separator: "/", omittingEmptySubsequences: false)
    guard components.allSatisfy(isPlain) else {
      throw refusal(
        "use letters, digits, _, . and -, begin with a letter, digit or _, and put single / "
          + "between such names where the device belongs into a directory")
    }
    guard !("0"..."9" ~= name.last!) else {
      throw refusal(
        "a name may not end in a digit: \(name) + CPU 0 would look like another channel's CPU; "
          + "use \(name)_ for example")
    }
  }

  private static func isPlain(_ component: Substring) -> Bool {
    component.first != nil && component.first != "." && component.first != "-"
      && component.unicodeScalars.allSatisfy {
        switch $0 {
        case "a"..."z", "A"..."Z", "0"..."9", "_", ".", "-": true
        default: false
        }
      }
  }

  /// Why these channels cannot all be at the same time, each time with the name of one that is in
  /// the way; empty if they can. Names differ, and no channel's device stands where another's
  /// directory has to be.
  static func clashes(_ names: [String]) -> [(name: String, what: String)] {
    var taken: Set<String> = []
    var clashes: [(name: String, what: String)] = []
    for name in names where !taken.insert(name).inserted {
      clashes.append((name, "channel \(name) is given twice"))
    }
    for name in taken.sorted() {
      for (directory, channel) in possibleDevices(above: name) where taken.contains(channel) {
        clashes.append(
          (
            name,
            "channel \(name): its directory \(directory) would be a device of channel "
              + "\(channel); rename one of them"
          ))
      }
    }
    return clashes
  }

  /// The directory of channel `name` that would be a device of channel `other`.
  static func clash(_ name: String, _ other: String) -> (directory: String, channel: String)? {
    possibleDevices(above: name).first { $0.channel == other }
  }

  /// The directories of a name that are what a device of some channel is named, with that channel.
  private static func possibleDevices(
    above name: String
  ) -> [(directory: String, channel: String)] {
    let slash = UInt8(ascii: "/")
    guard name.utf8.contains(slash) else { return [] }
    return name.utf8.indices.filter { name.utf8[$0] == slash }.compactMap { end in
      let directory = name[..<end]
      let digits = directory.reversed().prefix { "0"..."9" ~= $0 }.count
      return digits > 0 ? (String(directory), String(directory.dropLast(digits))) : nil
    }
  }
}

extension ChannelOptions {
  /// The keys whose values differ, for a channel that is open already.
  func differences(from other: ChannelOptions) -> [String] {
    let values: [(String, (ChannelOptions) -> String)] = [
      ("subbuf_size", { "\($0.subbufSize)" }), ("n_subbufs", { "\($0.subbufCount)" }),
      ("mode", { $0.mode.rawValue }), ("global", { "\($0.isGlobal)" }),
      ("timestamps", { "\($0.hasTimestamps)" }),
      ("prefault", { "\($0.isPrefaulted)" }),
      ("read", { $0.read.rawValue }), ("write", { "\($0.isWritable)" }),
      ("wakeup", { $0.wakeup.rawValue }),
      ("stall_timeout", { TimeSpan.format($0.stallTimeout) }),
      ("consumer_timeout", { TimeSpan.format($0.consumerTimeout) }),
      ("owner", { "\($0.owner ?? "")" }), ("group", { "\($0.group ?? "")" }),
      ("permissions", { "\($0.permissions)" }), ("writers", { "\($0.writers ?? "")" }),
      ("max_producers", { "\($0.maximumProducers ?? 0)" }),
    ]
    return values.filter { $0.1(self) != $0.1(other) }.map(\.0)
  }
}
