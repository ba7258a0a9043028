// SPDX-License-Identifier: Apache-2.0
// The servers of the read benchmark, running and mounted, and their files filled and read.

import Glibc
import LinuxIO
import Relay
import RelayControl

final class ServedFiles {
  /// Where a null server's bytes come from.
  enum NullMemory: String, CaseIterable {
    case sameMemory, oneBuffer

    func byteCount(_ ring: BenchRing) -> Int { self == .sameMemory ? ring.byteCount : 128 << 10 }
  }

  private let effort: Effort
  private let nullMounts: String
  private let channels: [String: Channel]
  private let client: ControlClient
  private let buffer: UnsafeMutableRawBufferPointer
  // Released before the directory they are mounted in.
  private let daemon: BenchDaemon
  private let servers: [Server]
  private let scratch: Scratch

  /// Starts relayd with every ring, and two null servers for each.
  /// - Parameter effort: how many fills are a sample.
  init(null: String, effort: Effort) throws {
    self.effort = effort
    let scratch = try Scratch()
    let nullMounts = scratch.directory("null")
    daemon = try BenchDaemon(
      scratch, channels: ReadBench.rings.map(\.option), files: ReadBench.rings.map(\.file))
    var servers: [Server] = []
    for ring in ReadBench.rings {
      for memory in NullMemory.allCases {
        let mount = scratch.directory("null/\(ring.channel)-\(memory)")
        let server = try Server([null, mount, "\(ring.fillBytes)", "\(memory.byteCount(ring))"])
        try server.wait { access("\(mount)/null", F_OK) == 0 }
        servers.append(server)
      }
    }
    let client = try ControlClient(path: daemon.socket)
    channels = try Dictionary(
      uniqueKeysWithValues: ReadBench.rings.map { ring in
        (ring.channel, try Channel.attach(client.attach(ring.channel)))
      })
    self.scratch = scratch
    self.nullMounts = nullMounts
    self.servers = servers
    self.client = client
    buffer = .allocate(byteCount: ReadBench.readSizes.max() ?? 0, alignment: 4096)
    buffer.initializeMemory(as: UInt8.self, repeating: 0x72)
  }

  deinit { buffer.deallocate() }

  /// Fills the ring and reads it empty, again and again; only the reading is timed. GiB/s.
  func readRelayfs(_ ring: BenchRing, _ readSize: Int, recordSize: Int) throws -> Double {
    guard let channel = channels[ring.channel] else { return 0 }
    let writer = channel.writer()
    let record = UnsafeMutableRawBufferPointer.allocate(byteCount: recordSize, alignment: 64)
    defer { record.deallocate() }
    record.initializeMemory(as: UInt8.self, repeating: 0x72)
    return try throughput(ring, "\(daemon.mount)/\(ring.file)", readSize) {
      for _ in 0..<ring.fillBytes / recordSize {
        let result = writer.write(UnsafeRawBufferPointer(record))
        guard result == .written else { throw BenchFailure("filling \(ring.file): \(result)") }
      }
      return ring.fillBytes / recordSize * recordSize
    }
  }

  /// The same from a null server, which needs no filling. GiB/s.
  func readNull(_ ring: BenchRing, _ readSize: Int, _ memory: NullMemory) throws -> Double {
    try throughput(ring, "\(nullMounts)/\(ring.channel)-\(memory)/null", readSize) {
      ring.fillBytes
    }
  }

  private func throughput(
    _ ring: BenchRing, _ path: String, _ readSize: Int, _ fill: () throws -> Int
  ) throws -> Double {
    var bytes = 0
    var elapsed = 0
    for _ in 0..<effort.count(ring.fills) {
      let expected = try fill()
      let file = try FileDescriptor.open(path, O_RDONLY)
      var total = 0
      let start = nowNanoseconds()
      while true {
        let count = read(file.raw, buffer.baseAddress, readSize)
        guard count >= 0 else { throw SystemError(code: errno, operation: "read \(path)") }
        if count == 0 { break }
        total += count
      }
      elapsed += nowNanoseconds() - start
      guard total == expected else {
        throw BenchFailure("\(path): \(total) bytes instead of \(expected)")
      }
      bytes += total
    }
    return Double(bytes) / Double(1 << 30) / (Double(elapsed) / 1e9)
  }
}
