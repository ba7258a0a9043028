// SPDX-License-Identifier: Apache-2.0
// A producer that sees nothing of what becomes of relayd meanwhile, or fails.

import ArgumentParser
import Glibc
import Relay

struct Persist: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes blocks into a channel for some time; the first that is refused is a failure.",
    discussion: "Prints its number and how many blocks it wrote.")

  @OptionGroup var attachment: Attachment
  @Option(help: "The number that stands in every block.") var writer: UInt32
  @Option(help: "Ends earlier, once this file is there.") var until: String
  @Option(help: "Bytes per block, header included.") var blockSize = 64
  @Option(help: "Microseconds between two blocks.") var pause: UInt32 = 1000

  func run() throws {
    let deadline = attachment.deadline
    let channel = try attachment.attach()
    let records = channel.writer()
    let block = UnsafeMutableRawBufferPointer.allocate(byteCount: blockSize, alignment: 16)
    let body = UnsafeMutableRawBufferPointer(rebasing: block[BlockHeader.byteCount...])
    var sequence: UInt32 = 0
    while now(CLOCK_MONOTONIC) < deadline, access(until, F_OK) != 0 {
      for i in body.indices { body[i] = UInt8(truncatingIfNeeded: Int(sequence) &* 31 &+ i) }
      let sum = BlockHeader.checksum(UnsafeRawBufferPointer(body), writer, sequence)
      BlockHeader(writer: writer, sequence: sequence, checksum: sum).store(
        to: block.baseAddress!)
      let result = records.write(UnsafeRawBufferPointer(block))
      guard result == .written else {
        print("writer \(writer): block \(sequence) is refused: \(result)")
        throw ExitCode.failure
      }
      sequence += 1
      // Its pace; nothing waits for anything here.
      usleep(pause)
    }
    print("writer \(writer) blocks \(sequence) highest \(Int(sequence) - 1)")
  }
}
