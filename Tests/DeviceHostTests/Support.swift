// SPDX-License-Identifier: Apache-2.0
// What the tests share: small channels, and a host on a thread of its own.

import Glibc
import LinuxIO
import Relay
import Synchronization
import Testing

@testable import DeviceHost

func makeChannel(
  _ name: String = "test", subbufSize: Int = 64 << 10, subbufCount: Int = 4
) throws -> Channel {
  try Channel.open(
    name,
    Geometry(
      subbufSize: subbufSize, subbufCount: subbufCount, isGlobal: true, online: CPUSet([0]),
      possible: CPUSet([0])))
}

extension Channel {
  func write(_ text: String) {
    let result = text.utf8.withContiguousStorageIfAvailable {
      writer().write(UnsafeRawBufferPointer($0))
    }
    #expect(result == .written)
  }
}

/// Which front end this run is about: real CUSE where the caller provides it, else relayfs.
let backend: HostBackend =
  getenv("RELAY_TEST_BACKEND").map { String(cString: $0) } == "cuse" ? .cuse : .fuse

/// A fresh directory to mount on.
final class MountPoint: Sendable {
  let path: String

  init() {
    var template = Array("/tmp/relayfs-XXXXXX".utf8CString)
    path = template.withUnsafeMutableBufferPointer { String(cString: mkdtemp($0.baseAddress!)) }
  }

  deinit { rmdir(path) }

  /// Whether something is mounted on it.
  var isMounted: Bool {
    var own = stat()
    var parent = stat()
    return stat(path, &own) != 0 || stat(path + "/..", &parent) != 0 || own.st_dev != parent.st_dev
  }
}

/// Serves channels, one device each, on its own thread from init to `stop`.
final class LiveHost {
  let mountPoint = MountPoint()
  let notices: Notices
  private let thread: pthread_t
  private let stopEvent: EventFD
  private var isStopped = false

  final class Notices: Sendable {
    let lines = Mutex<[String]>([])
  }

  private final class Start: EventHandler, Sendable {
    let backend: HostBackend
    let path: String
    let channels: [(name: String, channel: Channel)]
    let notices: Notices
    let started: CInt
    let stop: CInt
    let failure = Mutex<String?>(nil)
    private let isStopped = Mutex(false)

    init(
      _ backend: HostBackend, _ path: String, _ channels: [(name: String, channel: Channel)],
      _ notices: Notices, started: CInt, stop: CInt
    ) {
      self.backend = backend
      self.path = path
      self.channels = channels
      self.notices = notices
      self.started = started
      self.stop = stop
    }

    func handle(_ events: Events, from fd: CInt) { isStopped.withLock { $0 = true } }

    func run() throws {
      let loop = try EventLoop()
      let host = try DeviceHost(backend: backend, mountPoint: path, loop: loop) { [notices] line in
        notices.lines.withLock { $0.append(line) }
      }
      try host.serve(
        channels.map {
          Device(name: $0.name, reader: Reader($0.channel, $0.channel.buffers[0]))
        })
      try loop.add(stop, .read, self)
      EventFD.signal(started)
      while !isStopped.withLock({ $0 }) { try loop.runOnce(timeoutMilliseconds: -1) }
      host.stop()
    }
  }

  init(_ channels: [(name: String, channel: Channel)]) throws {
    notices = Notices()
    stopEvent = try EventFD()
    let started = try EventFD()
    let start = Start(
      backend, mountPoint.path, channels, notices, started: started.raw, stop: stopEvent.raw)
    var thread = pthread_t()
    let result = pthread_create(
      &thread, nil,
      { context in
        let start = Unmanaged<Start>.fromOpaque(context!).takeRetainedValue()
        do {
          try start.run()
        } catch {
          start.failure.withLock { $0 = "\(error)" }
          EventFD.signal(start.started)
        }
        return nil
      }, Unmanaged.passRetained(start).toOpaque())
    precondition(result == 0)
    self.thread = thread
    _ = Readiness.wait(started.raw, .read, timeoutMilliseconds: -1)
    if let failure = start.failure.withLock({ $0 }) { throw HostError(description: failure) }
  }

  func path(_ name: String) -> String {
    (backend == .cuse ? "/dev/" : mountPoint.path + "/") + name
  }

  func stop() {
    guard !isStopped else { return }
    isStopped = true
    stopEvent.signal()
    pthread_join(thread, nil)
  }

  deinit { stop() }
}

/// A file open for reading only, as any reader has it.
func openFile(_ path: String, _ flags: CInt = O_RDONLY) throws -> FileDescriptor {
  try FileDescriptor.open(path, flags)
}

/// One read(2), or what it failed with.
func readOnce(_ file: borrowing FileDescriptor, _ size: Int = 65536) throws -> String {
  var bytes = [UInt8](repeating: 0, count: size)
  let count = read(file.raw, &bytes, size)
  if count < 0 { throw SystemError(code: errno, operation: "read") }
  return String(decoding: bytes[..<count], as: UTF8.self)
}

/// What a program prints on its standard output.
func output(_ arguments: String...) throws -> String {
  let output = try MemoryFile.create(name: "output", count: 0)
  let null = try FileDescriptor.open("/dev/null", O_RDWR)
  let child = try ChildProcess(arguments, input: null.raw, output: output.raw, error: null.raw)
  #expect(child.wait() == 0)
  var bytes = [UInt8](repeating: 0, count: try MemoryFile.count(of: output.raw))
  #expect(pread(output.raw, &bytes, bytes.count, 0) == bytes.count)
  return String(decoding: bytes, as: UTF8.self)
}

/// What bringing these devices up fails with; nil when it does not.
func failure(
  _ backend: HostBackend, mountPoint: String = "/nonexistent", _ names: [String]
) throws -> String? {
  let host = try DeviceHost(
    backend: backend, mountPoint: mountPoint, loop: EventLoop(), log: { _ in })
  do {
    try host.serve(
      names.map { name in
        let channel = try makeChannel(name)
        return Device(name: name, reader: Reader(channel, channel.buffers[0]))
      })
    host.stop()
    return nil
  } catch {
    return "\(error)"
  }
}
