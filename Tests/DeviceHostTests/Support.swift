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

/// A fresh directory, mostly to mount on; whoever puts files there removes them.
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

/// Serves channels, one device each, from init to `stop`.
final class LiveHost {
  let mountPoint = MountPoint()
  let notices = Notices()
  let host: DeviceHost
  private(set) var devices: [Device] = []
  private var isStopped = false

  final class Notices: Sendable {
    let lines = Mutex<[String]>([])
  }

  init(
    _ channels: [(name: String, channel: Channel)], options: FileOptions = FileOptions(),
    threadCount: Int = 2, readerShare: Share = Share(of: 100, perUser: nil)
  ) throws {
    host = try DeviceHost(
      backend: backend, mountPoint: mountPoint.path, threadCount: threadCount,
      readers: readerShare,
      log: { [notices] line, _, _ in
        notices.lines.withLock { $0.append(line) }
        return true
      },
      logUse: { [notices] line, _ in notices.lines.withLock { $0.append(line) } })
    devices = channels.map {
      Device(name: $0.name, reader: Reader($0.channel, $0.channel.buffers[0]), options: options)
    }
    try host.start()
    do {
      try host.add(devices)
    } catch {
      host.stop()
      throw error
    }
  }

  func path(_ name: String) -> String { host.pathPrefix + name }

  func stop() {
    guard !isStopped else { return }
    isStopped = true
    host.stop()
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
    backend: backend, mountPoint: mountPoint, threadCount: 2, log: { _, _, _ in true },
    logUse: { _, _ in })
  do {
    try host.start()
    try host.add(
      names.map { name in
        let channel = try makeChannel(name)
        return Device(name: name, reader: Reader(channel, channel.buffers[0]))
      })
    host.stop()
    return nil
  } catch {
    host.stop()
    return "\(error)"
  }
}
