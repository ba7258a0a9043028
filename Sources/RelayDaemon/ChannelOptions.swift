// SPDX-License-Identifier: Apache-2.0
// One channel as its user asks for it: NAME[:key=value,…]. Text to values and refusals; the limits
// that depend on the machine are Geometry's.

public import Relay

/// What is wrong with a channel's name or options, and what would be right.
public struct OptionError: Error, Equatable, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}

/// A channel to be opened.
public struct ChannelOptions: Equatable, Sendable {
  public var name: String
  /// Payload bytes per sub-buffer.
  public var subbufSize = 256 << 10
  public var subbufCount = 8
  public var mode = ChannelMode.discard
  /// One buffer for all CPUs.
  public var isGlobal = false

  /// With relay's usual sizes: 8 sub-buffers of 256 KiB, no-overwrite mode, a buffer for each CPU.
  public init(name: String) throws(OptionError) {
    self.name = try ChannelOptions.checked(name: name)
  }

  /// Parses `NAME[:subbuf_size=256KiB,n_subbufs=8,mode=discard|overwrite,global]`.
  public init(parsing text: String) throws(OptionError) {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    try self.init(name: String(parts[0]))
    guard parts.count == 2 else { return }
    for option in parts[1].split(separator: ",", omittingEmptySubsequences: false) {
      let pair = option.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      do throws(OptionError) {
        try set(String(pair[0]), to: pair.count == 2 ? String(pair[1]) : nil)
      } catch {
        throw OptionError("channel \(name): \(error)")
      }
    }
  }

  private mutating func set(_ key: String, to value: String?) throws(OptionError) {
    switch (key, value) {
    case ("global", nil): isGlobal = true
    case ("global", _): throw OptionError("global takes no value")
    case ("subbuf_size", let value?): subbufSize = try ByteSize.parse(value, for: key)
    case ("n_subbufs", let value?):
      guard let count = Int(value) else {
        throw OptionError("n_subbufs=\(value) is not a whole number such as 8")
      }
      subbufCount = count
    case ("mode", let value?):
      guard let mode = ChannelMode(rawValue: value) else {
        throw OptionError("mode=\(value) is neither discard nor overwrite")
      }
      self.mode = mode
    case ("subbuf_size", nil), ("n_subbufs", nil), ("mode", nil):
      throw OptionError("\(key) needs a value: \(key)=…")
    default:
      throw OptionError(
        "unknown option \(key.isEmpty ? "(empty)" : key); there are subbuf_size, n_subbufs, mode "
          + "and global")
    }
  }

  public static let maximumNameLength = 64

  private static func checked(name: String) throws(OptionError) -> String {
    func refuse(_ reason: String) -> OptionError {
      OptionError("channel name \"\(name)\": \(reason)")
    }
    guard !name.isEmpty else { throw OptionError("a channel needs a name") }
    guard name.utf8.count <= maximumNameLength else {
      throw refuse("over \(maximumNameLength) bytes")
    }
    let isPlain = name.unicodeScalars.allSatisfy {
      switch $0 {
      case "a"..."z", "A"..."Z", "0"..."9", "_", ".", "-": true
      default: false
      }
    }
    guard isPlain, name.first != ".", name.first != "-" else {
      throw refuse("use letters, digits, _, . and -, and begin with a letter, digit or _")
    }
    guard !("0"..."9" ~= name.last!) else {
      throw refuse(
        "a name may not end in a digit: \(name) + CPU 0 would look like another channel's CPU; "
          + "use \(name)_ for example")
    }
    return name
  }
}

/// Sizes in bytes, plain or with KiB, MiB, GiB.
public enum ByteSize {
  private static let units: [(suffix: String, factor: Int)] = [
    ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30),
  ]

  static func parse(_ text: String, for key: String) throws(OptionError) -> Int {
    let unit = units.first { text.hasSuffix($0.suffix) }
    let digits = text.dropLast(unit?.suffix.count ?? 0)
    guard let number = Int(digits) else {
      throw OptionError("\(key)=\(text) is not a size such as 262144, 256KiB or 1MiB")
    }
    let (bytes, overflow) = number.multipliedReportingOverflow(by: unit?.factor ?? 1)
    guard !overflow else { throw OptionError("\(key)=\(text) is over what 64 bits hold") }
    return bytes
  }

  /// The shortest exact form: 262144 as "256 KiB".
  public static func format(_ bytes: Int) -> String {
    guard bytes > 0, let unit = units.last(where: { bytes % $0.factor == 0 }) else {
      return "\(bytes) bytes"
    }
    return "\(bytes / unit.factor) \(unit.suffix)"
  }
}
