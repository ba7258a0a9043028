// SPDX-License-Identifier: Apache-2.0
// Which processors the machine has, by the kernel's own lists.

import CLinux
import Glibc

/// Processor numbers, ascending, without repeats.
public struct CPUSet: Equatable, Sendable {
  /// Above any number a kernel can be built for.
  public static let limit = 8192

  public let cpus: [Int]

  public init(_ cpus: some Sequence<Int>) { self.cpus = Set(cpus).sorted() }

  /// A list such as "0-3,8", with or without a newline; nil for anything else. An empty list
  /// is an empty set.
  public init?(list: String) {
    var cpus: [Int] = []
    let text: Substring = list.last == "\n" ? list.dropLast() : list[...]
    for part in text.split(separator: ",", omittingEmptySubsequences: !text.contains(",")) {
      let ends = part.split(separator: "-", omittingEmptySubsequences: false).map(CPUSet.number)
      guard (1...2).contains(ends.count), let first = ends[0], let last = ends[ends.count - 1],
        first <= last
      else { return nil }
      cpus += first...last
    }
    self.init(cpus)
  }

  private static func number(_ digits: Substring) -> Int? {
    guard digits.utf8.allSatisfy({ (48...57).contains($0) }), let number = Int(digits),
      number < limit
    else { return nil }
    return number
  }

  public var count: Int { cpus.count }
  public var isEmpty: Bool { cpus.isEmpty }
  public var lowest: Int? { cpus.first }
  public var highest: Int? { cpus.last }
  public func contains(_ cpu: Int) -> Bool { cpus.contains(cpu) }
}

public enum Processors {
  /// Those that may ever come up while this kernel runs.
  public static func possible() throws(SystemError) -> CPUSet { try read("possible") }

  /// Those that are up now.
  public static func online() throws(SystemError) -> CPUSet { try read("online") }

  private static func read(_ name: String) throws(SystemError) -> CPUSet {
    let path = "/sys/devices/system/cpu/\(name)"
    let file = try FileDescriptor.open(path, O_RDONLY)
    // A sysfs file is at most a page and comes in one read.
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = try check(clinux_read(file.raw, &bytes, bytes.count), "read \(path)")
    guard let set = CPUSet(list: String(decoding: bytes[..<count], as: UTF8.self)), !set.isEmpty
    else { throw SystemError(code: EINVAL, operation: "read a list of CPUs from \(path)") }
    return set
  }
}
