// SPDX-License-Identifier: Apache-2.0
// A handler with two channels that records what it is asked, and a server on a thread of its own.

import Glibc
import LinuxIO
import Relay
import Synchronization
import Testing

@testable import RelayControl

/// Knows `someChannels`, and refuses everybody the channel "forbidden". Its descriptors are real,
/// so that what arrives can be looked at.
final class Channels: ControlHandler, Sendable {
  static let owner: UInt16 = 513

  let geometry: FileDescriptor
  let ring: FileDescriptor
  let wake: Doorbell
  /// Signalled for each connection that ended.
  let ended: EventFD
  let known = Mutex<[ChannelDescription]>(someChannels)
  /// What was asked, with who asked.
  let calls = Mutex<[(what: String, client: Client)]>([])
  let disconnected = Mutex<[ConnectionID]>([])
  /// Whether resets are finished later, by the test.
  let later = Mutex(false)
  /// Milliseconds of the processor's time that a flush takes.
  let flushMilliseconds = Mutex(0)
  /// What it takes of other threads' time.
  let flushMillisecondsElsewhere = Mutex(0)
  private let elsewhere = Mutex(0)
  /// The process of the last attach.
  let process = Mutex<CInt>(-1)

  init() throws {
    geometry = try MemoryFile.create(name: "geometry", count: 4096)
    try MemoryFile.seal(geometry.raw, [.shrink, .grow, .write, .seal])
    ring = try MemoryFile.create(name: "ring", count: 65_536)
    wake = try Doorbell()
    ended = try EventFD()
  }

  deinit { process.withLock { if $0 >= 0 { Glibc.close($0) } } }

  var nanosecondsElsewhere: Int { elsewhere.withLock { $0 } }

  func attach(
    channel: String, client: Client, process: consuming ProcessHandle
  ) throws(ControlRefusal) -> RelayControl.Attachment {
    try note("attach", channel, client)
    let copy = fcntl(process.raw, F_DUPFD_CLOEXEC, 0)
    self.process.withLock { (last: inout CInt) in
      if last >= 0 { Glibc.close(last) }
      last = copy
    }
    return RelayControl.Attachment(
      owner: Channels.owner, geometry: geometry.raw,
      ring: FileDescriptor(owning: fcntl(ring.raw, F_DUPFD_CLOEXEC, 0)),
      wake: wake.buttonDescriptor,
      life: geometry.raw)
  }

  func grant(channel: String, client: Client) throws(ControlRefusal) {
    try note("grant", channel, client)
  }

  func redeem(
    channel: String, parent: Client, child: PeerCredentials, process: consuming ProcessHandle
  ) throws(ControlRefusal) -> RelayControl.Attachment {
    try note("redeem by \(parent.peer.pid) of", channel, parent)
    return try attach(
      channel: channel, client: Client(connection: parent.connection, peer: child),
      process: process)
  }

  func describe(index: Int, client: Client) -> ChannelDescription? {
    calls.withLock { $0.append(("describe \(index)", client)) }
    return known.withLock { $0.first { $0.serial >= index } }
  }

  func describeDamaged(index: Int, client: Client) -> ChannelDescription? { nil }

  func statistics(
    channel: String, bufferIndex: Int, client: Client
  ) throws(ControlRefusal) -> BufferStatistics? {
    try note("statistics", channel, client)
    return bufferIndex == 0 ? someStatistics : nil
  }

  func producer(serial: Int, index: Int, client: Client) -> ProducerDescription? {
    calls.withLock { $0.append(("producer \(serial) \(index)", client)) }
    return someProducers.first { ($0.serial, $0.index) >= (serial, index) }
  }

  func reader(serial: UInt64, client: Client) -> ReaderDescription? {
    calls.withLock { $0.append(("reader \(serial)", client)) }
    return someReaders.first { $0.serial >= serial }
  }

  func evict(serial: UInt64, client: Client) throws(ControlRefusal) {
    calls.withLock { $0.append(("evict \(serial)", client)) }
  }

  func flush(channel: String, client: Client) throws(ControlRefusal) {
    try note("flush", channel, client)
    work(milliseconds: flushMilliseconds.withLock { $0 })
    let nanoseconds = flushMillisecondsElsewhere.withLock { $0 } * 1_000_000
    elsewhere.withLock { $0 += nanoseconds }
  }

  func reset(channel: String, client: Client) throws(ControlRefusal) -> Completion {
    try note("reset", channel, client)
    let isLater = later.withLock { $0 }
    return isLater ? .later : .now
  }

  func create(
    channel: String, options: String, keep: Bool, client: Client
  ) throws(ControlRefusal) -> Completion {
    calls.withLock { $0.append(("create \(channel):\(options) \(keep)", client)) }
    return .now
  }

  func close(channel: String, client: Client) throws(ControlRefusal) {
    try note("close", channel, client)
  }

  func reload(client: Client) throws(ControlRefusal) {
    throw ControlRefusal(code: EINVAL, message: Channels.reloadRefusal)
  }

  func map(
    channel: String, cpu: Int, unfinished: Bool, descriptorLimit: Int, client: Client
  ) throws(ControlRefusal) -> MappedFiles {
    try note("map \(cpu) \(unfinished)", channel, client)
    do throws(SystemError) {
      return MappedFiles(
        geometry: geometry.raw, ring: try ring.duplicate(), bell: wake.listenerDescriptor)
    } catch { throw ControlRefusal(code: error.code, message: "\(error)") }
  }

  func next(channel: String, cpu: Int, client: Client) throws(ControlRefusal) -> NextPart {
    try note("next \(cpu)", channel, client)
    return cpu == 0 ? .subbuf(someLent) : cpu == 1 ? .nothing : .end
  }

  func consumed(
    channel: String, cpu: Int, count: Int, client: Client
  ) throws(ControlRefusal) {
    try note("consumed \(cpu) \(count)", channel, client)
  }

  func unmap(channel: String, cpu: Int, client: Client) throws(ControlRefusal) {
    try note("unmap \(cpu)", channel, client)
  }

  /// As long as a refusal may be, in several lines.
  static let reloadRefusal = String(
    repeating: "channel relay: n_subbufs changed\n", count: ControlLimits.messageBytes / 33)

  func disconnected(_ connection: ConnectionID) {
    disconnected.withLock { $0.append(connection) }
    ended.signal()
  }

  /// The calls of one kind.
  func calls(_ what: String) -> [Client] {
    calls.withLock { $0.filter { $0.what.hasPrefix(what) }.map(\.client) }
  }

  private func note(
    _ what: String, _ channel: String, _ client: Client
  ) throws(ControlRefusal) {
    calls.withLock { $0.append(("\(what) \(channel)", client)) }
    if channel == "forbidden" {
      throw ControlRefusal(code: EPERM, message: "channel forbidden is not yours")
    }
    if !known.withLock({ $0.contains { $0.name == channel } }) {
      throw ControlRefusal(code: ENOENT, message: "no channel \(channel)")
    }
  }
}

/// Uses the processor for that long.
private func work(milliseconds: Int) {
  let end = ran() + Double(milliseconds) / 1000
  while ran() < end {}
}

private func ran() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// A fresh directory, removed with the files a server may leave.
final class TemporaryDirectory: Sendable {
  let path: String
  var socket: String { path + "/control" }
  private let fifos = Mutex<[String]>([])

  /// Makes a named pipe and returns its path.
  func fifo(_ name: String) -> String {
    let path = "\(path)/\(name)"
    #expect(mkfifo(path, 0o600) == 0)
    fifos.withLock { $0.append(path) }
    return path
  }

  init() {
    var template = Array("/tmp/control-XXXXXX".utf8CString)
    path = template.withUnsafeMutableBufferPointer { String(cString: mkdtemp($0.baseAddress!)) }
  }

  deinit {
    for name in fifos.withLock({ $0 }) { unlink(name) }
    unlink(socket)
    unlink(socket + ".lock")
    rmdir(path)
  }
}

/// A server on its own thread, from init to deinit.
final class LiveServer {
  let directory: TemporaryDirectory
  let channels: Channels
  private let thread: pthread_t
  private let stop: EventFD

  private final class Start: EventHandler, Sendable {
    let path: String
    let channels: Channels
    let limits: ControlServer.Limits
    let started: CInt
    let stop: CInt
    let loop = Mutex<Bool>(false)

    init(
      path: String, channels: Channels, limits: ControlServer.Limits, started: CInt, stop: CInt
    ) {
      self.path = path
      self.channels = channels
      self.limits = limits
      self.started = started
      self.stop = stop
    }

    func handle(_ events: Events, from fd: CInt) { loop.withLock { $0 = true } }

    func run() throws {
      let loop = try EventLoop()
      let server = try ControlServer(
        loop: loop, path: path, handler: channels, limits: limits)
      try loop.add(stop, .read, self)
      EventFD.signal(started)
      while !self.loop.withLock({ $0 }) { try loop.runOnce(timeoutMilliseconds: -1) }
      server.stop()
    }
  }

  init(
    _ limits: ControlServer.Limits = .init(), in directory: TemporaryDirectory = .init()
  ) throws {
    self.directory = directory
    channels = try Channels()
    stop = try EventFD()
    let started = try EventFD()
    let start = Start(
      path: directory.socket, channels: channels, limits: limits, started: started.raw,
      stop: stop.raw)
    var thread = pthread_t()
    let result = pthread_create(
      &thread, nil,
      { context in
        let start = Unmanaged<Start>.fromOpaque(context!).takeRetainedValue()
        do { try start.run() } catch { fatalError("the server failed: \(error)") }
        return nil
      }, Unmanaged.passRetained(start).toOpaque())
    precondition(result == 0)
    self.thread = thread
    _ = Readiness.wait(started.raw, .read, timeoutMilliseconds: -1)
  }

  deinit {
    stop.signal()
    pthread_join(thread, nil)
  }

  func client() throws -> ControlClient { try ControlClient(path: directory.socket) }

  /// Waits until `count` attached connections have ended.
  func waitForEnds(_ count: Int) {
    while channels.disconnected.withLock({ $0.count }) < count {
      let ready = Readiness.wait(channels.ended.raw, .read, timeoutMilliseconds: 10_000)
      guard ready == .read else {
        Issue.record("a connection that ended was not noticed")
        return
      }
      channels.ended.drain()
    }
  }
}

/// A bare connection: packets out, replies in, without waiting.
final class RawClient {
  let socket: FileDescriptor

  init(_ path: String) throws { socket = try UnixSocket.connect(path: path) }

  func send(_ bytes: [UInt8], descriptors: [CInt] = []) throws {
    let sent = try bytes.withUnsafeBytes {
      try UnixSocket.send(socket.raw, $0, descriptors: descriptors, dontWait: true)
    }
    #expect(sent)
  }

  func send(_ request: Request) throws { try send(request.encoded()) }

  /// The reply that has arrived; nil when there is none, or the connection is over.
  func reply() throws -> Reply? {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 8)
    defer { buffer.deallocate() }
    guard let packet = try UnixSocket.receive(socket.raw, into: buffer, dontWait: true),
      packet.count > 0
    else { return nil }
    return try Reply(decoding: UnsafeRawBufferPointer(rebasing: buffer[..<packet.count]).bytes)
  }

  /// Waits for the end: a child that another test starts holds copies of this process's
  /// descriptors until it has called exec.
  func isOver(withinMilliseconds timeout: Int) -> Bool {
    Readiness.wait(socket.raw, .hangup, timeoutMilliseconds: timeout).contains(.hangup)
  }
}

/// The same random bytes for the same seed (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// Random bytes; every other time behind a header that is right, to get past it.
  mutating func packet(limit: Int) -> [UInt8] {
    let count = Int.random(in: 1...limit, using: &self)
    var bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &self) }
    if count >= 8, Bool.random(using: &self) {
      let types: [UInt8] = Array(1...15) + Array(128...135) + [255]
      let type = types.randomElement(using: &self)!
      bytes.replaceSubrange(0..<4, with: [ControlLimits.version, type, 0, 0])
      for shift in 0..<4 {
        bytes[4 + shift] = UInt8(truncatingIfNeeded: (count - 8) >> (8 * shift))
      }
      // Short strings, so that the fields behind them are reached.
      if count >= 10 {
        bytes.replaceSubrange(8..<10, with: [UInt8.random(in: 0...4, using: &self), 0])
      }
    }
    return bytes
  }
}
