// SPDX-License-Identifier: Apache-2.0
// Files as ordinary programs meet them, served by a real kernel: the same tests on a relayfs mount
// and, where the caller provides it, on CUSE devices.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import DeviceHost
@testable import Relay

private final class Counter: EventHandler {
  var wakes = 0
  func handle(_ events: Events, from fd: CInt) { wakes += 1 }
}

@Suite(.serialized) struct RelayfsOrCuseTests {
  let channel: Channel
  let host: LiveHost
  let path: String

  init() throws {
    channel = try makeChannel("served", subbufSize: 256 << 10)
    host = try LiveHost([("served0", channel)])
    path = host.path("served0")
  }

  @Test func catEndsWhenTheChannelIsDrained() throws {
    channel.write("hello\n")
    #expect(try output("cat", path) == "hello\n")
    #expect(try output("cat", path) == "")
  }

  @Test(arguments: [13, 4096, 65536, 131_072, 1 << 20]) func ddReadsAllInAnyBlockSize(
    _ size: Int
  ) throws {
    var expected = ""
    for index in 0..<min(40_000, size * 200) / 8 {
      let record = String("record \(index)      ".prefix(16))
      channel.write(record)
      expected += record
    }
    #expect(try output("dd", "if=\(path)", "bs=\(size)", "status=none") == expected)
  }

  @Test func aReadLargerThanOneRequestGoesOn() throws {
    let record = String(repeating: "0123456789abcdef", count: 12 << 10)
    channel.write(record)
    let file = try openFile(path)
    #expect(try readOnce(file, 1 << 20) == record)
    #expect(try readOnce(file, 1 << 20) == "")
  }

  @Test func readsOfOneOpenFileGoOnForEver() throws {
    let file = try openFile(path)
    for index in 0..<100 {
      channel.write("line \(index)")
      #expect(try readOnce(file) == "line \(index)")
      #expect(try readOnce(file) == "")
    }
  }

  @Test func openFilesShareOneCursor() throws {
    let first = try openFile(path)
    let second = try openFile(path)
    channel.write("abcdef")
    #expect(try readOnce(first, 2) == "ab")
    #expect(try readOnce(second, 2) == "cd")
    #expect(try readOnce(first, 2) == "ef")
  }

  @Test(arguments: [O_WRONLY, O_RDWR]) func writeAccessIsRefused(_ flags: CInt) throws {
    #expect(throws: SystemError(code: EACCES, operation: "open \(path)")) {
      _ = try openFile(path, flags)
    }
  }

  @Test func thereIsNoPositionToSeekTo() throws {
    let file = try openFile(path)
    channel.write("hello")
    if backend == .cuse {
      #expect(lseek(file.raw, 3, SEEK_SET) == 0, "CUSE answers 0 and moves nothing")
    } else {
      #expect(lseek(file.raw, 3, SEEK_SET) == -1 && errno == ESPIPE)
    }
    #expect(try readOnce(file) == "hello")
  }

  @Test func pollWakesForDataAndForTheEnd() throws {
    let file = try openFile(path)
    var poller = pollfd(fd: file.raw, events: Int16(POLLIN), revents: 0)
    #expect(poll(&poller, 1, 0) == 0)
    channel.write("hello")
    #expect(poll(&poller, 1, 10_000) == 1)
    #expect(poller.revents == Int16(POLLIN))
    #expect(try readOnce(file) == "hello")
    channel.close()
    #expect(poll(&poller, 1, 10_000) == 1)
    #expect(poller.revents == Int16(POLLHUP))
    #expect(try readOnce(file) == "")
  }

  @Test func epollWakesForEachArrival() throws {
    let file = try openFile(path)
    let loop = try EventLoop()
    let counter = Counter()
    try loop.add(file.raw, .read, counter)
    for index in 0..<20 {
      // Asks the server once more; from now on only its word wakes the loop.
      try loop.runOnce(timeoutMilliseconds: 0)
      #expect(counter.wakes == index)
      channel.write("line \(index)")
      try loop.runOnce(timeoutMilliseconds: 10_000)
      #expect(try readOnce(file) == "line \(index)")
    }
    #expect(counter.wakes == 20)
  }

  @Test func aLostSignalDelaysAReaderButDoesNotWedgeIt() throws {
    // Reserved first: starting a sub-buffer may signal, too.
    let writer = channel.writer()
    guard case .reserved(let reservation) = writer.reserve(5) else {
      Issue.record("no space")
      return
    }
    let file = try openFile(path)
    let loop = try EventLoop()
    let counter = Counter()
    try loop.add(file.raw, .read, counter)
    try loop.runOnce(timeoutMilliseconds: 0)
    // What a writer leaves that is killed between its commit and its signal.
    reservation.bytes.copyBytes(from: Array("hello".utf8))
    channel.buffers[0].waiters.pointee.store(0, ordering: .relaxed)
    reservation.commit()
    try loop.runOnce(timeoutMilliseconds: 10_000)
    #expect(counter.wakes == 1)
    #expect(try readOnce(file) == "hello")
  }

  @Test func stoppingTakesTheFilesAway() throws {
    let file = try openFile(path)
    channel.write("hello")
    host.stop()
    #expect(access(path, F_OK) != 0)
    #expect(throws: SystemError.self) { try readOnce(file) }
  }
}
