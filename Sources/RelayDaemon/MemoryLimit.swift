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

  /// The lowest limit of the groups in `memberships` (as /proc/PID/cgroup has them) and those above
  /// them; nil where there is none.
  static func controlGroup(memberships: String, root: String) -> Int? {
    var lowest: Int?
    for line in memberships.split(separator: "\n") {
      let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard parts.count == 3 else { continue }
      let (directory, file) =
        parts[1].split(separator: ",").contains("memory")
        ? ("\(root)/memory", "memory.limit_in_bytes") : (root, "memory.max")
      guard parts[1].isEmpty || directory != root else { continue }
      var path = parts[2].split(separator: "/")
      while true {
        let text = contents(([directory] + path.map(String.init) + [file]).joined(separator: "/"))
        // "max" is no number, and no limit.
        if let bytes = Int(text.prefix { $0 != "\n" }) { lowest = min(lowest ?? bytes, bytes) }
        if path.isEmpty { break }
        path.removeLast()
      }
    }
    return lowest
  }

  /// A small file's text; empty where there is none.
  private static func contents(_ path: String) -> String {
    guard let file = try? FileDescriptor.open(path, O_RDONLY) else { return "" }
    var bytes = [UInt8](repeating: 0, count: 16384)
    let count = read(file.raw, &bytes, bytes.count)
    return String(decoding: bytes[..<max(0, count)], as: UTF8.self)
  }
}
