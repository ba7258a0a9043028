// SPDX-License-Identifier: Apache-2.0
// Sizes and times as people write them.

/// Sizes in bytes, plain or with KiB, MiB, GiB.
package enum ByteSize {
  private static let units: [(suffix: String, factor: Int)] = [
    ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30),
  ]

  package enum Failure: Error { case malformed, tooLarge }

  package static func parse(_ text: String) throws(Failure) -> Int {
    let unit = units.first { text.hasSuffix($0.suffix) }
    guard let number = plain(text.dropLast(unit?.suffix.utf8.count ?? 0)) else {
      throw .malformed
    }
    let (bytes, overflow) = number.multipliedReportingOverflow(by: unit?.factor ?? 1)
    guard !overflow else { throw .tooLarge }
    return bytes
  }

  /// The shortest exact form: 262144 as "256 KiB".
  package static func format(_ bytes: Int) -> String {
    guard let (number, suffix) = shortest(bytes) else { return "\(bytes) bytes" }
    return "\(number) \(suffix)"
  }

  /// Nil where no unit gives a whole number.
  package static func shortest(_ bytes: Int) -> (number: Int, suffix: String)? {
    guard bytes > 0, let unit = units.last(where: { bytes % $0.factor == 0 }) else { return nil }
    return (bytes / unit.factor, unit.suffix)
  }
}

/// Times in milliseconds, plain or with ms or s.
package enum TimeSpan {
  /// Less would take a writer that was merely interrupted for one that stopped.
  package static let shortestTimeout = 10
  package static let longestTimeout = 86_400_000

  package static func parse(_ text: String) -> Int? {
    if text.hasSuffix("ms") { return plain(text.dropLast(2)) }
    guard text.hasSuffix("s") else { return plain(text[...]) }
    guard let seconds = plain(text.dropLast()) else { return nil }
    let (milliseconds, overflow) = seconds.multipliedReportingOverflow(by: 1000)
    return overflow ? nil : milliseconds
  }

  /// "1s", "1500ms" or "never".
  package static func format(_ milliseconds: Int?) -> String {
    guard let milliseconds else { return "never" }
    return milliseconds % 1000 == 0 ? "\(milliseconds / 1000)s" : "\(milliseconds)ms"
  }
}

/// A whole number without a plus sign, as files have them.
private func plain(_ text: Substring) -> Int? { text.first == "+" ? nil : Int(text) }
