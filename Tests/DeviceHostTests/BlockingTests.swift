// SPDX-License-Identifier: Apache-2.0
// Reads that wait, request by request, and the two rules for when who waits is told.

import Glibc
import Relay
import Testing

@testable import DeviceHost

@Suite struct BlockingTests {
  let kernel: FakeKernel
  let file: UInt64

  init() throws {
    var options = FileOptions()
    options.blocks = true
    kernel = try FakeKernel(options: options)
    file = try kernel.open()
  }

  /// Sends a read that is not answered yet, and returns its number.
  private func wait(_ size: Int = 100) throws -> UInt64 {
    #expect(try kernel.exchange(.read, FakeKernel.read(file, size)) == [])
    return kernel.lastUnique
  }

  private func answer(_ unique: UInt64, _ text: String) -> Message {
    Message(unique: unique, code: 0, body: Array(text.utf8))
  }

  @Test func aReadWaitsForData() throws {
    let read = try wait()
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    kernel.channel.write("hello")
    kernel.device.wake()
    #expect(try kernel.messages() == [answer(read, "hello")])
  }

  @Test func whatIsThereIsReadAtOnce() throws {
    kernel.channel.write("hello")
    #expect(try kernel.read(file, 100) == "hello")
  }

  @Test func nonblockingReadsAreToldToTryAgain() throws {
    let answer = try kernel.ask(.read, FakeKernel.read(file, 100, flags: O_NONBLOCK))
    #expect(answer.code == -EAGAIN)
  }

  @Test func aContinuationNeverWaits() throws {
    #expect(try kernel.read(file, 100, at: 1) == "")
  }

  @Test func readersAreServedInTheirOrder() throws {
    let reads = [try wait(3), try wait(3), try wait(3)]
    kernel.channel.write("abcde")
    kernel.device.wake()
    #expect(try kernel.messages() == [answer(reads[0], "abc"), answer(reads[1], "de")])
    kernel.channel.write("f")
    kernel.device.wake()
    #expect(try kernel.messages() == [answer(reads[2], "f")])
  }

  @Test func aSignalGetsTheReaderOut() throws {
    let read = try wait()
    let messages = try kernel.exchange(.interrupt, bytes(read))
    #expect(messages == [Message(unique: read, code: -EINTR, body: [])])
    kernel.channel.write("hello")
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    #expect(try kernel.read(file, 100) == "hello", "nothing was lost with it")
  }

  @Test func aSignalThatOvertookItsReadGetsTheReaderOut() throws {
    // The kernel queues interrupts before requests.
    #expect(try kernel.exchange(.interrupt, bytes(kernel.lastUnique + 4)) == [])
    let answer = try kernel.exchange(.read, FakeKernel.read(file, 100))
    #expect(answer == [Message(unique: kernel.lastUnique, code: -EINTR, body: [])])
  }

  @Test func whoIsInterruptedDoesNotDisturbTheOthers() throws {
    let reads = [try wait(), try wait()]
    #expect(try kernel.exchange(.interrupt, bytes(reads[0])).count == 1)
    kernel.channel.write("hello")
    kernel.device.wake()
    #expect(try kernel.messages() == [answer(reads[1], "hello")])
  }

  @Test func theEndComesOnceClosedAndDrained() throws {
    let reads = [try wait(), try wait()]
    kernel.channel.write("last")
    kernel.channel.close()
    kernel.device.wake()
    #expect(try kernel.messages() == [answer(reads[0], "last"), answer(reads[1], "")])
    #expect(try kernel.read(file, 100) == "")
  }

  @Test func aResetLeavesTheReaderWaitingForWhatComesAfter() throws {
    let read = try wait()
    kernel.device.reader.reset()
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    kernel.channel.write("after")
    kernel.device.wake()
    #expect(try kernel.messages() == [answer(read, "after")])
  }

  @Test func readsAndPollsWaitSideBySide() throws {
    let other = try kernel.open()
    #expect(try kernel.poll(other, 7) == 0)
    let read = try wait(5)
    kernel.channel.write("hello world")
    kernel.device.wake()
    #expect(try kernel.messages() == [answer(read, "hello"), .wake(7)])
  }

  @Test func aDeviceThatIsTakenAwayAnswersWhoWaits() throws {
    let read = try wait()
    kernel.takeAway()
    #expect(try kernel.messages() == [Message(unique: read, code: -ENODEV, body: [])])
  }

  @Test func onlyWhoHasARemovedDeviceOpenReadsOn() throws {
    kernel.channel.write("left")
    kernel.device.remove()
    #expect(try kernel.ask(.open, bytes(UInt32(O_RDONLY), UInt32(0))).code == -ENOENT)
    #expect(try kernel.read(file, 100) == "left")
  }
}

@Suite struct WakeupTests {
  /// A device that tells who waits when a sub-buffer is full.
  private func wholeSubbufs(blocks: Bool = false) throws -> FakeKernel {
    var options = FileOptions()
    options.wakeup = .subbuffer
    options.blocks = blocks
    return try FakeKernel(subbufSize: 4096, options: options)
  }

  @Test func pollIsSilentUntilASubbufferIsFull() throws {
    let kernel = try wholeSubbufs()
    let file = try kernel.open()
    #expect(try kernel.poll(file, 1) == 0)
    kernel.channel.write(String(repeating: "x", count: 3000))
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    #expect(try kernel.poll(file, 2) == 0)
    kernel.channel.write(String(repeating: "y", count: 3000))
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(2)])
    #expect(try kernel.poll(file, nil) == POLLIN | POLLRDNORM)
  }

  @Test func aReadTakesTheUnfinishedSubbufferToo() throws {
    let kernel = try wholeSubbufs()
    let file = try kernel.open()
    kernel.channel.write("hello")
    #expect(try kernel.poll(file, nil) == 0)
    #expect(try kernel.read(file, 100) == "hello")
  }

  @Test func aFlushTells() throws {
    let kernel = try wholeSubbufs()
    let file = try kernel.open()
    #expect(try kernel.poll(file, 1) == 0)
    kernel.channel.write("hello")
    kernel.channel.flush()
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(1)])
    #expect(try kernel.read(file, 100) == "hello")
    #expect(try kernel.poll(file, nil) == 0)
  }

  @Test func aReadThatWaitsGetsAWholeSubbufferAndWhatFollows() throws {
    let kernel = try wholeSubbufs(blocks: true)
    let file = try kernel.open()
    #expect(try kernel.exchange(.read, FakeKernel.read(file, 10_000)) == [])
    kernel.channel.write(String(repeating: "x", count: 3000))
    kernel.device.wake()
    #expect(try kernel.messages() == [])
    kernel.channel.write(String(repeating: "y", count: 3000))
    kernel.device.wake()
    #expect(try kernel.messages().map(\.body.count) == [6000])
  }

  @Test func closingTellsWhateverIsLeft() throws {
    let kernel = try wholeSubbufs()
    let file = try kernel.open()
    #expect(try kernel.poll(file, 1) == 0)
    kernel.channel.write("hello")
    kernel.channel.close()
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(1)])
    #expect(try kernel.poll(file, nil) == POLLIN | POLLRDNORM | POLLHUP)
  }
}
