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
  }

  @Option(help: "What it asks.") var kind: Kind
  @Option(help: "Connections that each have a request under way.") var connections = 120
  @Argument(help: "A channel.") var channel: String

  func run() throws {
    // As in storm.c.
    setpgid(0, 0)
    let packet = UnsafeMutableRawBufferPointer.allocate(
      byteCount: ControlLimits.packetBytes, alignment: 8)
    let request =
      switch kind {
      case .stat: try Request.stat(channel: channel, bufferIndex: 0).encoded()
      case .list, .connect: try Request.list(index: 0).encoded()
      case .readers: try Request.reader(serial: 0).encoded()
      }
    var isFirst = true
    var sockets = try connect()
    while true {
      for socket in sockets { try send(request, socket) }
      for socket in sockets { try receive(socket, packet) }
      if isFirst {
        print("storming")
        fflush(nil)
        isFirst = false
      }
      guard kind == .connect else { continue }
      for socket in sockets { close(socket) }
      sockets = try connect()
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
