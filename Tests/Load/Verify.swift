// SPDX-License-Identifier: Apache-2.0
// Checks what readers got: every block whole, in order per writer within one stream, no block
// twice over all streams.

import ArgumentParser
import Glibc

struct Verify: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Checks streams of blocks, one after the other as they end.",
    discussion: "Prints one line per writer: its number, the blocks seen, the highest sequence.")

  @Option(help: "Bytes per block, header included.") var blockSize = 512
  @Argument(help: "Files or pipes, each what one buffer's readers got.") var streams: [String]

  func run() throws {
    let threads = streams.map { path in
      let fd = open(path, O_RDONLY)
      let reader = StreamReader(path: path, fd: fd, blockSize: blockSize)
      reader.start()
      return reader
    }
    var all: [UInt32: [UInt32]] = [:]
    var failures: [String] = []
    for thread in threads {
      thread.join()
      failures += thread.failures
      for (writer, sequences) in thread.seen { all[writer, default: []] += sequences }
    }
    for (writer, var sequences) in all.sorted(by: { $0.key < $1.key }) {
      sequences.sort()
      for (a, b) in zip(sequences, sequences.dropFirst()) where a == b {
        failures.append("writer \(writer): block \(a) twice")
      }
      print("writer \(writer) blocks \(sequences.count) highest \(sequences.last!)")
    }
    for failure in failures.prefix(10) { print("FAILED: \(failure)") }
    if !failures.isEmpty { throw ExitCode.failure }
  }
}

/// Reads one stream in a thread of its own, so that no pipe waits for another.
// Sendable: read only after join().
final class StreamReader: @unchecked Sendable {
  let path: String
  let fd: CInt
  let blockSize: Int
  private(set) var seen: [UInt32: [UInt32]] = [:]
  private(set) var failures: [String] = []
  private var handle = pthread_t()

  init(path: String, fd: CInt, blockSize: Int) {
    self.path = path
    self.fd = fd
    self.blockSize = blockSize
  }

  func start() {
    pthread_create(
      &handle, nil,
      { argument in
        Unmanaged<StreamReader>.fromOpaque(argument!).takeRetainedValue().run()
        return nil
      }, Unmanaged.passRetained(self).toOpaque())
  }

  func join() { pthread_join(handle, nil) }

  private func run() {
    guard fd >= 0 else {
      failures.append("cannot open \(path)")
      return
    }
    let buffer = UnsafeMutableRawBufferPointer.allocate(
      byteCount: blockSize * 512, alignment: 16)
    defer { buffer.deallocate() }
    var filled = 0
    var offset = 0
    while true {
      let count = read(fd, buffer.baseAddress! + filled, buffer.count - filled)
      guard count > 0 else { break }
      filled += count
      let whole = filled / blockSize * blockSize
      for at in stride(from: 0, to: whole, by: blockSize) {
        guard check(UnsafeRawBufferPointer(rebasing: buffer[at..<at + blockSize])) else {
          failures.append("\(path): a damaged block at byte \(offset + at)")
          return
        }
      }
      memmove(buffer.baseAddress!, buffer.baseAddress! + whole, filled - whole)
      offset += whole
      filled -= whole
    }
    if filled > 0 { failures.append("\(path): \(filled) bytes of a block at its end") }
  }

  private func check(_ block: UnsafeRawBufferPointer) -> Bool {
    guard let header = BlockHeader(block.baseAddress!) else { return false }
    let content = UnsafeRawBufferPointer(rebasing: block[BlockHeader.byteCount...])
    guard BlockHeader.checksum(content, header.writer, header.sequence) == header.checksum else {
      return false
    }
    if let last = seen[header.writer]?.last, last >= header.sequence {
      failures.append(
        "\(path): writer \(header.writer): block \(header.sequence) after \(last)")
    }
    seen[header.writer, default: []].append(header.sequence)
    return true
  }
}
