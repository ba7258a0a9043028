// SPDX-License-Identifier: Apache-2.0
// Requests answered one by one, at moments that a real kernel rarely gives.

import Glibc
import Relay
import Testing

@testable import DeviceHost

@Suite struct RequestTests {
  let readable = POLLIN | POLLRDNORM

  @Test func aReadTakesWhatThereIsAndZeroWhenThereIsNothing() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    #expect(try kernel.read(file, 100) == "")
    kernel.channel.write("hello ")
    kernel.channel.write("world")
    #expect(try kernel.read(file, 100) == "hello world")
    #expect(try kernel.read(file, 100) == "")
  }

  @Test func aContinuationGoesOnWithTheStream() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    kernel.channel.write("hello")
    #expect(try kernel.read(file, 3) == "hel")
    #expect(try kernel.read(file, 3, at: 3) == "lo")
    #expect(try kernel.read(file, 1, at: 5) == "", "an empty one ends the read and never waits")
  }

  @Test(arguments: [O_WRONLY, O_RDWR]) func writeAccessIsRefused(_ flags: CInt) throws {
    let kernel = try FakeKernel()
    let answer = try kernel.ask(.open, bytes(UInt32(flags), UInt32(0)))
    #expect(answer.code == -EACCES)
  }

  @Test func whatTheKernelDoesNotTakeComesAgain() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    let record = String(repeating: "x", count: 8000)
    kernel.channel.write(record)
    kernel.limitAnswers(to: 1)
    #expect(try kernel.exchange(.read, FakeKernel.read(file, 65536)) == [])
    kernel.limitAnswers(to: 128 << 10)
    #expect(try kernel.read(file, 65536) == record)
    #expect(try kernel.read(file, 65536) == "")
  }

  @Test func aRecordCutByAFailedReadComesWhole() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    let record = String(repeating: "0123456789", count: 1500)
    kernel.channel.write(record)
    #expect(try kernel.read(file, 5) == "01234")
    kernel.limitAnswers(to: 1)
    #expect(try kernel.exchange(.read, FakeKernel.read(file, 10000)) == [])
    kernel.limitAnswers(to: 128 << 10)
    #expect(try kernel.read(file, 65536) == record.dropFirst(5))
  }

  @Test func anInterruptThatComesTooLateDisturbsNothing() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    #expect(try kernel.read(file, 100) == "")
    let answered = kernel.lastUnique
    #expect(try kernel.exchange(.interrupt, bytes(answered)) == [])
    kernel.channel.write("hello")
    let messages = try kernel.exchange(.read, FakeKernel.read(file, 100))
    #expect(messages.contains { $0.unique == kernel.lastUnique && $0.body == Array("hello".utf8) })
    // At most the interrupt itself was answered besides: with "ask again".
    #expect(messages.allSatisfy { $0.unique == kernel.lastUnique || $0.code == -EAGAIN })
  }

  @Test func aWaitingReaderIsToldOnce() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    #expect(try kernel.poll(file, 7) == 0)
    kernel.device.wake()
    #expect(try kernel.messages() == [], "there is nothing to tell yet")
    kernel.channel.write("hello")
    kernel.device.wake()
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(7)])
    #expect(try kernel.poll(file, nil) == readable)
  }

  @Test func aPollThatDoesNotWaitIsNotTold() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    #expect(try kernel.poll(file, nil) == 0)
    kernel.channel.write("hello")
    kernel.device.wake()
    #expect(try kernel.messages() == [])
  }

  @Test func aLaterPollReplacesTheEarlierOne() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    #expect(try kernel.poll(file, 1) == 0)
    #expect(try kernel.poll(file, 2) == 0)
    kernel.channel.write("hello")
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(2)])
  }

  @Test func everyWaitingFileIsTold() throws {
    let kernel = try FakeKernel()
    let files = [try kernel.open(), try kernel.open()]
    for (index, file) in files.enumerated() { #expect(try kernel.poll(file, UInt64(index)) == 0) }
    kernel.channel.write("hello")
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(0), .wake(1)])
  }

  @Test func aReleasedFileIsNotToldAndTheOthersAre() throws {
    let kernel = try FakeKernel()
    let files = [try kernel.open(), try kernel.open()]
    for (index, file) in files.enumerated() { #expect(try kernel.poll(file, UInt64(index)) == 0) }
    try kernel.release(files[0])
    kernel.channel.write("hello")
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(1)])
    try kernel.release(files[1])
    #expect(!kernel.device.isAwaited)
  }

  @Test func aReaderToldOfOldDataIsToldOfNewDataToo() throws {
    // As edge-triggered epoll does: it polls once, reads until empty, and does not poll again.
    let kernel = try FakeKernel()
    let file = try kernel.open()
    kernel.channel.write("old")
    #expect(try kernel.poll(file, 1) == readable)
    #expect(try kernel.read(file, 100) == "old")
    #expect(kernel.device.reader.isArmed())
    kernel.channel.write("new")
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(1)])
  }

  @Test func pollSaysHangUpOnceClosedAndDataUntilDrained() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    kernel.channel.write("last")
    #expect(try kernel.poll(file, nil) == readable)
    kernel.channel.close()
    #expect(try kernel.poll(file, nil) == readable | POLLHUP)
    #expect(try kernel.read(file, 100) == "last")
    #expect(try kernel.poll(file, nil) == POLLHUP)
    #expect(try kernel.read(file, 100) == "")
  }

  @Test func closingTellsAWaitingReader() throws {
    let kernel = try FakeKernel()
    let file = try kernel.open()
    #expect(try kernel.poll(file, 3) == 0)
    kernel.channel.close()
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(3)])
    #expect(try kernel.poll(file, nil) == POLLHUP)
  }
}
