// SPDX-License-Identifier: Apache-2.0
// What the end-to-end tests write and check: blocks of real files that say who wrote them, which
// one they are and what is in them.

import ArgumentParser
import Glibc

@main
struct RelayLoad: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relay-load", abstract: "Makes, awaits and checks the records of the tests.",
    subcommands: [
      Generate.self, Verify.self, Wait.self, Reader.self, Scribble.self, Insist.self, Persist.self,
      Count.self, Storm.self, Latency.self, Overwrite.self,
    ])
}

/// {magic, writer, sequence, checksum of the rest}, little-endian, and then content.
struct BlockHeader {
  static let byteCount = 16
  static let magic: UInt32 = 0x3144_4c52

  var writer: UInt32
  var sequence: UInt32
  var checksum: UInt32

  func store(to block: UnsafeMutableRawPointer) {
    block.storeBytes(of: BlockHeader.magic.littleEndian, as: UInt32.self)
    block.storeBytes(of: writer.littleEndian, toByteOffset: 4, as: UInt32.self)
    block.storeBytes(of: sequence.littleEndian, toByteOffset: 8, as: UInt32.self)
    block.storeBytes(of: checksum.littleEndian, toByteOffset: 12, as: UInt32.self)
  }

  /// nil: not the start of a block.
  init?(_ block: UnsafeRawPointer) {
    func word(_ offset: Int) -> UInt32 {
      UInt32(littleEndian: block.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }
    guard word(0) == BlockHeader.magic else { return nil }
    self.init(writer: word(4), sequence: word(8), checksum: word(12))
  }

  init(writer: UInt32, sequence: UInt32, checksum: UInt32) {
    self.writer = writer
    self.sequence = sequence
    self.checksum = checksum
  }

  /// A checksum that notices swapped, torn and shifted words.
  static func checksum(_ content: UnsafeRawBufferPointer, _ writer: UInt32, _ sequence: UInt32)
    -> UInt32
  {
    var sum = UInt64(writer) << 32 | UInt64(sequence)
    for i in stride(from: 0, to: content.count - 7, by: 8) {
      let word = content.loadUnaligned(fromByteOffset: i, as: UInt64.self)
      sum = (sum ^ word) &* 0x9e37_79b9_7f4a_7c15
      sum ^= sum >> 29
    }
    return UInt32(truncatingIfNeeded: sum ^ sum >> 32)
  }
}

struct Generate: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Prints blocks cut from files, over and over, until there are enough.")

  @Option(help: "The number that stands in every block.") var writer: UInt32
  @Option(help: "Blocks in all.") var blocks: Int
  @Option(help: "Bytes per block, header included.") var blockSize = 512
  @Argument(help: "Where the content comes from.") var sources: [String]

  func run() throws {
    let content = try sources.flatMap { try readFile($0) }
    let size = blockSize - BlockHeader.byteCount
    guard size >= 8, content.count > size else {
      throw ValidationError("blocks over \(BlockHeader.byteCount + 8) bytes, larger sources")
    }
    let perWrite = max(1, (256 << 10) / blockSize)
    let out = UnsafeMutableRawBufferPointer.allocate(
      byteCount: perWrite * blockSize, alignment: 16)
    var at = Int(writer) &* 7919 % (content.count - size)
    var sequence = 0
    while sequence < blocks {
      let count = min(perWrite, blocks - sequence)
      for i in 0..<count {
        let block = out.baseAddress! + i * blockSize
        let body = block + BlockHeader.byteCount
        content.withUnsafeBytes { body.copyMemory(from: $0.baseAddress! + at, byteCount: size) }
        let number = UInt32(sequence + i)
        let sum = BlockHeader.checksum(
          UnsafeRawBufferPointer(start: body, count: size), writer, number)
        BlockHeader(writer: writer, sequence: number, checksum: sum).store(to: block)
        at = (at + size) % (content.count - size)
      }
      try writeAll(UnsafeRawBufferPointer(rebasing: out[..<(count * blockSize)]))
      sequence += count
    }
  }

  private func writeAll(_ bytes: UnsafeRawBufferPointer) throws {
    var rest = bytes
    while !rest.isEmpty {
      let count = write(STDOUT_FILENO, rest.baseAddress, rest.count)
      guard count > 0 else { throw ExitCode.failure }
      rest = UnsafeRawBufferPointer(rebasing: rest[count...])
    }
  }
}

struct Wait: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Waits until a device is readable (0), or is not and the file exists (1).")

  @Option(help: "A file whose existence means that no more is to come.") var until: String
  @Argument var device: String

  func run() throws {
    let fd = open(device, O_RDONLY)
    guard fd >= 0 else {
      throw ValidationError("open \(device): \(String(cString: strerror(errno)))")
    }
    defer { close(fd) }
    while true {
      let isEnd = access(until, F_OK) == 0
      var poller = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
      let count = poll(&poller, 1, 50)
      if count > 0, poller.revents & Int16(POLLIN) != 0 { return }
      if isEnd || count > 0 { throw ExitCode(1) }
    }
  }
}

func readFile(_ path: String) throws -> [UInt8] {
  let fd = open(path, O_RDONLY)
  guard fd >= 0 else { throw ValidationError("open \(path): \(String(cString: strerror(errno)))") }
  defer { close(fd) }
  var all: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 1 << 20)
  while true {
    let count = read(fd, &buffer, buffer.count)
    guard count >= 0 else { throw ValidationError("read \(path)") }
    if count == 0 { return all }
    all += buffer[..<count]
  }
}
