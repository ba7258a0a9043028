// SPDX-License-Identifier: Apache-2.0
// A key with the value its user gave it, on a command line or in a file: to a typed value, or to
// a refusal that says what would be right.

internal import LinuxIO
internal import Relay
internal import RelayControl

/// What is wrong with a name or a value, and what would be right.
public struct OptionError: Error, Equatable, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}

struct Setting {
  enum Value {
    /// From a command line, where everything is a word.
    case word(String)
    /// A key alone, on a command line.
    case absent
    // From a file.
    case string(String)
    case integer(Int)
    case boolean(Bool)
    /// What no key takes: "a table", "an array".
    case unusable(String)
  }

  let key: String
  let value: Value

  func size() throws(OptionError) -> Int {
    switch value {
    case .integer(let bytes): return bytes
    case .word(let text), .string(let text):
      do throws(ByteSize.Failure) { return try ByteSize.parse(text) } catch {
        guard error == .malformed else { throw refusal("is over what 64 bits hold") }
      }
    default: break
    }
    throw refusal("is not a size such as 262144, \(quoted("256KiB")) or \(quoted("1MiB"))")
  }

  /// 1 byte or more.
  func sizeOfSomething() throws(OptionError) -> Int {
    let bytes = try size()
    guard bytes > 0 else { throw refusal("allows nothing; use 1 or more") }
    return bytes
  }

  /// Milliseconds; nil: for ever.
  func timeout() throws(OptionError) -> Int? {
    let milliseconds: Int?
    switch value {
    case .integer(let number): milliseconds = number
    case .word("never"), .string("never"): return nil
    case .word(let text), .string(let text): milliseconds = TimeSpan.parse(text)
    default: milliseconds = nil
    }
    guard let milliseconds else {
      throw refusal(
        "is neither a time such as \(quoted("500ms")) or \(quoted("1s")) nor \(quoted("never"))")
    }
    guard milliseconds <= TimeSpan.longestTimeout else {
      throw refusal("is over a day; use \(quoted("never"))")
    }
    guard milliseconds >= TimeSpan.shortestTimeout else {
      throw refusal("is too short: a writer may wait as long for its CPU; use 10ms or more")
    }
    return milliseconds
  }

  /// 1 or more.
  func count(such example: Int) throws(OptionError) -> Int {
    let count = try wholeNumber(such: example)
    guard count > 0 else { throw refusal("allows nothing; use 1 or more") }
    return count
  }

  func wholeNumber(such example: Int) throws(OptionError) -> Int {
    switch value {
    case .integer(let number): return number
    case .word(let text):
      if text.first != "+", let number = Int(text) { return number }
    default: break
    }
    throw refusal("is not a whole number such as \(example)")
  }

  func choice<Choice: RawRepresentable<String> & CaseIterable>(
    of type: Choice.Type
  ) throws(OptionError) -> Choice {
    switch value {
    case .word(let text), .string(let text):
      if let choice = Choice(rawValue: text) { return choice }
    default: break
    }
    let names = Choice.allCases.map { quoted($0.rawValue) }
    throw refusal("is neither " + names.joined(separator: " nor "))
  }

  /// On a command line, a flag's presence is all there is to it.
  func flag() throws(OptionError) -> Bool {
    switch value {
    case .absent: return true
    case .boolean(let flag): return flag
    case .word: throw OptionError("\(key) takes no value here: write \(key) alone, or leave it out")
    default: throw refusal("is neither true nor false")
    }
  }

  /// Octal digits, as a string: in a file, 400 and 0o400 would be two different numbers.
  func permissions() throws(OptionError) -> UInt32 {
    switch value {
    case .word(let text), .string(let text):
      let isOctal = text.utf8.allSatisfy { (48...55).contains($0) }
      if isOctal, (3...4).contains(text.utf8.count), let mode = UInt32(text, radix: 8),
        mode <= 0o777
      {
        return mode
      }
    default: break
    }
    throw refusal(
      "is not a file mode of octal digits such as \(quoted("0400")) or \(quoted("0440"))")
  }

  /// In a file an absolute path: a daemon's working directory says nothing.
  func path() throws(OptionError) -> String {
    guard case .string(let path) = value, path.first == "/" else {
      throw refusal("is not an absolute path such as \"/run/relayd/\(key)\"")
    }
    return path
  }

  func user() throws(OptionError) -> String {
    try account("user", such: "root", Accounts.userID)
  }

  func group() throws(OptionError) -> String {
    try account("group", such: "adm", Accounts.groupID)
  }

  private func account(
    _ kind: String, such example: String, _ find: (String) throws(SystemError) -> UInt32?
  ) throws(OptionError) -> String {
    let name: String
    switch value {
    case .integer(let number): name = "\(number)"
    case .word(let text), .string(let text): name = text
    default: throw refusal("is not a \(kind)'s name or number, such as \(quoted(example))")
    }
    let id: UInt32?
    do { id = try find(name) } catch { throw refusal("cannot be checked: \(error)") }
    guard id != nil else {
      throw refusal("names no \(kind) of this system; create it, or use its number")
    }
    return name
  }

  /// "key=value is not …", as the user wrote it.
  func refusal(_ what: String) -> OptionError {
    switch value {
    case .word(let text): OptionError("\(key)=\(text) \(what)")
    case .absent: OptionError("\(key) needs a value: \(key)=…")
    case .string(let text): OptionError("\(key) = \(TOMLText.string(text)) \(what)")
    case .integer(let number): OptionError("\(key) = \(number) \(what)")
    case .boolean(let flag): OptionError("\(key) = \(flag) \(what)")
    case .unusable(let type): OptionError("\(key): \(type) \(what)")
    }
  }

  private func quoted(_ text: String) -> String {
    switch value {
    case .word, .absent: text
    default: "\"\(text)\""
    }
  }
}
