// SPDX-License-Identifier: Apache-2.0
// How much memory all channels together may come to take: what the machine, the control groups and
// the configuration allow.

internal import Glibc
internal import LinuxIO
internal import Relay

/// The tightest of the limits there are.
struct MemoryLimit: Equatable {
  var bytes: Int
  /// Whose limit it is, for a message.
  var source: String
  var isConfigured = false

  /// As of now: an administrator may change a control group's limit at any time.
  static func current(configured: Int?) -> MemoryLimit {
    var limit = MemoryLimit(bytes: Geometry.physicalMemory, source: "this machine has")
    let group = controlGroup(memberships: contents("/proc/self/cgroup"), root: "/sys/fs/cgroup")
    if let group, group < limit.bytes {
      limit = MemoryLimit(bytes: group, source: "the control group's limit is")
    }
    if let configured, configured < limit.bytes {
      limit = MemoryLimit(bytes: configured, source: "max_memory is", isConfigured: true)
    }
    return limit
  }

  /// What can be taken at this moment: of the machine's memory, and of what each control group
  /// above this process has left of its limit. Memory that holds files counts as free, as the
  /// kernel drops those.
  static func left() -> MemoryLimit {
    left(
      machine: contents("/proc/meminfo"), memberships: contents("/proc/self/cgroup"),
      root: "/sys/fs/cgroup")
  }

  static func left(machine: String, memberships: String, root: String) -> MemoryLimit {
    let available = number(of: "MemAvailable:", in: machine).map { $0 * 1024 }
    var left = MemoryLimit(
      bytes: available ?? Geometry.physicalMemory, source: "this machine has")
    forEachGroup(memberships, root) { directory, files in
      guard let limit = wholeNumber("\(directory)/\(files.limit)"),
        let usage = wholeNumber("\(directory)/\(files.usage)")
      else { return }
      let cache = number(of: files.cache, in: contents("\(directory)/memory.stat")) ?? 0
      let bytes = max(0, limit - max(0, usage - cache))
      if bytes < left.bytes {
        left = MemoryLimit(bytes: bytes, source: "the control group has")
      }
    }
    return left
  }

  /// The names of a group's files.
  private struct GroupFiles {
    let limit: String
    let usage: String
    /// The line of memory.stat that says how much holds files not used lately.
    let cache: String

    static let first = GroupFiles(
      limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", cache: "total_inactive_file")
    static let second = GroupFiles(
      limit: "memory.max", usage: "memory.current", cache: "inactive_file")
  }

  /// The lowest limit of the groups in `memberships` (as /proc/PID/cgroup has them) and those above
  /// them; nil where there is none.
  static func controlGroup(memberships: String, root: String) -> Int? {
    var lowest: Int?
    forEachGroup(memberships, root) { directory, files in
      // "max" is no number, and no limit.
      if let bytes = wholeNumber("\(directory)/\(files.limit)") {
        lowest = min(lowest ?? bytes, bytes)
      }
    }
    return lowest
  }

  /// Each memory control group in `memberships` and those above them.
  private static func forEachGroup(
    _ memberships: String, _ root: String, _ body: (_ directory: String, GroupFiles) -> Void
  ) {
    for line in memberships.split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard parts.count == 3 else { continue }
      let (directory, files) =
        parts[1].split(separator: ",").contains("memory")
        ? ("\(root)/memory", GroupFiles.first) : (root, GroupFiles.second)
      guard parts[1].isEmpty || directory != root else { continue }
      var path = parts[2].split(separator: "/")
      while true {
        body(([directory] + path.map(String.init)).joined(separator: "/"), files)
        if path.isEmpty { break }
        path.removeLast()
      }
    }
  }

  /// A file that holds one number; nil where it holds another word, or is not there.
  private static func wholeNumber(_ path: String) -> Int? {
    Int(contents(path).prefix { $0 != "\n" })
  }

  /// The number behind `name` at the start of a line.
  private static func number(of name: String, in text: String) -> Int? {
    for line in text.split(separator: "\n") {
      let words = line.split(separator: " ")
      if words.count > 1, words[0] == name { return Int(words[1]) }
    }
    return nil
  }

  /// A small file's text; empty where there is none.
  private static func contents(_ path: String) -> String {
    guard let file = try? FileDescriptor.open(path, O_RDONLY) else { return "" }
    var bytes = [UInt8](repeating: 0, count: 16384)
    let count = read(file.raw, &bytes, bytes.count)
    return String(decoding: bytes[..<max(0, count)], as: UTF8.self)
  }
}
