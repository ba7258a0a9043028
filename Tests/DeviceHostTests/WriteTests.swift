// SPDX-License-Identifier: Apache-2.0
// Writes to a device, request by request: records, refusals, and who waits for room.

import CRelayIoctl
import Glibc
import Relay
import Testing

@testable import DeviceHost

@Suite struct WriteTests {
  let kernel: FakeKernel
  let file: UInt64
  let writable = POLLOUT | POLLWRNORM
  static let subbufSize = 16 << 10

  init() throws {
    var options = FileOptions()
    options.isWritable = true
    kernel = try FakeKernel(subbufSize: WriteTests.subbufSize, options: options)
    file = try kernel.open(O_WRONLY)
  }

  private let whole = [UInt8](repeating: 0x78, count: WriteTests.subbufSize)

  private func write(_ text: String) throws -> Int { try kernel.write(file, Array(text.utf8)) }

  private func fill() throws {
    for _ in 0..<4 { #expect(try kernel.write(file, whole) == whole.count) }
  }

  /// Sends a write that is not answered yet, and returns its number.
  private func wait(_ record: [UInt8]) throws -> UInt64 {
    #expect(try kernel.exchange(.write, FakeKernel.write(file, record)) == [])
    return kernel.lastUnique
  }

  private func wait(_ text: String) throws -> UInt64 { try wait(Array(text.utf8)) }

  private func written(_ unique: UInt64, _ count: Int) -> Message {
    Message(unique: unique, code: 0, body: bytes(UInt32(count), UInt32(0)))
  }

  /// Reads until one sub-buffer is free; what it answers beside the read.
  private func freeOne() throws -> [Message] {
    let reader = try kernel.open()
    let messages = try kernel.exchange(.read, FakeKernel.read(reader, whole.count))
    let read = kernel.lastUnique
    #expect(messages.contains { $0.unique == read && $0.body.count == whole.count })
    try kernel.release(reader)
    return messages.filter { $0.unique != read }
  }

  private var statistics: Statistics { kernel.device.reader.statistics() }

  @Test func aWriteIsARecord() throws {
    for text in ["one", "three"] { #expect(try write(text) == text.utf8.count) }
    #expect(statistics.recordsWritten == 2)
    let reader = try kernel.open()
    #expect(try kernel.control(reader, crelay_ioc_frames, 1) == 0)
    let frames = try kernel.ask(.read, FakeKernel.read(reader, 4096)).body
    let size = MemoryLayout<relay_frame>.size
    let lengths = frames.withUnsafeBytes { frames in
      [0, size + 8].map { frames.loadUnaligned(fromByteOffset: $0, as: relay_frame.self).length }
    }
    #expect(lengths == [3, 5])
  }

  @Test func bothAccessesGoThroughOneFile() throws {
    let both = try kernel.open(O_RDWR)
    #expect(try kernel.write(both, Array("hello".utf8)) == 5)
    #expect(try kernel.read(both, 100) == "hello")
    #expect(try kernel.ask(.open, bytes(UInt32(O_ACCMODE), UInt32(0))).code == -EACCES)
  }

  @Test func whatDoesNotFitIsRefusedAndNotStored() throws {
    for flags in [0, O_NONBLOCK] {
      #expect(try kernel.write(file, whole + [0], flags: flags) == -Int(EMSGSIZE))
    }
    #expect(try kernel.write(file, whole) == whole.count)
    #expect(statistics.recordsWritten == 1 && statistics.lostTooBig == 0)
  }

  /// The kernel sends a long write(2) in parts and does not say so with the first one.
  @Test func whatMayBeThePartOfAWriteIsRefused() throws {
    var options = FileOptions()
    options.isWritable = true
    let kernel = try FakeKernel(subbufSize: 256 << 10, options: options)
    let file = try kernel.open(O_WRONLY)
    let longest = [UInt8](repeating: 0, count: 31 * 4096)
    #expect(try kernel.write(file, longest + [0]) == -Int(EMSGSIZE))
    #expect(try kernel.write(file, longest) == longest.count)
    for flags in [0, O_APPEND] {
      #expect(try kernel.write(file, [0], at: 320, flags: flags) == -Int(EINVAL))
    }
    #expect(kernel.device.reader.statistics().recordsWritten == 1)
  }

  @Test func aFullBufferSaysSoAndNothingIsLost() throws {
    try fill()
    #expect(try write("more") == -Int(EAGAIN))
    #expect(statistics.lostFull == 0 && statistics.recordsWritten == 4)
    #expect(try freeOne() == [])
    #expect(try write("more") == 4)
  }

  @Test func whoWaitsIsServedInTurn() throws {
    try fill()
    let waiting = [try wait("first"), try wait(whole), try wait("third")]
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    #expect(try freeOne() == [written(waiting[0], 5)])
    #expect(try write("fourth") == -Int(EAGAIN), "there is room, but not for who came before")
    #expect(try kernel.poll(file, nil, for: POLLOUT) == 0)
    #expect(try freeOne() == [written(waiting[1], whole.count)])
    #expect(try freeOne() == [written(waiting[2], 5)])
    #expect(try write("fourth") == 6)
    #expect(statistics.recordsWritten == 8 && statistics.lostFull == 0)
  }

  @Test func aResetMakesRoom() throws {
    try fill()
    let waiting = try wait("first")
    kernel.device.reader.reset()
    kernel.device.wake()
    #expect(try kernel.messages() == [written(waiting, 5)])
  }

  @Test func aSignalGetsTheWriterOut() throws {
    try fill()
    let waiting = try wait("first")
    #expect(
      try kernel.exchange(.interrupt, bytes(waiting))
        == [Message(unique: waiting, code: -EINTR, body: [])])
    #expect(try freeOne() == [])
    #expect(statistics.recordsWritten == 4)
    #expect(!kernel.device.isAwaited)
  }

  @Test func closingEndsTheWaitAndRefusesWhatComesLater() throws {
    try fill()
    let waiting = [try wait("first"), try wait("second")]
    kernel.channel.close()
    kernel.device.wake()
    #expect(try kernel.messages() == waiting.map { Message(unique: $0, code: -EPIPE, body: []) })
    #expect(try write("third") == -Int(EPIPE))
    #expect(try kernel.poll(file, nil, for: POLLOUT) == POLLERR | POLLHUP)
  }

  @Test func aDeviceThatIsTakenAwayAnswersWhoWaits() throws {
    try fill()
    let waiting = try wait("first")
    kernel.takeAway()
    #expect(try kernel.messages() == [Message(unique: waiting, code: -ENODEV, body: [])])
  }

  @Test func whatWaitsHasABound() throws {
    var options = FileOptions()
    options.isWritable = true
    let kernel = try FakeKernel(subbufSize: 31 * 4096, options: options)
    let file = try kernel.open(O_WRONLY)
    let record = [UInt8](repeating: 0, count: 31 * 4096)
    let request = FakeKernel.write(file, record)
    var answers = 0
    while answers < 1000, try kernel.exchange(.write, request).first?.code == 0 { answers += 1 }
    #expect(answers == 4)
    // One waits by now.
    for _ in 1..<(16 << 20) / record.count { #expect(try kernel.exchange(.write, request) == []) }
    #expect(try kernel.write(file, record, flags: 0) == -Int(ENOMEM))
    kernel.takeAway()
  }

  @Test func aSoleReaderExcludesNoWriter() throws {
    let alone = try kernel.open()
    #expect(try kernel.control(alone, crelay_ioc_excl) == 0)
    #expect(try kernel.ask(.open, bytes(UInt32(O_RDWR), UInt32(0))).code == -EBUSY)
    let other = try kernel.open(O_WRONLY)
    #expect(try kernel.write(other, Array("hello".utf8)) == 5)
    #expect(try kernel.poll(other, nil, for: POLLOUT) == writable)
    for command in [crelay_ioc_excl, crelay_ioc_nxcl] {
      #expect(try kernel.control(other, command) == EBADF)
    }
    for command in [crelay_ioc_block, crelay_ioc_peek, crelay_ioc_frames] {
      #expect(try kernel.control(other, command, 1) == EBADF)
    }
    #expect(try kernel.control(other, crelay_ioc_flush) == 0)
    #expect(try kernel.read(alone, 100) == "hello")
  }

  @Test func aDamagedBufferTakesNothing() throws {
    #expect(try write("one") == 3)
    kernel.damage()
    #expect(try write("two") == -Int(EIO))
    #expect(try kernel.poll(file, nil, for: POLLOUT) == POLLERR)
  }

  @Test func aDamagedBufferEndsTheWait() throws {
    try fill()
    let waiting = try wait("first")
    kernel.damage()
    kernel.device.wake()
    #expect(try kernel.messages() == [Message(unique: waiting, code: -EIO, body: [])])
  }
}

@Suite struct PollForRoomTests {
  let writing: WriteTests
  private var kernel: FakeKernel { writing.kernel }
  private var writable: CInt { writing.writable }
  private let whole = [UInt8](repeating: 0x78, count: WriteTests.subbufSize)

  init() throws { writing = try WriteTests() }

  private func fill(_ file: UInt64) throws {
    while try kernel.write(file, whole) > 0 {}
  }

  private func free() throws -> [Message] {
    let reader = try kernel.open()
    let messages = try kernel.exchange(.read, FakeKernel.read(reader, whole.count))
    let read = kernel.lastUnique
    try kernel.release(reader)
    return messages.filter { $0.unique != read }
  }

  @Test func pollAgreesWithAWriteOfOneByte() throws {
    let file = writing.file
    #expect(try kernel.poll(file, nil, for: POLLOUT) == writable)
    for _ in 0..<3 { #expect(try kernel.write(file, whole) == whole.count) }
    #expect(try kernel.write(file, Array(whole.dropLast())) == whole.count - 1)
    #expect(try kernel.poll(file, nil, for: POLLOUT) == writable, "there is room for one byte")
    #expect(try kernel.write(file, [1, 2]) == -Int(EAGAIN))
    // The refused record has closed that sub-buffer, as every switch does.
    #expect(try kernel.poll(file, nil, for: POLLOUT) == 0)
    #expect(try kernel.write(file, [1]) == -Int(EAGAIN))
  }

  @Test func whoWaitsForRoomIsToldOnce() throws {
    let file = writing.file
    try fill(file)
    #expect(try kernel.poll(file, 7, for: POLLOUT) == 0)
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    #expect(try free() == [.wake(7)])
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    #expect(try kernel.poll(file, nil, for: POLLOUT) == writable)
  }

  @Test func everybodyWhoWaitsForRoomIsTold() throws {
    let files = [writing.file, try kernel.open(O_RDWR)]
    try fill(files[0])
    for (index, file) in files.enumerated() {
      #expect(try kernel.poll(file, UInt64(index), for: POLLOUT) & writable == 0)
    }
    #expect(try free() == [.wake(0), .wake(1)])
  }

  /// As edge-triggered epoll does: it polls once, and writes until it is full.
  @Test func aWriterToldOfRoomIsToldOfNewRoomToo() throws {
    let file = writing.file
    #expect(try kernel.poll(file, 1, for: POLLOUT) == writable)
    try fill(file)
    #expect(try free() == [.wake(1)])
  }

  @Test func roomDoesNotWakeWhoWaitsForDataNorKeepsItAsleep() throws {
    let both = try kernel.open(O_RDWR)
    #expect(try kernel.poll(both, 1, for: POLLIN) == writable)
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    #expect(kernel.device.reader.isArmed())
    #expect(try kernel.write(writing.file, [1]) == 1)
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(1)])
    #expect(try kernel.poll(both, nil, for: POLLIN) == POLLIN | POLLRDNORM | writable)
  }

  @Test func dataDoesNotWakeWhoWaitsForRoom() throws {
    let both = try kernel.open(O_RDWR)
    try fill(writing.file)
    #expect(try kernel.poll(both, 1, for: POLLOUT) == POLLIN | POLLRDNORM)
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    #expect(try free() == [.wake(1)])
  }

  @Test func whoPollsForBothIsToldOfEither() throws {
    let both = try kernel.open(O_RDWR)
    try fill(writing.file)
    let events = POLLIN | POLLOUT
    #expect(try kernel.poll(both, 1, for: events) == POLLIN | POLLRDNORM)
    #expect(try free() == [.wake(1)])
    for _ in 0..<3 { #expect(try free().allSatisfy { $0 == .wake(1) }) }
    #expect(try kernel.poll(both, 2, for: events) == writable)
    #expect(try kernel.write(writing.file, [1]) == 1)
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(2)])
  }

  @Test func closingTellsWhoWaitsForRoomAndWhoHasIt() throws {
    let other = try kernel.open(O_WRONLY)
    #expect(try kernel.poll(other, 1, for: POLLOUT) == writable)
    kernel.channel.close()
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(1)])
    #expect(try kernel.poll(other, nil, for: POLLOUT) == POLLERR | POLLHUP)
  }

  @Test func aReleasedFileIsNotTold() throws {
    try fill(writing.file)
    let other = try kernel.open(O_WRONLY)
    #expect(try kernel.poll(other, 1, for: POLLOUT) == 0)
    try kernel.release(other)
    #expect(!kernel.device.isAwaited)
    #expect(try free() == [])
  }
}
