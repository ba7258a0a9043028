// SPDX-License-Identifier: Apache-2.0
// A configuration as TOML that a configuration file may hold: nothing is left to defaults.

internal import LinuxIO
internal import Relay
internal import RelayControl

enum TOMLText {
  /// A quoted string, one line whatever is in it.
  static func string(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\t": result += "\\t"
      default:
        if scalar.isUnprintable {
          result += scalar.escaped
        } else {
          result.unicodeScalars.append(scalar)
        }
      }
    }
    return result + "\""
  }

  /// As it stands, for a person; quoted where that could not be shown.
  static func line(_ text: String) -> String { text.isPrintable ? text : string(text) }

  static func key(_ text: String) -> String {
    text.utf8.allSatisfy(isBare) && !text.isEmpty ? text : string(text)
  }

  /// Whether a key with it needs no quotes.
  static func isBare(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x5F, 0x2D: true
    default: false
    }
  }

  /// nil: a plain number says it best.
  static func size(_ bytes: Int) -> String? {
    ByteSize.shortest(bytes).map { "\($0.number)\($0.suffix)" }
  }

  static func permissions(_ mode: UInt32) -> String {
    let octal = String(mode, radix: 8)
    return String(repeating: "0", count: max(0, 4 - octal.count)) + octal
  }
}

extension Configuration {
  /// What `relayd --check` prints.
  public var toml: String {
    var lines = [
      "backend = \"\(backend.rawValue)\"",
      "mount = \(TOMLText.string(mountPoint))",
      "socket = \(TOMLText.string(socketPath))",
    ]
    if let createGroup { lines.append("create_group = \(TOMLText.string(createGroup))") }
    let numbers: [(String, Int?)] = [
      ("max_channels", limits.channels), ("max_channels_per_user", limits.channelsPerUser),
      ("max_producers", limits.producers), ("max_producers_per_user", limits.producersPerUser),
      ("max_readers", limits.readers), ("max_readers_per_user", limits.readersPerUser),
    ]
    for case (let key, let number?) in numbers { lines.append("\(key) = \(number)") }
    let sizes = [("max_memory", limits.memory), ("max_memory_per_user", limits.memoryPerUser)]
    for case (let key, let size?) in sizes {
      lines.append("\(key) = " + (TOMLText.size(size).map { "\"\($0)\"" } ?? "\(size)"))
    }
    for channel in channels {
      lines += ["", "[channel.\(TOMLText.key(channel.name))]"] + channel.toml
    }
    return lines.joined(separator: "\n") + "\n"
  }
}

extension ChannelOptions {
  fileprivate var toml: [String] {
    values.map { key, value in
      switch value {
      case .text(let text): "\(key) = \(TOMLText.string(text))"
      case .number(let number): "\(key) = \(number)"
      case .flag(let flag): "\(key) = \(flag)"
      }
    }
  }

  /// As `init(parsing:)` takes it behind the name and the colon.
  var text: String {
    values.compactMap { key, value in
      switch value {
      case .text(let text): "\(key)=\(text)"
      case .number(let number): "\(key)=\(number)"
      case .flag(let flag): flag ? key : nil
      }
    }.joined(separator: ",")
  }

  private enum Value {
    case text(String)
    case number(Int)
    case flag(Bool)
  }

  /// Every key that has a value, in the order of the manual.
  private var values: [(key: String, value: Value)] {
    var values: [(String, Value)] = [
      ("subbuf_size", TOMLText.size(subbufSize).map(Value.text) ?? .number(subbufSize)),
      ("n_subbufs", .number(subbufCount)),
      ("mode", .text(mode.rawValue)),
      ("global", .flag(isGlobal)),
      ("timestamps", .flag(hasTimestamps)),
      ("prefault", .flag(isPrefaulted)),
      ("read", .text(read.rawValue)),
      ("write", .flag(isWritable)),
      ("wakeup", .text(wakeup.rawValue)),
      ("stall_timeout", .text(TimeSpan.format(stallTimeout))),
      ("consumer_timeout", .text(TimeSpan.format(consumerTimeout))),
    ]
    if let owner { values.append(("owner", .text(owner))) }
    if let group { values.append(("group", .text(group))) }
    values.append(("permissions", .text(TOMLText.permissions(permissions))))
    if let writers { values.append(("writers", .text(writers))) }
    if let maximumProducers { values.append(("max_producers", .number(maximumProducers))) }
    return values
  }
}
