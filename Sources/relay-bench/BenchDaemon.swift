// SPDX-License-Identifier: Apache-2.0
// A relayd of this run's own, with its files in a mount of its own.

import Glibc

final class BenchDaemon {
  let socket: String
  /// Where its files are.
  let mount: String
  private let server: Server

  /// Starts the relayd beside this program, and waits until it serves.
  /// - Parameters:
  ///   - channels: as relayd's --channel takes them.
  ///   - files: some of the files that are there when it serves.
  init(_ scratch: Scratch, channels: [String], files: [String]) throws {
    let socket = "\(scratch.path)/control"
    let mount = scratch.directory("relayfs")
    server = try Server(
      [try Programs.sibling("relayd"), "--backend", "fuse", "--mount", mount, "--socket", socket]
        + channels.flatMap { ["--channel", $0] })
    try server.wait {
      access(socket, F_OK) == 0 && files.allSatisfy { access("\(mount)/\($0)", F_OK) == 0 }
    }
    self.socket = socket
    self.mount = mount
  }
}
