// SPDX-License-Identifier: Apache-2.0
// Turns: what a device does of much work before the other devices of its thread are served, and
// that nothing is lost or told wrong in between.

import CRelayIoctl
import Glibc
import LinuxIO
import Relay
import Testing

@testable import DeviceHost

/// A thread that notes what its device asks for.
final class Turns: DeviceKeeper {
  private(set) var isAsked = false
  func goOnLater(_ device: Device) { isAsked = true }

  func take() -> Bool {
    defer { isAsked = false }
    return isAsked
  }

  func admit(
    _ device: Device, uid: UInt32, pid: Int32, _ kind: ReaderEntry.Kind, replacing old: ReaderEntry?
  ) -> Result<ReaderEntry, ReaderRefusal> {
    .success(ReaderEntry(1, device, uid: uid, pid: pid, kind))
  }
  func release(_ entry: ReaderEntry) {}
  func delivered() {}
  func lastFileClosed(of device: Device) {}
  /// When the device last wanted to be woken, in milliseconds from then.
  private(set) var timeLeft: Int?
  func startWaking(_ device: Device) { timeLeft = device.timeLeft }
  func lossesFound() {}
  func damageFound(_ device: Device) {}
  func logUse(_ message: String, by user: UInt32) {}
}

/// A device whose thread the test plays.
struct TurnRig {
  static let passed = 3 * Effort.whole
  let kernel: FakeKernel
  let turns = Turns()

  init(wakeup: Wakeup = .data) throws {
    var options = FileOptions()
    options.wakeup = wakeup
    // Room for the entries: one for 8 bytes.
    kernel = try FakeKernel(subbufSize: 1 << 20, options: options)
    kernel.device.keeper = turns
  }

  func putEmpty(_ count: Int = passed) {
    for _ in 0..<count { kernel.channel.write("") }
  }

  func file(
    blocks: Bool = false, peeks: Bool = false, frames: Bool = false
  ) throws -> UInt64 {
    let file = try kernel.open()
    if blocks { #expect(try kernel.control(file, crelay_ioc_block, 1) == 0) }
    if peeks { #expect(try kernel.control(file, crelay_ioc_peek, 1) == 0) }
    if frames { #expect(try kernel.control(file, crelay_ioc_frames, 1) == 0) }
    return file
  }

  /// What the server writes until its device asks for no other turn, by turns.
  func finish() throws -> [[Message]] {
    var all: [[Message]] = []
    while turns.take() {
      guard all.count < 1000 else { throw Failure("it never ends") }
      kernel.device.goOn()
      all.append(try kernel.messages())
    }
    return all
  }

  private struct Failure: Error {
    let description: String
    init(_ description: String) { self.description = description }
  }

  /// Sends a read that is not answered at once.
  func wait(_ file: UInt64, flags: CInt = 0) throws -> UInt64 {
    #expect(try kernel.exchange(.read, FakeKernel.read(file, 100, flags: flags)) == [])
    return kernel.lastUnique
  }
}

@Suite struct TurnTests {
  private static let passed = TurnRig.passed
  private let rig: TurnRig
  private var kernel: FakeKernel { rig.kernel }
  private var turns: Turns { rig.turns }

  init() throws { rig = try TurnRig() }

  private func putEmpty() { rig.putEmpty() }
  private func file(
    blocks: Bool = false, peeks: Bool = false, frames: Bool = false
  ) throws -> UInt64 {
    try rig.file(blocks: blocks, peeks: peeks, frames: frames)
  }
  private func finish() throws -> [[Message]] { try rig.finish() }
  private func wait(_ file: UInt64, flags: CInt = 0) throws -> UInt64 {
    try rig.wait(file, flags: flags)
  }

  @Test(arguments: [false, true], [false, true])
  func readBehindEmptyRecordsIsAnsweredWithData(_ blocks: Bool, _ peeks: Bool) throws {
    putEmpty()
    kernel.channel.write("x")
    let read = try wait(try file(blocks: blocks, peeks: peeks))
    let messages = try finish()
    #expect(messages.count >= TurnTests.passed / Effort.whole)
    #expect(messages.flatMap(\.self) == [Message(unique: read, code: 0, body: bytes(UInt8(0x78)))])
    #expect(
      kernel.device.reader.statistics().recordsRead == (peeks ? 0 : UInt64(TurnTests.passed) + 1))
  }

  @Test(arguments: [false, true]) func readThatFindsNothingSaysSoAtTheEnd(_ peeks: Bool) throws {
    putEmpty()
    let read = try wait(try file(peeks: peeks))
    #expect(try finish().flatMap(\.self) == [Message(unique: read, code: 0, body: [])])
    putEmpty()
    let other = try wait(try file(blocks: true, peeks: peeks), flags: O_NONBLOCK)
    #expect(try finish().flatMap(\.self) == [Message(unique: other, code: -EAGAIN, body: [])])
  }

  @Test func readThatWaitsGoesOnWaitingBehindEmptyRecords() throws {
    putEmpty()
    let read = try wait(try file(blocks: true))
    #expect(try finish().flatMap(\.self) == [])
    kernel.channel.write("x")
    kernel.device.wake()
    #expect(try kernel.messages() == [Message(unique: read, code: 0, body: bytes(UInt8(0x78)))])
  }

  @Test func readsAreAnsweredInTheirOrderOnceTheWalkEnds() throws {
    putEmpty()
    kernel.channel.write("x")
    let reads = [try wait(try file(blocks: true)), try wait(try file())]
    #expect(
      try finish().flatMap(\.self) == [
        Message(unique: reads[0], code: 0, body: bytes(UInt8(0x78))),
        Message(unique: reads[1], code: 0, body: []),
      ])
  }

  @Test func signalEndsAReadWhoseWalkGoesOn() throws {
    putEmpty()
    kernel.channel.write("x")
    let file = try file()
    let read = try wait(file)
    #expect(
      try kernel.exchange(.interrupt, bytes(read))
        == [Message(unique: read, code: -EINTR, body: [])])
    #expect(try finish().flatMap(\.self) == [])
    let other = try wait(file)
    #expect(
      try finish().flatMap(\.self) == [Message(unique: other, code: 0, body: bytes(UInt8(0x78)))])
  }

  @Test func continuationIsShortAndDoesNotWait() throws {
    putEmpty()
    kernel.channel.write("x")
    #expect(try kernel.read(try file(), 100, at: 1) == "")
  }

  @Test(arguments: [false, true], [false, true])
  func pollBehindEmptyRecordsIsToldOfData(_ peeks: Bool, _ isBesideFrames: Bool) throws {
    if isBesideFrames { _ = try file(frames: true) }
    let poller = try file(peeks: peeks)
    putEmpty()
    kernel.channel.write("x")
    #expect(try kernel.poll(poller, 7) == 0)
    #expect(try finish().flatMap(\.self) == [.wake(7)])
    #expect(try kernel.poll(poller, nil) == POLLIN | POLLRDNORM)
  }

  @Test func pollThatFindsNothingIsToldOfWhatComes() throws {
    putEmpty()
    #expect(try kernel.poll(try file(), 7) == 0)
    #expect(try finish().flatMap(\.self) == [])
    kernel.channel.write("x")
    kernel.device.wake()
    #expect(try kernel.messages() == [.wake(7)])
  }

  /// Answers of one turn: fewer than a sixteenth of those that wait.
  private static let many = 300
  private static let fewest = 15

  private func checkTurns(
    _ first: [Message], _ whom: Set<UInt64>, by name: (Message) -> UInt64
  ) throws {
    let all = [first] + (try finish())
    #expect(all.allSatisfy { $0.count <= 17 }, "\(all.map(\.count))")
    #expect(all.count >= TurnTests.fewest)
    let told = all.flatMap(\.self).map(name)
    #expect(told.count == whom.count && Set(told) == whom)
  }

  @Test(arguments: [false, true]) func manyReadsAreAnsweredInTurns(_ peeks: Bool) throws {
    let reads = try (0..<TurnTests.many).map { _ in try wait(try file(blocks: true, peeks: peeks)) }
    #expect(try finish().flatMap(\.self) == [])
    kernel.channel.write(String(repeating: "x", count: 100 * TurnTests.many))
    kernel.device.wake()
    try checkTurns(try kernel.messages(), Set(reads)) { $0.unique }
  }

  @Test(arguments: [false, true]) func manyPollsAreToldInTurns(_ peeks: Bool) throws {
    for handle in 1...UInt64(TurnTests.many) {
      #expect(try kernel.poll(try file(peeks: peeks), handle) == 0)
    }
    #expect(try finish().flatMap(\.self) == [])
    kernel.channel.write("x")
    kernel.device.wake()
    try checkTurns(try kernel.messages(), Set(1...UInt64(TurnTests.many))) {
      $0.body.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
    }
  }

  @Test func readsLeftForAnotherTurnGetItThoughAnotherKindIsRead() throws {
    let framed = try file(frames: true)
    let files = try (0..<TurnTests.many).map { _ in try file(blocks: true) }
    let reads = try files.map { try wait($0) }
    #expect(try finish().flatMap(\.self) == [])
    kernel.channel.write(String(repeating: "x", count: 100 * TurnTests.many))
    let first = try kernel.exchange(.read, FakeKernel.read(framed, 100))
    let told = (first + (try finish().flatMap(\.self))).map(\.unique)
    // What the reader of frames took is missing for the last one.
    #expect(Set(told).isSuperset(of: reads.dropLast()))
  }

  @Test func peekersThatComeOrGoBetweenTurnsAreAllTold() throws {
    let files = try (0..<101).map { _ in try file(blocks: true, peeks: true) }
    var reads = try files.dropLast().map { try wait($0) }
    #expect(try finish().flatMap(\.self) == [])
    kernel.channel.write("x")
    kernel.device.wake()
    var told = Set(try kernel.messages().map(\.unique))
    // One that still waits gets a signal, another turns to the shared cursor, a third one comes.
    let left = reads.indices.filter { !told.contains(reads[$0]) }
    let interrupted = reads[left[0]]
    #expect(try kernel.exchange(.interrupt, bytes(interrupted)).first?.code == -EINTR)
    let peek = FakeKernel.ioctl(files[left[1]], crelay_ioc_peek, bytes(CInt(0)))
    for message in try kernel.exchange(.ioctl, peek) { told.insert(message.unique) }
    let last = try kernel.exchange(.read, FakeKernel.read(files[100], 100))
    reads.append(kernel.lastUnique)
    for message in last + (try finish().flatMap(\.self)) { told.insert(message.unique) }
    #expect(Set(reads).subtracting([interrupted]).isSubset(of: told))
  }

  @Test func mappedConsumerBehindEmptyRecordsIsToldOfData() throws {
    let lease = try Lease(kernel.device, unfinished: true, timeout: nil, uid: 1, pid: 1)
    func isTold() -> Bool {
      Readiness.wait(lease.listenerDescriptor, .read, timeoutMilliseconds: 0) != []
    }
    kernel.device.lease = lease
    defer { kernel.device.lease = nil }
    putEmpty()
    kernel.channel.write("x")
    kernel.device.wake()
    #expect(!isTold())
    #expect(try finish().count + 1 >= TurnTests.passed / Effort.whole)
    #expect(isTold())
  }

  @Test func waitingReadsOfAUserAreBounded() throws {
    var waiters = Waiters()
    let file = Device.OpenFile(
      kernel.device, uid: 12345, flags: O_RDONLY, through: ObjectIdentifier(turns))
    func request(_ number: Int) -> OpaquePointer { OpaquePointer(bitPattern: number)! }
    for number in 1...1024 {
      #expect(waiters.mayTakeRead(of: 12345))
      waiters.add(Waiter(file, request(number), size: 1, ifNothing: nil), isSeen: true)
    }
    #expect(!waiters.mayTakeRead(of: 12345) && waiters.mayTakeRead(of: 0))
    #expect(waiters.remove(request(7)) && !waiters.remove(request(7)))
    #expect(waiters.mayTakeRead(of: 12345))
    #expect(waiters.remove(file).count == 1023 && waiters.isEmpty && file.waiterCount == 0)
  }

  @Test func closedFilesLeaveNothingBehind() throws {
    let files = try (0..<50).map { try file(blocks: true, peeks: $0 % 2 == 0, frames: $0 % 3 == 0) }
    for (number, file) in files.enumerated() { _ = try kernel.poll(file, UInt64(number + 1)) }
    #expect(kernel.device.uses.reading == 50 && kernel.device.uses.consuming == 25)
    for number in Array(stride(from: 0, to: 50, by: 2)) + Array(stride(from: 49, to: 0, by: -2)) {
      try kernel.release(files[number])
    }
    #expect(!kernel.device.isOpen && kernel.device.waiters.isEmpty && !kernel.device.isAwaited)
    let uses = kernel.device.uses
    #expect(uses.reading == 0 && uses.consuming == 0 && uses.framing == 0)
    #expect(!kernel.device.reader.keepsEmptyRecords)
  }
}
