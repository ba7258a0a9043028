// SPDX-License-Identifier: Apache-2.0
// Records refused while no daemon serves the memory: counted once, wherever the next one counts.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite struct OutageTests {
  private let directory = SocketDirectory()
  private var socket: String { directory.socket }

  private func counts(_ daemon: FakeDaemon) -> Statistics {
    Reader(daemon.channel, daemon.channel.buffers[0]).statistics()
  }

  /// The memory is full, and nobody will look at its counts.
  @Test func whatIsRefusedInMemoryThatIsLeftIsCountedInTheNext() throws {
    let old = try FakeDaemon()
    let producers = try (5...6).map { try old.attach(socket, owner: $0) }
    while producers[0].write("0123456789abcdef") == .written {}
    #expect(producers[1].write("0123456789abcdef 17") == .tooBig)
    old.die()
    for _ in 0..<3 { #expect(producers[0].write("0123456789abcdef") == .full) }
    for _ in 0..<5 { #expect(producers[1].write("x") == .full) }
    #expect(producers[1].write("0123456789abcdef 17") == .tooBig)
    let new = try FakeDaemon()
    let answers = try new.listen(socket, answers: 2)
    for producer in producers { while !producer.rejoin() { _ = poll(nil, 0, 5) } }
    try answers.join()
    let counts = counts(new)
    #expect(counts.lostFull == 8 && counts.lostTooBig == 1 && counts.lostRestart == 4)
  }

  /// The memory has counted what it refused.
  @Test func whatIsRefusedInMemoryThatIsAdoptedIsNotCountedTwice() throws {
    let old = try FakeDaemon()
    let producer = try old.attach(socket, owner: 5)
    while producer.write("0123456789abcdef") == .written {}
    old.die()
    for _ in 0..<3 { #expect(producer.write("x") == .full) }
    old.serve(generation: 2)
    #expect(producer.rejoin() && producer.write("x") == .full)
    old.die()
    let new = try FakeDaemon()
    let answers = try new.listen(socket)
    while !producer.rejoin() { _ = poll(nil, 0, 5) }
    try answers.join()
    #expect(counts(new).lostFull == 0)
  }

  /// Another process has left the memory and counted what is lost in it.
  @Test func whatIsRefusedInMemoryThatOthersLeftIsCountedInTheNext() throws {
    let old = try FakeDaemon()
    let producers = try (5...6).map { try old.attach(socket, owner: $0) }
    old.die()
    let new = try FakeDaemon()
    do {
      let answers = try new.listen(socket)
      #expect(producers[0].rejoin())
      try answers.join()
    }
    // As while another thread of the process looks for the next daemon.
    producers[1].lifeline!.pointee.outage.holder.store(.max, ordering: .relaxed)
    for _ in 0..<3 { #expect(producers[1].write("x") == .unserved) }
    producers[1].lifeline!.pointee.outage.holder.store(0, ordering: .relaxed)
    #expect(producers[1].refusedUnserved == 3)
    let more = try new.listen(socket)
    while !producers[1].rejoin() { _ = poll(nil, 0, 5) }
    try more.join()
    #expect(counts(new).lostRestart == 3 && producers[1].refusedUnserved == 0)
  }

  /// No commit looks: only each 512th record does.
  @Test func eachOutageHasItsOwnGrace() throws {
    let old = try FakeDaemon(subbufSize: 4096)
    let producer = try old.attach(socket, owner: 5)
    let outage = producer.lifeline!
    func write(_ count: Int) {
      for _ in 0..<count {
        old.channel.buffers[0].waiters.pointee.store(0, ordering: .relaxed)
        #expect(producer.write("x") == .written)
      }
    }
    write(513)
    old.die()
    write(512)
    #expect(outage.pointee.outage.began.load(ordering: .relaxed) != 0)
    old.serve(generation: 2)
    write(512)
    #expect(outage.pointee.outage.began.load(ordering: .relaxed) == 0)
  }
}
