// SPDX-License-Identifier: Apache-2.0
// Polls and reads that wait for one device: in which order they are answered, by which rule, and
// that each is looked at in time.

import CRelayIoctl
import Glibc
import Relay
import Testing

@testable import DeviceHost

@Suite struct WaitingOrderTests {
  private static let text = bytes(UInt8(0x78))

  private static func answer(_ read: UInt64, _ body: [UInt8] = text) -> Message {
    Message(unique: read, code: 0, body: body)
  }

  private func reserve(_ rig: TurnRig) throws -> Reservation {
    guard case .reserved(let reservation) = rig.kernel.channel.writer().reserve(1) else {
      throw Unexpected()
    }
    reservation.bytes.copyBytes(from: WaitingOrderTests.text)
    return reservation
  }

  private struct Unexpected: Error {}

  @Test func pollBesideFramesWaitsForAStoppedWriterInPeace() throws {
    let rig = try TurnRig()
    rig.kernel.device.reader.stallTimeout = 0
    _ = try rig.file(frames: true)
    let reservation = try reserve(rig)
    rig.putEmpty()
    let file = try rig.file()
    // The first look begins to wait for the writer, the next one passes its record.
    #expect(try rig.kernel.poll(file, 7) == 0)
    rig.kernel.device.wake()
    #expect(try rig.finish().flatMap(\.self) == [])
    reservation.commit()
    rig.kernel.device.wake()
    #expect(try (rig.kernel.messages() + rig.finish().flatMap(\.self)) == [.wake(7)])
  }

  @Test func readsThatMayNotReadAnyMoreFailBehindAReadThatMay() throws {
    let rig = try TurnRig()
    let sole = try rig.file(blocks: true)
    _ = try rig.wait(sole)
    let reads = try (0..<120).map { _ in try rig.wait(try rig.file(blocks: true)) }
    let exclusive = try rig.kernel.exchange(.ioctl, FakeKernel.ioctl(sole, crelay_ioc_excl, []))
    let control = rig.kernel.lastUnique
    let all = (exclusive + (try rig.finish().flatMap(\.self))).filter { $0.unique != control }
    #expect(all == reads.map { Message(unique: $0, code: -EBUSY, body: []) })
  }

  @Test func readsWhoseWalkIsOverSaySoWhateverTheWalkCost() throws {
    let rig = try TurnRig()
    _ = try rig.wait(try rig.file(blocks: true))
    let file = try rig.file(blocks: true)
    // Each read that comes walks one part; the last part takes nearly all of a turn.
    rig.putEmpty(6 * Effort.whole - 50)
    let reads = try (0..<5).map { _ in try rig.wait(file, flags: O_NONBLOCK) }
    let answers = try rig.finish().flatMap(\.self)
    #expect(answers == reads.map { Message(unique: $0, code: -EAGAIN, body: []) })
  }

  @Test func readsThatNeedNotWaitAnyMoreAreAnsweredInTurns() throws {
    let rig = try TurnRig()
    _ = try rig.wait(try rig.file(blocks: true))
    let file = try rig.file(blocks: true)
    let reads = try (0..<100).map { _ in try rig.wait(file) }
    let set = FakeKernel.ioctl(file, crelay_ioc_block, bytes(CInt(0)))
    let first = try rig.kernel.exchange(.ioctl, set)
    let control = rig.kernel.lastUnique
    let all = [first] + (try rig.finish())
    // The ioctl looks at once, and then has a turn.
    #expect(all.allSatisfy { $0.count <= 2 * 17 + 1 }, "\(all.map(\.count))")
    let answers = all.flatMap(\.self).filter { $0.unique != control }
    #expect(answers == reads.map { WaitingOrderTests.answer($0, []) })
  }

  @Test(arguments: [false, true], [false, true])
  func readWhoseWalkEndsNeedsNoFinishedSubbuffer(_ blocks: Bool, _ peeks: Bool) throws {
    let rig = try TurnRig(wakeup: .subbuffer)
    rig.putEmpty()
    rig.kernel.channel.write("x")
    let read = try rig.wait(try rig.file(blocks: blocks, peeks: peeks))
    #expect(try rig.finish().flatMap(\.self) == [WaitingOrderTests.answer(read)])
  }

  @Test(arguments: [false, true])
  func readThatFoundNothingWaitsForAFinishedSubbuffer(_ peeks: Bool) throws {
    let rig = try TurnRig(wakeup: .subbuffer)
    let file = try rig.file(blocks: true, peeks: peeks)
    rig.putEmpty()
    let read = try rig.wait(file)
    #expect(try rig.finish().flatMap(\.self) == [])
    rig.kernel.channel.write("x")
    rig.kernel.device.wake()
    #expect(try (rig.kernel.messages() + rig.finish().flatMap(\.self)) == [])
    #expect(rig.kernel.device.reader.flush() == .flushed)
    rig.kernel.device.wake()
    let answers = try rig.kernel.messages() + rig.finish().flatMap(\.self)
    #expect(answers == [WaitingOrderTests.answer(read)])
  }

  @Test func peekersGetWhatASharedReadTakes() throws {
    let rig = try TurnRig(wakeup: .subbuffer)
    let shared = try rig.wait(try rig.file(blocks: true))
    let peekers = try (0..<300).map { _ in try rig.wait(try rig.file(blocks: true, peeks: true)) }
    #expect(try rig.finish().flatMap(\.self) == [])
    rig.kernel.channel.write("x")
    #expect(rig.kernel.device.reader.flush() == .flushed)
    rig.kernel.device.wake()
    let answers = try rig.kernel.messages() + rig.finish().flatMap(\.self)
    #expect(answers == (peekers + [shared]).map { WaitingOrderTests.answer($0) })
  }

  /// The value it has already; another one and back.
  @Test(
    arguments: [
      [(crelay_ioc_block, 1)], [(crelay_ioc_frames, 0)], [(crelay_ioc_peek, 0)],
      [(crelay_ioc_frames, 1), (crelay_ioc_frames, 0)],
    ] as [[(UInt32, CInt)]])
  func sharedReadKeepsItsPlaceWhenItsFileIsSet(_ settings: [(UInt32, CInt)]) throws {
    let rig = try TurnRig()
    let file = try rig.file(blocks: true)
    let first = try rig.wait(file)
    let second = try rig.wait(try rig.file(blocks: true))
    for (command, value) in settings { #expect(try rig.kernel.control(file, command, value) == 0) }
    #expect(try rig.finish().flatMap(\.self) == [])
    for read in [first, second] {
      rig.kernel.channel.write("x")
      rig.kernel.device.wake()
      let answers = try rig.kernel.messages() + rig.finish().flatMap(\.self)
      #expect(answers == [WaitingOrderTests.answer(read)])
    }
  }

  @Test(arguments: [false, true], [false, true])
  func pollBehindAStoppedWriterIsLookedAtInTime(_ peeks: Bool, _ isBesideFrames: Bool) throws {
    let rig = try TurnRig()
    rig.kernel.device.reader.stallTimeout = 50
    if isBesideFrames {
      _ = try rig.file(frames: true)
      rig.kernel.channel.write("")
    }
    let file = try rig.file(peeks: peeks)
    let reservation = try reserve(rig)
    rig.kernel.channel.write("x")
    #expect(try rig.kernel.poll(file, 7) == 0)
    #expect(try rig.finish().flatMap(\.self) == [])
    let timeLeft = try #require(rig.turns.timeLeft)
    #expect(timeLeft <= 50)
    reservation.commit()
  }

  @Test func readThatWaitsForTheWalkOnlyIsNoneTooMany() throws {
    let rig = try TurnRig()
    let file = try rig.file(blocks: true)
    for _ in 0..<4096 { _ = try rig.wait(file) }
    let refused = try rig.kernel.ask(.read, FakeKernel.read(file, 100))
    #expect(refused.code == -ENOMEM)
    rig.putEmpty()
    let read = try rig.wait(file, flags: O_NONBLOCK)
    let answers = try rig.finish().flatMap(\.self)
    #expect(answers == [Message(unique: read, code: -EAGAIN, body: [])])
  }
}
