// SPDX-License-Identifier: Apache-2.0
// A TOML text as the settings in it, in their order and each with its line. The only file that
// knows the TOML library; knows no key.

internal import TOMLKit

struct TOMLDocument {
  /// One key, or one table: every table is an entry before what is in it.
  struct Entry {
    /// From the root: ["channel", "audit", "mode"]. Never empty; cut off after `maximumDepth`.
    let path: [String]
    let line: Int
    let isTable: Bool
    let value: Setting.Value
  }

  /// Where a text is no TOML, and why.
  struct Refusal: Error {
    let line: Int
    let reason: String
  }

  /// One more than any key has.
  static let maximumDepth = 4
  /// The library nests a table for each dot, and takes those apart by recursion: with its own
  /// limit of 256 nested values, this keeps far from the end of the stack.
  static let maximumDots = 32
  /// In a table's header, of which a statement has one: a channel's name may be full of them.
  static let maximumHeaderDots = ChannelOptions.maximumNameLength
  static let maximumStatementLines = 100

  private(set) var entries: [Entry] = []

  init(_ bytes: [UInt8]) throws(Refusal) {
    let mark: [UInt8] = [0xEF, 0xBB, 0xBF]
    let lines = bytes.dropFirst(bytes.starts(with: mark) ? mark.count : 0)
      .split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
      .map { $0.last == UInt8(ascii: "\r") ? $0.dropLast() : $0 }
    for (index, line) in lines.enumerated() {
      if let reason = TOMLDocument.flaw(of: line) {
        throw Refusal(line: index + 1, reason: reason)
      }
    }
    do {
      // The text as a whole tells what is given twice.
      try TOMLDocument.parse(lines[...]).clear()
    } catch let error as TOMLParseError {
      var reason = error.description.split { $0.isNewline }.joined(separator: " ")
      // The commonest one: a file mode.
      if reason.contains("leading zero") {
        reason += "; a file mode is a string of octal digits, such as \"0400\""
      }
      throw Refusal(line: error.source.begin.line, reason: reason)
    } catch { preconditionFailure("an error that TOMLTable does not throw: \(error)") }
    try collect(lines[...])
  }

  /// What the library does not look for: it ends a text at a NUL.
  private static func flaw(of line: ArraySlice<UInt8>) -> String? {
    guard let text = String(validating: line, as: UTF8.self) else {
      return "not UTF-8; save the file in that encoding"
    }
    if line.contains(0) || text.contains("\\u0000") || text.contains("\\U00000000") {
      return "a NUL character; take it out"
    }
    let isComment = line.first { !" \t".utf8.contains($0) } == UInt8(ascii: "#")
    let dots = line.count { $0 == UInt8(ascii: ".") }
    let isHeader = !line.contains { "={".utf8.contains($0) }
    let limit = isHeader ? maximumHeaderDots : maximumDots
    guard isComment || dots <= limit else {
      return "a line with \(dots) dots; no key or value needs more than \(limit)"
    }
    return isHeaderWithoutKey(line) ? "a [ without a key behind it; a table is [NAME]" : nil
  }

  /// What the library aborts at, where a statement may begin. A line within a longer value that
  /// looks like this is refused too.
  private static func isHeaderWithoutKey(_ line: ArraySlice<UInt8>) -> Bool {
    func afterBlanks(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
      bytes.drop { " \t".utf8.contains($0) }
    }
    var rest = afterBlanks(line)
    guard rest.popFirst() == UInt8(ascii: "[") else { return false }
    if rest.first == UInt8(ascii: "[") { rest.removeFirst() }
    guard let first = afterBlanks(rest).first else { return true }
    return !TOMLText.isBare(first) && !"\"']".utf8.contains(first)
  }

  /// The library has positions for errors only. Of a text that parses, each statement (a header,
  /// or a key and its value) is a text that parses, and no part of one is.
  private mutating func collect(_ lines: ArraySlice<ArraySlice<UInt8>>) throws(Refusal) {
    var header: [String] = []
    var start = lines.startIndex
    while start < lines.endIndex {
      let first = lines[start].first { !" \t".utf8.contains($0) }
      guard let first, first != UInt8(ascii: "#") else {
        start += 1
        continue
      }
      let (table, end) = try statement(in: lines, from: start)
      defer { table.clear() }
      if first == UInt8(ascii: "[") {
        header = []
        addHeader(table, line: start + 1, path: &header)
      } else {
        addKeys(of: table, line: start + 1, below: header)
      }
      start = end
    }
  }

  private func statement(
    in lines: ArraySlice<ArraySlice<UInt8>>, from start: Int
  ) throws(Refusal) -> (TOMLTable, end: Int) {
    let last = min(lines.endIndex, start + TOMLDocument.maximumStatementLines)
    for end in start + 1..<last + 1 {
      if let table = try? TOMLDocument.parse(lines[start..<end]) { return (table, end) }
    }
    throw Refusal(
      line: start + 1,
      reason: "a value of over \(TOMLDocument.maximumStatementLines) lines; write it on one")
  }

  private mutating func addHeader(_ table: TOMLTable, line: Int, path: inout [String]) {
    var table = table
    while path.count < TOMLDocument.maximumDepth, let key = table.keys.first,
      let value = table[key]
    {
      path.append(key)
      guard let inner = value.table else { return add(value, path, line) }
      table = inner
    }
    entries.append(
      Entry(path: path, line: line, isTable: true, value: .unusable("a table")))
  }

  private mutating func addKeys(of table: TOMLTable, line: Int, below path: [String]) {
    guard path.count < TOMLDocument.maximumDepth else { return }
    for key in table.keys {
      guard let value = table[key] else { continue }
      add(value, path + [key], line)
      if let inner = value.table { addKeys(of: inner, line: line, below: path + [key]) }
    }
  }

  private mutating func add(
    _ value: any TOMLValueConvertible, _ path: [String], _ line: Int
  ) {
    let plain: Setting.Value =
      switch value.type {
      case .string: .string(value.string ?? "")
      case .int: .integer(value.int ?? 0)
      case .bool: .boolean(value.bool ?? false)
      case .table: .unusable("a table")
      case .array: .unusable("an array")
      case .double: .unusable("a number with a fraction")
      case .date: .unusable("a date")
      case .time: .unusable("a time")
      case .dateTime: .unusable("a date with time")
      }
    entries.append(
      Entry(path: path, line: line, isTable: value.type == .table, value: plain))
  }

  private static func parse(_ lines: ArraySlice<ArraySlice<UInt8>>) throws -> TOMLTable {
    let text = lines.joined(separator: CollectionOfOne(UInt8(ascii: "\n")))
    return try TOMLTable(string: String(decoding: Array(text), as: UTF8.self))
  }
}
