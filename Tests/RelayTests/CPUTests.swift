// SPDX-License-Identifier: Apache-2.0
// CPUs that come, go, and have gaps in their numbers. Which CPUs a channel knows is independent of
// which ones this machine has, so one that is online here can be absent there.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

private enum Affinity {
  // Not imported: glibc declares the two under _GNU_SOURCE only.
  private typealias Call = @convention(c) (pid_t, Int, UnsafeMutableRawPointer?) -> CInt

  private static func call(_ name: String, _ set: inout cpu_set_t) -> Bool {
    let function = unsafeBitCast(dlsym(nil, name), to: Call.self)
    return function(0, MemoryLayout<cpu_set_t>.size, &set) == 0
  }

  /// The CPUs this thread may run on, ascending.
  static var allowed: [Int] {
    var set = cpu_set_t()
    guard call("sched_getaffinity", &set) else { return [] }
    return withUnsafeBytes(of: &set) { bytes in
      (0..<bytes.count * 8).filter { bytes[$0 / 8] & 1 << UInt8($0 % 8) != 0 }
    }
  }

  /// Keeps this thread on `cpu`.
  static func pin(to cpu: Int) -> Bool {
    var set = cpu_set_t()
    withUnsafeMutableBytes(of: &set) { $0[cpu / 8] |= 1 << UInt8(cpu % 8) }
    return call("sched_setaffinity", &set)
  }
}

@Suite struct CPUTests {
  /// The CPU that writers are pinned to: the highest here, so that it is not 0 if it can be helped.
  private let own: Int
  /// Channels of these tests have buffers for these at first: `own` is not among them.
  private let initial: [Int]

  init() throws {
    own = try #require(Affinity.allowed.last)
    initial = [own + 1, own + 3]
  }

  private func geometry(
    subbufSize: Int = 16, mode: ChannelMode = .discard, isGlobal: Bool = false
  ) throws -> Geometry {
    try Geometry(
      subbufSize: subbufSize, subbufCount: 2, mode: mode, isGlobal: isGlobal,
      online: CPUSet(initial), possible: CPUSet(0..<own + 5))
  }

  /// What `body` returns on a thread that runs on `own`.
  private func onOwn<R: Sendable>(_ body: @escaping @Sendable () -> R) -> R {
    pinned(to: own, body).join()
  }

  private func pinned<R: Sendable>(
    to cpu: Int, _ body: @escaping @Sendable () -> R
  ) -> Thread<R> {
    Thread {
      precondition(Affinity.pin(to: cpu), "cannot run on CPU \(cpu)")
      return body()
    }
  }

  private func text(_ channel: Channel, _ cpu: Int) throws -> String {
    let buffer = try #require(channel.buffers.first { $0.cpu == cpu })
    return Reader(channel, buffer).drain()
  }

  /// CPU `own`'s slot, whether it has a buffer or not.
  private func ownSlot(_ channel: Channel) -> ChannelBuffer { channel.writer().slot(own) }

  @Test func aWriterOnACPUWithoutABufferUsesTheLowestOne() throws {
    let channel = try Channel.open("test", geometry())
    #expect(channel.cpus == initial)
    #expect(onOwn { channel.write("a") } == .written)
    #expect(onOwn { channel.write("b") } == .written)
    #expect(try text(channel, initial[0]) == "ab")
    #expect(try text(channel, initial[1]) == "")
    let slot = UnsafeRawBufferPointer(start: ownSlot(channel).base, count: 4096)
    #expect(slot.allSatisfy { $0 == 0 })
  }

  @Test func onceItsBufferIsAddedAWriterUsesIt() throws {
    let channel = try Channel.open("test", geometry())
    #expect(onOwn { channel.write("before") } == .written)
    let added = channel.addBuffer(cpu: own)
    #expect(added?.cpu == own)
    #expect(channel.cpus == [own] + initial)
    #expect(channel.buffers.map(\.cpu) == channel.cpus)
    #expect(onOwn { channel.write("after") } == .written)
    #expect(try text(channel, initial[0]) == "before")
    #expect(try text(channel, own) == "after")
  }

  @Test func aCPUThatCameBackHasItsBufferAndItsData() throws {
    let channel = try Channel.open("test", geometry())
    _ = channel.addBuffer(cpu: own)
    #expect(onOwn { channel.write("kept") } == .written)
    #expect(channel.addBuffer(cpu: own) == nil)
    #expect(try text(channel, own) == "kept")
  }

  @Test func whatCannotHaveABufferGetsNone() throws {
    let channel = try Channel.open("test", geometry())
    #expect(channel.addBuffer(cpu: -1) == nil)
    #expect(channel.addBuffer(cpu: own + 5) == nil)
    #expect(channel.addBuffer(cpu: initial[1]) == nil)
    #expect(channel.cpus == initial)
    let global = try Channel.open("test", geometry(isGlobal: true))
    #expect(global.addBuffer(cpu: 0) == nil)
    #expect(global.addBuffer(cpu: 1) == nil)
    #expect(global.cpus == [0])
  }

  @Test func aCPUBeyondAllSlotsUsesTheLowestBuffer() throws {
    let channel = try Channel.open("test", geometry())
    #expect(channel.writer().slot(own + 5).home.cpu == initial[0])
    #expect(channel.writer().slot(9999).home.cpu == initial[0])
    #expect(channel.writer().slot(initial[1]).home.cpu == initial[1])
  }

  @Test func refusalsAreCountedWhereTheRecordWouldHaveGone() throws {
    let channel = try Channel.open("test", geometry())
    let sixteen = "0123456789abcdef"
    let results = onOwn {
      ["\(sixteen)+", sixteen, sixteen, sixteen].map { channel.write($0) }
    }
    #expect(results == [.tooBig, .written, .written, .full])
    onOwn { channel.writer().countLostFull() }
    let statistics = Reader(channel, channel.buffers[0]).statistics()
    #expect(statistics.lostTooBig == 1)
    #expect(statistics.lostFull == 2)
  }

  /// Starts to write what does not fit, and returns once it waits for space.
  private func waitingWriter(_ channel: Channel) -> Thread<WriteResult> {
    for _ in 0..<2 { _ = onOwn { channel.write("0123456789abcdef") } }
    let thread = pinned(to: own) {
      let writer = channel.writer()
      return [UInt8]("more".utf8).withUnsafeBytes { writer.write($0, waitingMilliseconds: 60_000) }
    }
    while channel.buffers[0].spaceWaiters.pointee.load(ordering: .sequentiallyConsistent) == 0 {
      sched_yield()
    }
    return thread
  }

  @Test func aWriterWithoutABufferWaitsForSpaceInTheLowest() throws {
    let channel = try Channel.open("test", geometry())
    let thread = waitingWriter(channel)
    let reader = Reader(channel, channel.buffers[0])
    let before = reader.drain()
    #expect(thread.join() == .written)
    #expect(before + reader.drain() == "0123456789abcdef0123456789abcdefmore")
  }

  @Test func aWaitingWriterGoesOnInItsNewBuffer() throws {
    let channel = try Channel.open("test", geometry())
    let thread = waitingWriter(channel)
    _ = channel.addBuffer(cpu: own)
    #expect(thread.join() == .written)
    #expect(try text(channel, own) == "more")
  }

  @Test func everyCPUIsRefusedOnAClosedChannel() throws {
    let channel = try Channel.open("test", geometry())
    channel.close()
    #expect(onOwn { channel.write("x") } == .closed)
    let added = try #require(channel.addBuffer(cpu: own))
    #expect(onOwn { channel.write("x") } == .closed)
    #expect(channel.flush() == .flushed)
    #expect(Reader(channel, added).isDrained)
  }

  @Test func flushAndSweepReachAnAddedBuffer() throws {
    let daemon = try Channel.openShared("test", geometry())
    let producer = try SharedTests.attach(daemon, owner: 7)
    let added = try #require(daemon.addBuffer(cpu: own))
    #expect(onOwn { producer.write("x") } == .written)
    #expect(daemon.flush() == .flushed)
    #expect(added.loadCurrent().seq == 2)
    onOwn { if case .refused(let why) = producer.writer().reserve(3) { Issue.record("\(why)") } }
    #expect(daemon.sweep(owner: 7) == 1)
    #expect(Reader(daemon, added).statistics().aborted == 1)
  }

  @Test func anAttachedProducerSeesABufferThatIsAdded() throws {
    let daemon = try Channel.openShared("test", geometry())
    let producer = try SharedTests.attach(daemon)
    #expect(onOwn { producer.write("before") } == .written)
    _ = daemon.addBuffer(cpu: own)
    #expect(producer.cpus == [own] + initial)
    #expect(producer.geometry.initialCPUs == initial)
    #expect(onOwn { producer.write("after") } == .written)
    #expect(try text(daemon, initial[0]) == "before")
    #expect(try text(daemon, own) == "after")
    #expect(try SharedTests.attach(daemon).geometry.initialCPUs == [own] + initial)
  }

  @Test func aSlotStartedBehindTheBitmapIsReadOnceItsCPUComes() throws {
    let daemon = try Channel.openShared("test", geometry())
    let producer = try SharedTests.attach(daemon)
    let slot = ownSlot(producer)
    var patience = Patience()
    #expect(
      slot.switchSubbuf(
        from: Current(raw: 0), owner: 5, wakeFD: -1, &patience, NoTestPoints.self) == nil)
    #expect(onOwn { producer.write("x") } == .written)
    #expect(daemon.flush() == .flushed)
    #expect(try text(daemon, initial[0]) == "")
    _ = daemon.addBuffer(cpu: own)
    #expect(try text(daemon, own) == "x")
  }

  @Test func producersCanOnlyReadTheGeometry() throws {
    let daemon = try Channel.openShared("test", geometry())
    let fd = daemon.descriptors!.geometry
    let writable = mmap(nil, 4096, PROT_READ | PROT_WRITE, CInt(MAP_SHARED), fd, 0)
    let mapError = errno
    #expect(writable == MAP_FAILED && mapError == EACCES)
    let readable = try Mapping.shared(fd, count: 4096, writable: false, inheritedByChildren: false)
    #expect(mprotect(readable.base, 4096, PROT_READ | PROT_WRITE) == -1 && errno == EACCES)
    #expect(pwrite(fd, "x", 1, 32) == -1 && errno == EBADF)
  }

  @Test func theBitmapIsBoundedByTheSlots() throws {
    let page = try Mapping.anonymous(count: Geometry.fileBytes)
    let present = PresentCPUs(page: page.base, slotCount: 131)
    #expect(present.lowest == nil)
    for cpu in [130, 64, 3] { present.insert(cpu) }
    #expect(present.all == [3, 64, 130])
    #expect(present.lowest == 3)
    let fewer = PresentCPUs(page: page.base, slotCount: 64)
    #expect(fewer.all == [3])
    #expect(!fewer.contains(64) && !fewer.contains(-1))
    let none = PresentCPUs(page: page.base, slotCount: 3)
    #expect(none.lowest == nil && none.all == [])
  }

  @Test func nothingIsLostWhileBuffersAreAdded() throws {
    let channel = try Channel.open("test", geometry(subbufSize: 1 << 16))
    let line = StartLine()
    let threads = Affinity.allowed.map { cpu in
      pinned(to: cpu) {
        line.arrive()
        return (0..<2000).count { _ in channel.write("0123456789") == .written }
      }
    }
    line.wait(for: threads.count)
    for cpu in 0..<own + 5 { _ = channel.addBuffer(cpu: cpu) }
    let written = threads.reduce(0) { $0 + $1.join() }
    let read = channel.buffers.reduce(0) { $0 + Reader(channel, $1).drain().utf8.count / 10 }
    #expect(written == threads.count * 2000)
    #expect(read == written)
  }
}

/// Counts the threads that run.
private final class StartLine: Sendable {
  private let count = Atomic(0)

  func arrive() { count.add(1, ordering: .acquiringAndReleasing) }

  func wait(for threads: Int) {
    while count.load(ordering: .acquiring) < threads { sched_yield() }
  }
}
