// SPDX-License-Identifier: Apache-2.0
// Samples and their summary, the clock, and numbers as text. Nothing about what is measured.

import Glibc

/// The monotonic clock, in nanoseconds.
func nowNanoseconds() -> Int {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// Prints a line now, also into a pipe: a run takes its time.
func say(_ line: String) {
  let bytes = Array((line + "\n").utf8)
  _ = write(STDOUT_FILENO, bytes, bytes.count)
}

/// How much is measured.
struct Effort {
  /// Each measures every variant once.
  let rounds: Int
  /// The share of a full sample that is taken.
  let share: Double

  /// Rounds to run: the first touches every page and is not counted.
  var warmAndCounted: ClosedRange<Int> { 0...rounds }
  var counted: ClosedRange<Int> { 1...rounds }

  func count(_ full: Int) -> Int { max(1, Int(Double(full) * share)) }
}

/// One number per round.
struct Samples {
  private(set) var values: [Double] = []

  mutating func add(_ value: Double) { values.append(value) }

  var median: Double {
    let sorted = values.sorted()
    let middle = sorted.count / 2
    return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  }

  /// "8.3 (8.2–9.1)"
  func summary(_ decimals: Int) -> String {
    let (low, high) = (values.min() ?? 0, values.max() ?? 0)
    return "\(median.text(decimals)) (\(low.text(decimals))–\(high.text(decimals)))"
  }

  /// Each round's number over the other's of the same round: slow phases of the machine cancel.
  func ratios(to other: Samples) -> Samples {
    Samples(values: zip(values, other.values).map { $0 / $1 })
  }
}

extension Samples {
  init(values: some Sequence<Double>) { self.values = Array(values) }
}

extension Double {
  func text(_ decimals: Int) -> String {
    let scale = (0..<decimals).reduce(1) { power, _ in power * 10 }
    let scaled = Int((self * Double(scale)).rounded())
    guard decimals > 0 else { return "\(scaled)" }
    let fraction = "\(scaled % scale)"
    let zeros = String(repeating: "0", count: decimals - fraction.count)
    return "\(scaled / scale).\(zeros)\(fraction)"
  }
}

/// Rows of cells, shown in columns aligned to the right.
struct Table {
  private var rows: [[String]] = []

  init(_ header: [String]) { rows = [header] }

  mutating func add(_ row: [String]) { rows.append(row) }

  func show() {
    let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    for row in rows {
      let cells = zip(row, widths).map { cell, width in
        String(repeating: " ", count: width - cell.count) + cell
      }
      say("  " + cells.joined(separator: "   "))
    }
  }
}
