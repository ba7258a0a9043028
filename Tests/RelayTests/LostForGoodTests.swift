// SPDX-License-Identifier: Apache-2.0
// What is lost with a memory is counted once: by the daemon that ends, by the producer that moves
// to other memory, or by the daemon that retires it.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite(.serialized) struct LostForGoodTests {
  private let channel: Channel
  private let producer: Channel
  private let reader: Reader

  init() throws {
    channel = try LostForGoodTests.open()
    producer = try SharedTests.attach(channel)
    reader = Reader(channel, channel.buffers[0])
  }

  private static func open() throws -> Channel {
    try Channel.openShared(
      "lost",
      Geometry(
        subbufSize: 16, subbufCount: 4, mode: .overwrite, isGlobal: true, online: CPUSet([0]),
        possible: CPUSet([0])))
  }

  private var buffer: ChannelBuffer { channel.buffers[0] }

  private func adopt() throws -> Channel {
    try Channel.adopt(
      channel.name, opener: SharedTests.copy(channel.openerDescriptor!),
      ring: SharedTests.copy(channel.descriptors!.ring), bell: SharedTests.copyBell(channel))
  }

  /// As who gives the memory up counts it.
  private var lostForGood: UInt64 { buffer.lostForGood(channel.readerStore(cpu: 0)) }

  private func write(_ count: Int) {
    for _ in 0..<count { #expect(producer.write("12345") == .written) }
  }

  private func cancelOne() {
    if case .reserved(let reservation) = producer.writer().reserve(5) { reservation.cancel() }
  }

  @Test(arguments: [0, 2]) func afterTheMarkOnlyWhatIsWrittenLaterIsLost(_ read: Int) throws {
    write(4)
    if read > 0 { #expect(reader.read(5 * read).count == 5 * read) }
    let loss = reader.lossAtEnd()
    #expect(loss == LossOfBuffer(unread: UInt64(4 - read), untold: 0))
    write(1)
    reader.markCounted(loss)
    #expect(lostForGood == 1, "written between the count and the mark")
    write(2)
    #expect(lostForGood == 3)
  }

  @Test func overwrittenRecordsAndCancelledOnesAreCountedRight() throws {
    write(30)
    cancelOne()
    let loss = reader.lossAtEnd()
    #expect(loss.unread == 30)
    reader.markCounted(loss)
    #expect(lostForGood == 0)
    cancelOne()
    write(1)
    #expect(lostForGood == 1)
  }

  @Test func untoldLossesOfEarlierMemoriesAreInTheCount() throws {
    channel.countLostByRestart(7, cpu: 0)
    write(1)
    let loss = reader.lossAtEnd()
    #expect(loss == LossOfBuffer(unread: 1, untold: 7))
    reader.markCounted(loss)
    #expect(lostForGood == 0)
    channel.countLostByRestart(2, cpu: 0)
    #expect(lostForGood == 2)
  }

  @Test func handingOverTakesTheMarkBack() throws {
    write(3)
    #expect(reader.read(5) == "12345")
    channel.countLostByRestart(7, cpu: 0)
    let before = reader.statistics()
    let values = try #require(reader.store?.latest)
    let loss = reader.lossAtEnd()
    reader.markCounted(loss)
    let marked = try #require(reader.store?.latest)
    for field in [ReaderStore.Field.record, .restart, .pendingRestart] {
      #expect(marked[field] == values[field], "as a release without marks goes on from")
    }
    write(1)
    let adopted = try adopt()
    #expect(lostForGood == 3 + 7)
    let next = try Reader(adopting: adopted, adopted.buffers[0])
    #expect(next.position.record == values[.record])
    let claim = next.claim(limit: 100)
    #expect(claim.lostBefore.restart == 7, "not told yet")
    next.consume()
    #expect(next.drain().count == 20 - 5 - claim.byteCount)
    #expect(next.statistics().recordsRead == before.recordsRead + 3)
    // Once more, with the mark taken back twice.
    next.markCounted(next.lossAtEnd())
    _ = try adopt()
    let last = try Reader(adopting: adopt(), adopted.buffers[0])
    #expect(last.statistics().recordsUnread == 0 && last.statistics().recordsRead == 4)
  }

  @Test func aRetiredMemoryThatWasMarkedIsCountedWhole() throws {
    write(3)
    reader.markCounted(reader.lossAtEnd())
    let adopted = try adopt()
    let next = try LostForGoodTests.open()
    #expect(adopted.retire(into: next) == 3)
    #expect(Reader(next, next.buffers[0]).statistics().lostRestart == 3)
  }

  /// Of damaged memory that a reset replaces: what was there before the reset is forgotten.
  @Test func recordsWrittenAfterTheResetOfReplacedMemoryAreCounted() throws {
    write(3)
    reader.reset()
    write(2)
    while producer.write("12345678901234567") == .tooBig, buffer.lossCounts.tooBig < 4 {}
    channel.giveUp()
    let new = try LostForGoodTests.open()
    #expect(reader.countLosses(in: new.buffers[0]) == 2)
    let counts = Reader(new, new.buffers[0]).statistics()
    #expect(counts.lostRestart == 2 && counts.lostTooBig == 4)
  }

  @Test func numbersOfDamagedMemoryAreNotBelieved() throws {
    write(3)
    reader.reset()
    // Relaxed: nobody else is there.
    buffer.currentWord.pointee.store(0x10ffff, ordering: .relaxed)
    reader.reset()
    channel.giveUp()
    let new = try LostForGoodTests.open()
    #expect(reader.countLosses(in: new.buffers[0]) == nil)
    #expect(Reader(new, new.buffers[0]).statistics().lostRestart == 0)
  }
}
