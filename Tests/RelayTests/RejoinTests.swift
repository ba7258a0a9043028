// SPDX-License-Identifier: Apache-2.0
// Producers whose daemon is gone: they go on in its memory if the next one has it, in the next
// one's if not, and what is lost then is counted.

import CLinux
import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite struct RejoinTests {
  private let directory = SocketDirectory()
  private var socket: String { directory.socket }

  private func reader(_ daemon: FakeDaemon) -> Reader {
    // As in a process that is killed: it takes nothing down.
    let reader = Reader(daemon.channel, daemon.channel.buffers[0])
    _ = Unmanaged.passRetained(reader)
    return reader
  }

  private func lost(_ daemon: FakeDaemon) -> UInt64 {
    Reader(daemon.channel, daemon.channel.buffers[0]).statistics().lostRestart
  }

  /// Written by two; read in part; cancelled, aborted, overwritten, before and behind the reader.
  @Test(arguments: ChannelMode.allCases, [0, 1, 3, 7])
  func whatNobodyReadIsCountedOnce(_ mode: ChannelMode, _ read: Int) throws {
    let old = try FakeDaemon(mode: mode)
    let producers = try (5...6).map { try old.attach(socket, owner: $0) }
    let doomed = try old.attach(socket, owner: 7).writer()
    let reader = reader(old)
    var written: UInt64 = 0
    func round(_ index: Int) {
      for producer in producers where producer.write("abc") == .written { written += 1 }
      switch producers[0].writer().reserve(2) {
      case .reserved(let reservation): reservation.cancel()
      case .refused: break
      }
      if index % 3 == 1 {
        _ = doomed.reserve(1)
        old.channel.sweep(owner: 7)
      }
    }
    for i in 0..<3 { round(i) }
    for _ in 0..<read { _ = reader.read(3) }
    for i in 3..<8 { round(i) }
    let unread = written - reader.statistics().recordsRead
    old.die()
    let new = try FakeDaemon(mode: mode)
    let answers = try new.listen(socket, answers: 2)
    for producer in producers { #expect(producer.rejoin() && producer.isServed) }
    try answers.join()
    #expect(lost(new) == unread)
    #expect(Reader(old.channel, old.channel.buffers[0]).buffer.loadCurrent().isClosed)
    for producer in producers { #expect(producer.write("de") == .written) }
    let next = Reader(new.channel, new.channel.buffers[0])
    let claim = next.claim(limit: 100)
    #expect(claim.byteCount == 4 && claim.lostBefore.restart == unread)
    next.consume()
    #expect(next.statistics().lostRestart == unread)
  }

  /// Nobody has to ask: who finds no room, a switch or a closed channel does.
  @Test func writingLeadsThereByItself() throws {
    let old = try FakeDaemon()
    let producers = try (5...6).map { try old.attach(socket, owner: $0) }
    #expect(producers[0].write("0123456789abcdef") == .written)
    old.die()
    let new = try FakeDaemon()
    let answers = try new.listen(socket, answers: 2)
    #expect(producers[0].write("at a switch") == .written)
    #expect(producers[1].write("at its end") == .written)
    try answers.join()
    #expect(Reader(new.channel, new.channel.buffers[0]).drain() == "at a switchat its end")
    #expect(lost(new) == 1)
    #expect(producers.map(\.owner) == [21, 22])
  }

  @Test func whereNobodyAnswersItGoesOnWhileThereIsRoom() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    old.die()
    let results = (0..<5).map { _ in producer.write("0123456789abcdef") }
    #expect(results == Array(repeating: .written, count: 4) + [.full])
    #expect(!producer.isServed && !producer.rejoin())
    old.serve(generation: 2)
    #expect(producer.isServed && producer.rejoin())
    #expect(Reader(old.channel, old.channel.buffers[0]).drain().count == 64)
    #expect(producer.write("on") == .written)
  }

  @Test func whatIsAdoptedWhileItAsksIsKept() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    #expect(producer.write("kept") == .written)
    old.die()
    let other = try FakeDaemon()
    let answers = try other.listen(socket) { old.serve(generation: 2) }
    #expect(producer.rejoin() && producer.isServed)
    try answers.join()
    #expect(producer.write("too") == .written)
    #expect(Reader(old.channel, old.channel.buffers[0]).drain() == "kepttoo")
  }

  /// The next daemon lives on the same page, and has not taken the channel's memory.
  @Test func anotherGenerationIsAnotherMemory() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    #expect(producer.write("left") == .written)
    old.begin(generation: 2)
    let new = try FakeDaemon()
    let answers = try new.listen(socket)
    #expect(!producer.isServed && producer.rejoin())
    try answers.join()
    #expect(lost(new) == 1)
  }

  @Test func whatWasClosedStaysClosed() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    old.channel.end()
    old.die()
    #expect(producer.write("x") == .closed)
    #expect(!producer.rejoin())
  }

  /// In a memory of the same length, and in a longer one.
  @Test(arguments: [5, 4000]) func anotherGeometryIsAnotherChannel(_ subbufCount: Int) throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    old.die()
    let new = try FakeDaemon(subbufCount: subbufCount)
    let answers = try new.listen(socket)
    #expect(!producer.rejoin())
    try answers.join()
    #expect(producer.write("x") == .closed)
    #expect(lost(new) == 0)
  }

  /// Whether the sizes differ in all or not: what nobody will read is counted, once.
  @Test(arguments: [5, 4000])
  func recordsInMemoryOfOtherSizesAreCounted(_ subbufCount: Int) throws {
    let old = try FakeDaemon()
    let producers = try (5...6).map { try old.attach(socket, owner: $0) }
    let reader = reader(old)
    for _ in 0..<4 { #expect(producers[0].write("abc") == .written) }
    #expect(reader.read(3) == "abc")
    old.die()
    do {
      let new = try FakeDaemon(subbufCount: subbufCount)
      let answers = try new.listen(socket, answers: 2)
      #expect(!producers[0].rejoin() && !producers[1].rejoin())
      try answers.join()
    }
    for producer in producers { #expect(producer.write("x") == .closed) }
    #expect(producers.map(\.refusedUnserved).reduce(0, +) == 3)
    // Put right: the next daemon's memory has the count.
    let next = try FakeDaemon()
    let answers = try next.listen(socket)
    while !producers[0].rejoin() { _ = poll(nil, 0, 5) }
    try answers.join()
    #expect(producers[0].write("on") == .written)
    #expect(producers[0].refusedUnserved == 0 && lost(next) == 3)
  }

  @Test func aRecordInTheMakingIsLostAndHarmsNobody() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    let writer = producer.writer()
    guard case .reserved(let reservation) = writer.reserve(3) else { return #expect(Bool(false)) }
    old.die()
    for restart in 1...3 as ClosedRange<UInt64> {
      let new = try FakeDaemon()
      let answers = try new.listen(socket)
      #expect(producer.rejoin())
      try answers.join()
      // What nobody was told is told by the next; only the first had the record.
      #expect(lost(new) == restart)
      #expect(writer.write("on") == .written)
      new.die()
    }
    // Its memory is gone by now.
    reservation.bytes.copyBytes(from: "abc".utf8)
    reservation.commit()
    #expect(writer.write("on") == .written)
  }

  /// At any step of a write: it ends up in the new memory, or was reserved in the old one.
  @Test(arguments: TestPoint.allCases)
  func aWriterThatIsOvertakenEndsUpInTheNewMemory(_ point: TestPoint) throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    #expect(producer.write("0123456789abcd") == .written)
    let new = try FakeDaemon()
    var hasCome = false
    Steps.handler = { [socket] reached in
      guard reached == point, !hasCome else { return true }
      hasCome = true
      old.die()
      #expect(throws: Never.self) {
        let answers = try new.listen(socket)
        #expect(producer.rejoin())
        try answers.join()
      }
      return true
    }
    defer { Steps.handler = nil }
    for text in ["ab", "cd"] {
      switch producer.writer().reserve(2, Steps.self) {
      case .stopped(let stop): Issue.record("\(stop) at \(point)")
      case .reserved(let reservation):
        reservation.bytes.copyBytes(from: text.utf8)
        let isCommitted = reservation.commit(Steps.self)
        #expect(isCommitted)
      }
    }
    Steps.handler = nil
    guard hasCome else { return }
    let read = Reader(new.channel, new.channel.buffers[0]).drain()
    #expect(lost(new) + UInt64(read.count / 2) == 3, "\(point) \(read)")
  }

  /// A reader waited when the daemon died: the wish leads every commit to the next one.
  @Test func aSlowProducerNoticesAtACommit() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    #expect(producer.write("before") == .written)
    #expect(reader(old).drain() == "before")
    #expect(
      Reader(old.channel, old.channel.buffers[0]).buffer.waiters.pointee.exchange(
        Wish.wake, ordering: .relaxed) == Wish.look)
    old.die()
    let new = try FakeDaemon()
    let answers = try new.listen(socket)
    #expect(producer.write("lost") == .written)
    try answers.join()
    #expect(producer.write("found") == .written)
    #expect(Reader(new.channel, new.channel.buffers[0]).drain() == "found")
    #expect(lost(new) == 1)
  }

  @Test func manyDaemonsLeaveNothingBehind() throws {
    var daemon = try FakeDaemon("many")
    let producer = try daemon.attach(socket, owner: 5)
    let before = try #require(numbers(producer))
    for restart in 1...20 as ClosedRange<UInt64> {
      #expect(producer.write("x") == .written)
      daemon.die()
      let new = try FakeDaemon("many")
      let answers = try new.listen(socket)
      #expect(producer.rejoin())
      try answers.join()
      #expect(lost(new) == restart)
      daemon = new
    }
    let after = try #require(numbers(producer))
    #expect(after == before)
    #expect(producer.write("x") == .written)
    // Of the producer only the mappings, of this daemon's memory and of the one before.
    #expect(try links("fd", to: "relay:many") == 1 && links("fd", to: "geometry:many") == 2)
    #expect(try links("map_files", to: "relay:many") == 3)
  }

  private func numbers(_ producer: Channel) -> (CInt, CInt)? {
    producer.withGuardedDescriptors { ($0.pointee.number, $1.pointee.number) }
  }

  /// No reader waits: the look bit alone leads a slow writer's commit to the next daemon.
  @Test func slowProducerLooksAtEachCommit() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    #expect(producer.write("before") == .written)
    #expect(reader(old).drain() == "before")
    old.die()
    let new = try FakeDaemon()
    let answers = try new.listen(socket)
    #expect(producer.write("lost") == .written)
    try answers.join()
    #expect(producer.write("found") == .written)
    #expect(Reader(new.channel, new.channel.buffers[0]).drain() == "found")
    #expect(lost(new) == 1)
  }

  @Test func fastWriterClearsTheLookBitAndAWishStays() throws {
    let daemon = try FakeDaemon(subbufSize: 1 << 16)
    let producer = try daemon.attach(socket, owner: 5)
    let waiters = reader(daemon).buffer.waiters
    #expect(waiters.pointee.load(ordering: .relaxed) == Wish.look)
    waiters.pointee.bitwiseOr(Wish.wake, ordering: .relaxed)
    #expect(producer.write("x") == .written)
    #expect(waiters.pointee.load(ordering: .relaxed) == Wish.look, "the wish is taken")
    // Two looks to find the pace; more records than are looked at by number, in one second.
    for _ in 0..<600 { #expect(producer.write("x") == .written) }
    #expect(waiters.pointee.load(ordering: .relaxed) == 0)
  }

  /// It takes any bit for the reader's wish.
  @Test func daemonOfAnEarlierReleaseGetsNoLookBit() throws {
    let daemon = try FakeDaemon(subbufSize: 1 << 16)
    let producer = try daemon.attach(socket, owner: 5)
    let waiters = reader(daemon).buffer.waiters
    // As one that adopts the memory leaves it.
    SharedWord((daemon.channel.page.base + 1096).assumingMemoryBound(to: Atomic<UInt64>.self))
      .pointee.store(7, ordering: .relaxed)
    for _ in 0..<2000 { #expect(producer.write("x") == .written) }
    #expect(waiters.pointee.load(ordering: .relaxed) == 0)
  }

  /// Longer than the memory may take records without a daemon.
  @Test func writesAreRefusedAndCountedOnceNoDaemonComes() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    _ = reader(old)
    old.die()
    #expect(producer.write("kept") == .written)
    producer.lifeline!.pointee.outage.graceMilliseconds.value = 0
    // Whose commit looks.
    #expect(producer.write("the last") == .written)
    for _ in 0..<10 { #expect(producer.write("x") == .unserved) }
    #expect(producer.refusedUnserved == 10)
    old.serve(generation: 2)
    #expect(producer.write("on") == .written)
    #expect(producer.refusedUnserved == 0 && lost(old) == 10)
  }

  @Test func writesAreRefusedAtOnceWhereTheNextDaemonRefuses() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    old.die()
    do {
      let refusal = try FakeDaemon().listen(socket, refusing: true)
      #expect(!producer.rejoin())
      try refusal.join()
    }
    for _ in 0..<5 { #expect(producer.write("x") == .unserved) }
    let new = try FakeDaemon()
    let answers = try new.listen(socket)
    // Not at once after the last try.
    while !producer.rejoin() { _ = poll(nil, 0, 5) }
    try answers.join()
    #expect(producer.write("on") == .written)
    #expect(Reader(new.channel, new.channel.buffers[0]).drain() == "on")
    #expect(lost(new) == 5)
  }

  /// The daemon's socket takes connections, and nobody answers: a writer waits less each time.
  @Test func muteDaemonIsAskedLessAndLess() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    let lifeline = producer.lifeline!
    lifeline.pointee.question.pointee.replyMilliseconds = 10
    #expect(producer.write("x") == .written)
    old.die()
    let mute = try UnixSocket.listen(path: socket)
    old.channel.retire(into: try FakeDaemon().channel)
    var pauses: [Int] = []
    for _ in 0..<5 {
      #expect(producer.write("x") == .unserved)
      pauses.append(lifeline.pointee.outage.pauseMilliseconds.value)
      lifeline.pointee.outage.pausedUntil.value = 0
      lifeline.pointee.outage.lastTry.value = 0
    }
    #expect(pauses == [250, 500, 1000, 1000, 1000])
    #expect(producer.refusedUnserved == 5)
    _ = mute.raw
  }

  /// Descriptors or mappings of a memory file.
  private func links(_ what: String, to name: String) throws -> Int {
    try Files.names(in: "/proc/self/\(what)").count { link in
      var target = [UInt8](repeating: 0, count: 200)
      let count = target.withUnsafeMutableBytes { bytes in
        readlink("/proc/self/\(what)/\(link)", bytes.baseAddress!, bytes.count)
      }
      return count > 0 && String(decoding: target[..<count], as: UTF8.self).contains(name + " ")
    }
  }
}
