// SPDX-License-Identifier: Apache-2.0
// Throughput of read(2) through relayfs, a real relayd and its ring, against a FUSE server that
// answers from a static buffer.

import Glibc
import LinuxIO
import Relay
import RelayControl

struct ReadBench {
  static let readSizes = [64 << 10, 128 << 10]
  static let recordSizes = [256, 64 << 10]
  /// Bytes a sample reads: most of the ring, so that it is all there before the clock starts.
  static let sampleBytes = 60 << 20
  static let channelOptions = "bench:global,subbuf_size=4MiB,n_subbufs=16"
  /// Of the null server's throughput that relayfs has to reach.
  static let target = 0.9

  let cpus: [Int]
  let rounds: Int

  private struct Row {
    let readSize: Int
    let recordSize: Int
    var relayfs = Samples()
    var null = Samples()
  }

  func run() throws {
    say("\nReading, GiB/s: \(ReadBench.sampleBytes >> 20) MiB a sample until read(2) returns 0")
    guard let null = Programs.peer("null_fuse_server") else {
      say("null FUSE server: not built (make bench)")
      return
    }
    let relayd = "\(try Programs.directory)/relayd"
    guard access(relayd, X_OK) == 0 else {
      throw BenchFailure("there is no \(relayd) (make build)")
    }
    var table = Table(
      ["servers", "read(2)", "records", "relayfs", "null server", "relayfs/null", "target"])
    try measure("same CPU", servers: [cpus[0]], reader: [cpus[0]], relayd, null, &table)
    if cpus.count > 1 {
      try measure("other CPU", servers: [cpus[1]], reader: [cpus[0]], relayd, null, &table)
      try measure("unpinned", servers: cpus, reader: cpus, relayd, null, &table)
    }
    table.show()
  }

  private func measure(
    _ place: String, servers: [Int], reader: [Int], _ relayd: String, _ null: String,
    _ table: inout Table
  ) throws {
    defer { try? Affinity.set(cpus) }
    // Inherited by the servers.
    try Affinity.set(servers)
    let files = try ServedFiles(relayd: relayd, null: null)
    try Affinity.set(reader)
    var rows = ReadBench.recordSizes.flatMap { recordSize in
      ReadBench.readSizes.map { Row(readSize: $0, recordSize: recordSize) }
    }
    // The first round touches every page and is not counted.
    for round in 0...rounds {
      for index in rows.indices {
        var row = rows[index]
        try files.fill(recordSize: row.recordSize)
        row.relayfs.add(try files.readAll(files.relayfs, row.readSize))
        row.null.add(try files.readAll(files.null, row.readSize))
        if round > 0 { rows[index] = row }
      }
    }
    for row in rows {
      let ratios = row.relayfs.ratios(to: row.null)
      table.add([
        place, "\(row.readSize >> 10) KiB",
        row.recordSize < 1024 ? "\(row.recordSize) B" : "\(row.recordSize >> 10) KiB",
        row.relayfs.summary(2), row.null.summary(2), ratios.summary(2),
        "≥ \(ReadBench.target.text(1)): \(ratios.median >= ReadBench.target ? "met" : "missed")",
      ])
    }
  }
}

/// Both servers, mounted, and the channel to fill.
private final class ServedFiles {
  let relayfs: String
  let null: String
  private let channel: Channel
  private let client: ControlClient
  private let buffer: UnsafeMutableRawBufferPointer
  // Released before the directory they are mounted in.
  private let servers: [Server]
  private let scratch: Scratch

  init(relayd: String, null nullServer: String) throws {
    let scratch = try Scratch()
    self.scratch = scratch
    let mount = scratch.directory("relayfs")
    let nullMount = scratch.directory("null")
    let socket = "\(scratch.path)/control"
    let relayfs = "\(mount)/bench0"
    let null = "\(nullMount)/null"
    let daemon = try Server([
      relayd, "--backend", "fuse", "--mount", mount, "--socket", socket,
      "--channel", ReadBench.channelOptions,
    ])
    let other = try Server([nullServer, nullMount, "\(ReadBench.sampleBytes)"])
    servers = [daemon, other]
    try daemon.wait { access(relayfs, F_OK) == 0 && access(socket, F_OK) == 0 }
    try other.wait { access(null, F_OK) == 0 }
    self.relayfs = relayfs
    self.null = null
    client = try ControlClient(path: socket)
    channel = try client.attach("bench").take { owner, geometry, ring, wake in
      try Channel.attach("bench", geometry: geometry, ring: ring, wake: wake, owner: owner)
    }
    buffer = .allocate(byteCount: ReadBench.readSizes.max() ?? 0, alignment: 4096)
    buffer.initializeMemory(as: UInt8.self, repeating: 0x72)
  }

  deinit { buffer.deallocate() }

  /// Writes one sample's bytes in records of `recordSize`.
  func fill(recordSize: Int) throws {
    let writer = channel.writer()
    let record = UnsafeRawBufferPointer(rebasing: buffer[..<recordSize])
    for _ in 0..<ReadBench.sampleBytes / recordSize {
      let result = writer.write(record)
      guard result == .written else { throw BenchFailure("filling the channel: \(result)") }
    }
  }

  /// Reads `path` to its end; GiB/s.
  func readAll(_ path: String, _ readSize: Int) throws -> Double {
    let file = try FileDescriptor.open(path, O_RDONLY)
    var total = 0
    let start = nowNanoseconds()
    while true {
      let count = read(file.raw, buffer.baseAddress, readSize)
      guard count >= 0 else { throw SystemError(code: errno, operation: "read \(path)") }
      if count == 0 { break }
      total += count
    }
    let seconds = Double(nowNanoseconds() - start) / 1e9
    guard total == ReadBench.sampleBytes else {
      throw BenchFailure("\(path): \(total) bytes instead of \(ReadBench.sampleBytes)")
    }
    return Double(total) / seconds / Double(1 << 30)
  }
}
