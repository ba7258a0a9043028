// SPDX-License-Identifier: Apache-2.0
// What the log and clients call a process: its number, its command, its user.

internal import LinuxIO
internal import RelayControl

struct ProcessName: CustomStringConvertible {
  /// 0: it has no number in this pid namespace.
  let pid: Int32
  let uid: UInt32

  init(pid: Int32, uid: UInt32) {
    self.pid = pid
    self.uid = uid
  }

  init(_ peer: PeerCredentials) { self.init(pid: peer.pid, uid: peer.uid) }

  /// As in /proc/PID/comm, with what is unprintable escaped, in at most
  /// `ControlLimits.commandBytes`; empty where that cannot be read. Anybody may change their own
  /// at any time.
  var command: String {
    guard pid > 0, let bytes = try? Files.contents(of: "/proc/\(pid)/comm", atMost: 256)
    else { return "" }
    return ProcessName.command(bytes)
  }

  /// - Parameter comm: what that file holds.
  static func command(_ comm: [UInt8]) -> String {
    // The file's own end of line.
    let name = comm.last == UInt8(ascii: "\n") ? comm.dropLast() : comm[...]
    var command = ""
    for scalar in String(decoding: name, as: UTF8.self).unicodeScalars {
      let next = String(scalar).printable
      guard command.utf8.count + next.utf8.count <= ControlLimits.commandBytes else { break }
      command += next
    }
    return command
  }

  var description: String {
    let command = command
    let number = pid > 0 ? "process \(pid)" : "a process of another pid namespace"
    return "\(number)\(command.isEmpty ? "" : " (\(command))") of user \(uid)"
  }
}
