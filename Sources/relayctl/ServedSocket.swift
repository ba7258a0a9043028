// SPDX-License-Identifier: Apache-2.0
// Which socket a process serves: what its service manager, which knows only its number, reloads.

import Glibc
import LinuxIO

enum ServedSocket {
  private static let longestTable = 16 << 20

  /// The path of the control socket that process `pid` listens on; nil if it serves none.
  static func path(of pid: Int32) throws(SystemError) -> String? {
    let directory = "/proc/\(pid)/fd"
    var links: Set<String> = []
    for name in try Files.names(in: directory) {
      var target = [UInt8](repeating: 0, count: 64)
      let count = target.withUnsafeMutableBytes {
        readlink("\(directory)/\(name)", $0.baseAddress!, $0.count)
      }
      if count > 0 { links.insert(String(decoding: target[..<count], as: UTF8.self)) }
    }
    let table = String(
      decoding: try Files.contents(of: "/proc/net/unix", atMost: longestTable), as: UTF8.self)
    // Num: RefCount Protocol Flags Type St Inode Path, where Flags say that it listens, and Type
    // that it is of packets.
    for line in table.split(separator: "\n") {
      let fields = line.split(separator: " ", maxSplits: 7)
      guard fields.count == 8, fields[3] == "00010000", fields[4] == "0005",
        links.contains("socket:[\(fields[6])]")
      else { continue }
      return String(fields[7])
    }
    return nil
  }
}
