// SPDX-License-Identifier: Apache-2.0
// Ioctls and framed reads, request by request.

import CRelayIoctl
import Glibc
import Relay
import Testing

@testable import DeviceHost

@Suite struct ControlTests {
  private let kernel: FakeKernel
  private let file: UInt64

  init() throws {
    kernel = try FakeKernel()
    file = try kernel.open()
  }

  /// The records in one reply of frames.
  private func records(_ bytes: [UInt8]) -> [String] {
    bytes.withUnsafeBytes { bytes in
      var records: [String] = []
      var at = 0
      while at < bytes.count {
        let frame = bytes.loadUnaligned(fromByteOffset: at, as: relay_frame.self)
        let start = at + Int(frame.size)
        records.append(String(decoding: bytes[start..<start + Int(frame.length)], as: UTF8.self))
        at = (start + Int(frame.length) + 7) & ~7
      }
      return records
    }
  }

  private func frames(_ file: UInt64, _ size: Int = 4096) throws -> [String] {
    records(try kernel.ask(.read, FakeKernel.read(file, size)).body)
  }

  @Test func geometryIsToldToWhoHasOnlyTheDevice() throws {
    let answer = try kernel.ask(file, crelay_ioc_geometry)
    #expect(answer.code == 0 && answer.body.count == 16 + MemoryLayout<relay_geometry>.size)
    let geometry = answer.body.withUnsafeBytes {
      $0.loadUnaligned(fromByteOffset: 16, as: relay_geometry.self)
    }
    #expect(geometry.size == 288 && geometry.flags == RELAY_GEOMETRY_GLOBAL && geometry.cpu == 0)
    #expect(geometry.subbuf_size == 16 << 10 && geometry.n_subbufs == 4)
    #expect(geometry.incarnation == kernel.channel.incarnation && geometry.incarnation != 0)
    let name = withUnsafeBytes(of: geometry.channel) { Array($0.prefix(5)) }
    #expect(name == Array("test\0".utf8))
  }

  @Test func statisticsAreThoseOfTheBuffer() throws {
    for text in ["one", "two"] { kernel.channel.write(text) }
    #expect(try kernel.read(file, 3) == "one")
    let answer = try kernel.ask(file, crelay_ioc_statistics)
    #expect(answer.code == 0 && answer.body.count == 16 + 144)
    let s = answer.body.withUnsafeBytes {
      $0.loadUnaligned(fromByteOffset: 16, as: relay_buffer_statistics.self)
    }
    #expect(s.records_written == 2 && s.records_read == 1 && s.records_unread == 1)
    #expect(s.bytes_written == 6 && s.bytes_read == 3 && s.bytes_unread == 3 && s.corrupt == 0)
  }

  @Test(arguments: [0, 0x7260, 0x541b, 0x5401, 0x7268, UInt32.max])
  func unknownCommandsAreNotOurs(_ command: UInt32) throws {
    #expect(try kernel.control(file, command) == ENOTTY)
  }

  @Test(arguments: [
    crelay_ioc_geometry, crelay_ioc_statistics, crelay_ioc_flush, crelay_ioc_block,
    crelay_ioc_excl, crelay_ioc_nxcl, crelay_ioc_peek, crelay_ioc_frames,
  ])
  func anotherSizeOrDirectionIsAnotherCommand(_ command: UInt32) throws {
    for other in [command ^ 4 << 16, command ^ 1 << 30, command ^ 1 << 31] {
      #expect(try kernel.control(file, other, 0) == ENOTTY)
    }
  }

  /// No kernel does this.
  @Test func sizesThatAreNotTheNumbersAreRefused() throws {
    #expect(try kernel.ask(file, crelay_ioc_frames, [1]).code == -ENOTTY)
    #expect(try kernel.ask(file, crelay_ioc_frames).code == -ENOTTY)
    #expect(try kernel.ask(file, crelay_ioc_geometry, output: 287).code == -ENOTTY)
    #expect(try kernel.ask(file, crelay_ioc_statistics, output: 0).code == -ENOTTY)
  }

  @Test func valuesThatCannotBeAreRefused() throws {
    for value in [2, -2, CInt.max, CInt.min] {
      for command in [crelay_ioc_block, crelay_ioc_peek, crelay_ioc_frames] {
        #expect(try kernel.control(file, command, value) == EINVAL)
      }
    }
    for command in [crelay_ioc_peek, crelay_ioc_frames] {
      #expect(try kernel.control(file, command, -1) == EINVAL)
    }
  }

  @Test func framesAreTheFilesOwnChoice() throws {
    let other = try kernel.open()
    #expect(try kernel.control(file, crelay_ioc_frames, 1) == 0)
    for text in ["one", "", "two"] { kernel.channel.write(text) }
    #expect(try frames(file, 88) == ["one", ""])
    #expect(try kernel.read(other, 100) == "two")
    #expect(try kernel.control(file, crelay_ioc_frames, 0) == 0)
    kernel.channel.write("three")
    #expect(try kernel.read(file, 100) == "three")
  }

  @Test func aReadWithoutRoomForAFrameIsRefused() throws {
    #expect(try kernel.control(file, crelay_ioc_frames, 1) == 0)
    kernel.channel.write("one")
    #expect(try kernel.ask(.read, FakeKernel.read(file, 71)).code == -EINVAL)
    let rest = try kernel.ask(.read, FakeKernel.read(file, 71, at: 4096))
    #expect(rest.code == 0 && rest.body == [], "the end of a long read(2) is no failure")
    #expect(try frames(file, 72) == ["one"])
  }

  @Test func framesThatTheKernelDoesNotTakeComeAgain() throws {
    #expect(try kernel.control(file, crelay_ioc_frames, 1) == 0)
    let record = String(repeating: "x", count: 8000)
    kernel.channel.write(record)
    kernel.limitAnswers(to: 1)
    #expect(try kernel.exchange(.read, FakeKernel.read(file, 65536)) == [])
    kernel.limitAnswers(to: 128 << 10)
    #expect(try frames(file, 65536) == [record])
  }

  @Test func pollTellsEachFileWhatItsReadWouldReturn() throws {
    let framed = try kernel.open()
    #expect(try kernel.control(framed, crelay_ioc_frames, 1) == 0)
    #expect(try kernel.poll(file, 1) == 0 && kernel.poll(framed, 2) == 0)
    kernel.channel.write("")
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(2)], "bytes there are none")
    #expect(try kernel.poll(file, nil) == 0 && kernel.poll(framed, 2) & POLLIN != 0)
    kernel.channel.write("x")
    kernel.device.wake()
    let woken = try kernel.messages()
    #expect(woken.contains(.wake(1)) && woken.allSatisfy { $0.unique == 0 })
    #expect(try frames(framed) == ["", "x"])
    #expect(try kernel.poll(file, nil) == 0 && kernel.poll(framed, nil) == 0)
  }

  /// One that was told and does not read must not keep the others' signals away.
  @Test func aLazyReaderOfFramesHoldsNobodyUp() throws {
    let lazy = try kernel.open()
    #expect(try kernel.control(lazy, crelay_ioc_frames, 1) == 0)
    kernel.channel.write("")
    #expect(try kernel.poll(lazy, 2) & POLLIN != 0)
    #expect(try kernel.poll(file, 1) == 0)
    #expect(kernel.device.reader.isArmed())
  }

  @Test func blockingIsTheFilesOwnChoice() throws {
    let waiting = try kernel.open()
    #expect(try kernel.control(waiting, crelay_ioc_block, 1) == 0)
    #expect(try kernel.control(waiting, crelay_ioc_frames, 1) == 0)
    #expect(try kernel.exchange(.read, FakeKernel.read(waiting, 100)) == [])
    let unique = kernel.lastUnique
    #expect(try kernel.read(file, 100) == "", "the channel's reads do not wait")
    kernel.channel.write("one")
    kernel.device.wake()
    let messages = try kernel.messages()
    #expect(messages.map(\.unique) == [unique] && records(messages[0].body) == ["one"])
    #expect(try kernel.control(waiting, crelay_ioc_block, -1) == 0)
    #expect(try kernel.ask(.read, FakeKernel.read(waiting, 100)).body == [])
  }

  @Test func aReadThatWaitsIsLetGoOfWhenItsFileIsToldNotToWait() throws {
    #expect(try kernel.control(file, crelay_ioc_block, 1) == 0)
    #expect(try kernel.exchange(.read, FakeKernel.read(file, 100)) == [])
    let waiting = kernel.lastUnique
    let messages = try kernel.exchange(
      .ioctl, FakeKernel.ioctl(file, crelay_ioc_block, bytes(CInt(0))))
    #expect(Set(messages.map(\.unique)) == [waiting, kernel.lastUnique])
    #expect(messages.allSatisfy { $0.code == 0 })
  }

  /// Which has no room for a frame.
  @Test func aReadThatWaitsForAnotherFormIsAnsweredInIt() throws {
    #expect(try kernel.control(file, crelay_ioc_block, 1) == 0)
    #expect(try kernel.exchange(.read, FakeKernel.read(file, 10)) == [])
    let waiting = kernel.lastUnique
    let messages = try kernel.exchange(
      .ioctl, FakeKernel.ioctl(file, crelay_ioc_frames, bytes(CInt(1))))
    #expect(messages.map(\.unique) == [waiting, kernel.lastUnique])
    #expect(messages.map(\.code) == [-EINVAL, 0])
  }

  @Test func aFlushTellsWhoWaitsForWholeSubbuffers() throws {
    var options = FileOptions()
    options.wakeup = .subbuffer
    let kernel = try FakeKernel(options: options)
    let file = try kernel.open()
    kernel.channel.write("one")
    #expect(try kernel.poll(file, 1) == 0)
    let messages = try kernel.exchange(
      .ioctl, bytes(file, UInt32(0), crelay_ioc_flush, UInt64(0), UInt32(0), UInt32(0)))
    #expect(messages.contains(.wake(1)))
    #expect(messages.contains { $0.unique == kernel.lastUnique && $0.code == 0 })
    #expect(try kernel.poll(file, nil) & POLLIN != 0)
    kernel.channel.close()
    #expect(try kernel.control(file, crelay_ioc_flush) == EPIPE)
  }
}

@Suite struct SoleReaderTests {
  private let kernel: FakeKernel
  private let sole: UInt64
  private let other: UInt64

  init() throws {
    var options = FileOptions()
    options.blocks = true
    kernel = try FakeKernel(options: options)
    sole = try kernel.open()
    other = try kernel.open()
  }

  @Test func othersAreRefusedWhileItLasts() throws {
    #expect(try kernel.control(sole, crelay_ioc_excl) == 0)
    #expect(try kernel.control(sole, crelay_ioc_excl) == 0, "it has it already")
    #expect(try kernel.control(other, crelay_ioc_excl) == EBUSY)
    #expect(try kernel.control(other, crelay_ioc_nxcl) == EBUSY)
    kernel.channel.write("one")
    #expect(try kernel.ask(.read, FakeKernel.read(other, 100)).code == -EBUSY)
    #expect(try kernel.poll(other, nil) == POLLERR)
    #expect(try kernel.ask(.open, bytes(UInt32(O_RDONLY), UInt32(0))).code == -EBUSY)
    #expect(try kernel.read(sole, 100) == "one")
    #expect(try kernel.control(sole, crelay_ioc_nxcl) == 0)
    kernel.channel.write("two")
    #expect(try kernel.read(other, 100) == "two")
    #expect(try kernel.control(sole, crelay_ioc_nxcl) == 0, "nobody has it")
    try kernel.release(try kernel.open())
  }

  @Test func itEndsWithTheFile() throws {
    #expect(try kernel.control(sole, crelay_ioc_excl) == 0)
    try kernel.release(sole)
    #expect(try kernel.control(other, crelay_ioc_excl) == 0)
  }

  @Test func whoWaitsIsTold() throws {
    #expect(try kernel.exchange(.read, FakeKernel.read(other, 100)) == [])
    let unique = kernel.lastUnique
    let third = try kernel.open()
    #expect(try kernel.poll(third, 3) == 0)
    let messages = try kernel.exchange(
      .ioctl, bytes(sole, UInt32(0), crelay_ioc_excl, UInt64(0), UInt32(0), UInt32(0)))
    #expect(messages.contains(Message(unique: unique, code: -EBUSY, body: [])))
    #expect(messages.contains(.wake(3)))
    #expect(messages.count == 3)
  }

  @Test func othersAreRefusedAlsoBehindItsReadThatWaits() throws {
    #expect(try kernel.exchange(.read, FakeKernel.read(sole, 100)) == [])
    let first = kernel.lastUnique
    #expect(try kernel.exchange(.read, FakeKernel.read(other, 100)) == [])
    let second = kernel.lastUnique
    let messages = try kernel.exchange(
      .ioctl, bytes(sole, UInt32(0), crelay_ioc_excl, UInt64(0), UInt32(0), UInt32(0)))
    #expect(messages.map(\.unique).sorted() == [second, kernel.lastUnique])
    #expect(messages.contains(Message(unique: second, code: -EBUSY, body: [])))
    #expect(try kernel.ask(.read, FakeKernel.read(other, 100)).code == -EBUSY)
    kernel.channel.write("one")
    kernel.device.wake()
    #expect(try kernel.messages() == [Message(unique: first, code: 0, body: Array("one".utf8))])
  }

  @Test func peekersAreOthers() throws {
    #expect(try kernel.control(other, crelay_ioc_peek, 1) == 0)
    #expect(try kernel.control(sole, crelay_ioc_excl) == 0)
    kernel.channel.write("one")
    #expect(try kernel.ask(.read, FakeKernel.read(other, 100)).code == -EBUSY)
  }
}

@Suite struct PeekingTests {
  @Test func aFileThatPeeksTakesNothingAndHasItsOwnPlace() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    let peeker = try kernel.open()
    kernel.channel.write("one")
    #expect(try kernel.control(peeker, crelay_ioc_peek, 1) == 0)
    #expect(try kernel.read(peeker, 2) == "on")
    #expect(try kernel.control(peeker, crelay_ioc_peek, 1) == 0, "it does so already")
    #expect(try kernel.read(peeker, 100) == "e" && kernel.poll(peeker, nil) == 0)
    #expect(try kernel.read(file, 100) == "one")
    kernel.channel.write("two")
    #expect(try kernel.read(file, 100) == "two")
    #expect(try kernel.read(peeker, 100) == "two", "not overwritten yet")
    kernel.channel.write("three")
    #expect(try kernel.control(peeker, crelay_ioc_peek, 0) == 0)
    #expect(try kernel.read(peeker, 100) == "three" && kernel.read(file, 100) == "")
  }

  @Test func aPeekerThatWaitsIsTold() throws {
    let kernel = try FakeKernel()
    let peeker = try kernel.open()
    #expect(try kernel.control(peeker, crelay_ioc_peek, 1) == 0)
    #expect(try kernel.control(peeker, crelay_ioc_block, 1) == 0)
    #expect(try kernel.exchange(.read, FakeKernel.read(peeker, 100)) == [])
    let unique = kernel.lastUnique
    kernel.channel.write("one")
    kernel.device.wake()
    #expect(try kernel.messages() == [Message(unique: unique, code: 0, body: Array("one".utf8))])
    kernel.channel.close()
    #expect(try kernel.poll(peeker, nil) == POLLHUP)
    #expect(try kernel.poll(try kernel.open(), nil) & POLLIN != 0, "it is all there")
  }
}
