// SPDX-License-Identifier: Apache-2.0
// An ordinary user's storm at the control socket, and what another channel's reader, and root's
// list, notice of a storm. Those at the devices are Tests/Clients/storm.c.

import ArgumentParser
import CLinux
import Glibc
import LinuxIO
import Relay
import RelayControl

struct Storm: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Asks the relayd at $RELAY_SOCKET one thing as often as it can, until it is killed.")

  enum Kind: String, ExpressibleByArgument, CaseIterable {
    case stat, list, connect, readers
    /// Of a channel of its own, in which much was written.
    case reset
    /// Channels of its own that are closed at once; the latter 36 MiB each.
    case create, prefault
  }

  @Option(help: "What it asks.") var kind: Kind
  @Option(help: "Connections that each have a request under way.") var connections = 120
  @Argument(help: "A channel.") var channel: String

  func run() throws {
    // As in storm.c.
    setpgid(0, 0)
    let packet = UnsafeMutableRawBufferPointer.allocate(
      byteCount: ControlLimits.packetBytes, alignment: 8)
    if kind == .reset { try fillOwnChannel() }
    var turn = 0
    var sockets = try connect()
    while true {
      for (index, socket) in sockets.enumerated() {
        try send(try request(index, turn).encoded(), socket)
      }
      for socket in sockets { try receive(socket, packet) }
      turn += 1
      if turn == 1 {
        print("storming")
        fflush(nil)
      }
      guard kind == .connect else { continue }
      for socket in sockets { close(socket) }
      sockets = try connect()
    }
  }

  /// What the connection of that index asks.
  private func request(_ index: Int, _ turn: Int) -> Request {
    switch kind {
    case .stat: return .stat(channel: channel, bufferIndex: 0)
    case .list, .connect: return .list(index: 0)
    case .readers: return .reader(serial: 0)
    case .reset: return .reset(channel: Storm.ownChannel)
    case .create, .prefault:
      let name = "\(kind)\(index)_"
      guard turn % 2 == 0 else { return .close(channel: name) }
      let options =
        kind == .create
        ? "subbuf_size=4KiB,n_subbufs=2" : "subbuf_size=4MiB,n_subbufs=8,prefault"
      return .create(channel: name, options: "global,\(options)", keep: true)
    }
  }

  private static let ownChannel = "mine"

  /// Has 64 MiB of index words that a reset looks at.
  private func fillOwnChannel() throws {
    let client = try ControlClient()
    try client.create(
      Storm.ownChannel, options: "global,subbuf_size=8MiB,n_subbufs=12", keep: true)
    let writer = try Channel.attach(client.attach(Storm.ownChannel)).writer()
    let record = [UInt8](repeating: 0x78, count: 8)
    for _ in 0..<(8 << 20) {
      guard record.withUnsafeBytes({ writer.write($0) }) == .written else {
        throw ValidationError("the channel takes no record")
      }
    }
  }

  private func connect() throws -> [CInt] {
    try (0..<connections).map { _ in
      let socket = try UnixSocket.connect(path: ControlClient.defaultPath)
      return socket.take()
    }
  }

  private func send(_ request: [UInt8], _ socket: CInt) throws {
    _ = try request.withUnsafeBytes { try UnixSocket.send(socket, $0) }
  }

  private func receive(_ socket: CInt, _ packet: UnsafeMutableRawBufferPointer) throws {
    guard let received = try UnixSocket.receive(socket, into: packet), received.count > 0 else {
      throw ValidationError("relayd closed a connection")
    }
    let bytes = UnsafeRawBufferPointer(rebasing: packet[..<received.count]).bytes
    if case .refused(let refusal) = try Reply(decoding: bytes) {
      throw ValidationError(refusal.message)
    }
  }
}

struct Latency: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract:
      "Measures reads of a device with data, and root's list, while one or another storm runs.",
    discussion: """
      Prints in nanoseconds: the 99th percentile of the reads in the storm, the same in the other \
      storm, and the longest list in the storm.
      """)

  @OptionGroup var attachment: Attachment
  @Option(help: "The channel's device.") var device: String
  @Option(help: "The process group of the storm.") var storm: Int32
  @Option(help: "That of the other storm.") var otherStorm: Int32

  /// As short as lets both storms meet the same of what else the machine does.
  private static let turnMilliseconds = 25
  /// Not measured: signals stop and continue the storms' processes, which takes the kernel a moment
  /// that nothing announces.
  private static let settlingMicroseconds: UInt32 = 3000
  func run() throws {
    let client = try ControlClient()
    let writer = try attachment.attach().writer()
    let fd = open(device, O_RDONLY)
    guard fd >= 0 else { throw ValidationError("\(device): \(String(cString: strerror(errno)))") }
    let record = [UInt8](repeating: 0x78, count: 64)
    var buffer = [UInt8](repeating: 0, count: 4096)
    var reads: [Bool: [Int]] = [true: [], false: []]
    var longestList = 0
    var isStorm = true
    let deadline = attachment.deadline
    while now(CLOCK_MONOTONIC) < deadline {
      kill(-otherStorm, isStorm ? SIGSTOP : SIGCONT)
      kill(-storm, isStorm ? SIGCONT : SIGSTOP)
      usleep(Latency.settlingMicroseconds)
      let end = now(CLOCK_MONOTONIC) + Latency.turnMilliseconds
      while now(CLOCK_MONOTONIC) < end {
        guard record.withUnsafeBytes({ writer.write($0) }) == .written else {
          throw ValidationError("the channel takes no record")
        }
        let start = nanoseconds()
        guard read(fd, &buffer, buffer.count) == record.count else {
          throw ValidationError("not the record was read")
        }
        reads[isStorm]!.append(nanoseconds() - start)
        // The pace of the records, as a producer's; there is nothing to wait for.
        usleep(100)
      }
      if isStorm {
        let start = nanoseconds()
        _ = try client.list()
        longestList = max(longestList, nanoseconds() - start)
      }
      isStorm.toggle()
    }
    print(percentile(reads[true]!), percentile(reads[false]!), longestList)
  }

  private func percentile(_ reads: [Int]) -> Int { reads.sorted()[reads.count * 99 / 100] }

  private func nanoseconds() -> Int {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec * 1_000_000_000 + now.tv_nsec
  }
}
