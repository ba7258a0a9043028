// SPDX-License-Identifier: Apache-2.0
// A producer that goes on whatever becomes of its daemon, and counts.

import ArgumentParser
import Glibc
import Relay
import RelayControl

struct Count: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes a record of 8 bytes each millisecond until its input ends.")

  @Argument(help: "A channel of the relayd at $RELAY_SOCKET.") var name: String

  func run() throws {
    let writer = try Channel.attach(ControlClient().attach(name)).writer()
    let record = [UInt8](repeating: 0x78, count: 8)
    var counts = (written: 0, refused: 0)
    print("ready")
    fflush(nil)
    var input = pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0)
    while poll(&input, 1, 1) == 0 {
      let result = record.withUnsafeBytes { writer.write($0) }
      if result == .written { counts.written += 1 } else { counts.refused += 1 }
    }
    print(counts.written, counts.refused)
  }
}
