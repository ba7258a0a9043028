// SPDX-License-Identifier: Apache-2.0
// Owner ids and how many processes may have one.

import Glibc
import LinuxIO
import Relay
import RelayControl
import Testing

@testable import RelayDaemon

@Suite struct ProducersTests {
  private let loop: EventLoop
  private let channel: Channel

  init() throws {
    loop = try EventLoop()
    channel = try Channel.open(
      "test",
      Geometry(
        subbufSize: 4096, subbufCount: 2, isGlobal: true, online: CPUSet([0]), possible: CPUSet([0])
      ))
  }

  private func producers(limit: Int) throws -> Producers {
    var limits = Limits()
    limits.producers = limit
    let kept = try KeptState(DescriptorStore(.init(), log: { _ in }), log: { _, _ in })
    return Producers(
      loop: loop, kept: kept, limits: limits, limiter: try LogLimiter(loop: loop) { _, _ in })
  }

  /// Attaches this process under some number.
  private func attach(_ producers: Producers, pid: Int32, limit: Int? = nil) throws -> UInt16 {
    try producers.attach(
      channel, limit: limit, process: ProcessHandle(pid: getpid()),
      peer: PeerCredentials(pid: pid, uid: 0, gid: 0), account: 0)
  }

  @Test func aProcessHasOneOwnerID() throws {
    let producers = try producers(limit: 1)
    let owner = try attach(producers, pid: 7)
    #expect(try attach(producers, pid: 7, limit: 1) == owner)
    #expect(throws: ControlRefusal.self) { try attach(producers, pid: 8) }
  }

  /// Before Linux 6.9 each attach would be a producer of its own.
  @Test func withoutANumberItsHandleSaysWhichItIs() throws {
    let producers = try producers(limit: 2)
    let owner = try attach(producers, pid: 0)
    #expect(try attach(producers, pid: 0) == owner)
    let child = try ChildProcess(["sleep", "1000"])
    defer {
      child.signal(SIGKILL)
      _ = child.wait()
    }
    let other = try producers.attach(
      channel, limit: nil, process: ProcessHandle(pid: child.pid),
      peer: PeerCredentials(pid: 0, uid: 0, gid: 0), account: 0)
    #expect(other != owner)
  }

  /// Not to that of its own user, of whom it may be the first one.
  @Test func processCountsToTheUserByWhoseRightItAttached() throws {
    let producers = try producers(limit: 100)
    producers.limitPerUser = 2
    func attach(_ pid: Int32, by account: UInt32) throws(ControlRefusal) {
      let process: ProcessHandle
      do throws(SystemError) { process = try ProcessHandle(pid: getpid()) } catch {
        throw ControlRefusal(code: error.code, message: "\(error)")
      }
      _ = try producers.attach(
        channel, limit: nil, process: process,
        peer: PeerCredentials(pid: pid, uid: UInt32(7000 + pid), gid: 0), account: account)
    }
    try attach(1, by: 4001)
    try attach(2, by: 4001)
    #expect(throws: ControlRefusal.self) { try attach(3, by: 4001) }
    try attach(4, by: 4002)
    for pid in 5..<10 as Range<Int32> { try attach(pid, by: 0) }
  }

  private func refusal(
    _ producers: Producers, _ handle: consuming ProcessHandle
  ) -> ControlRefusal? {
    do throws(ControlRefusal) {
      _ = try producers.attach(
        channel, limit: nil, process: handle, peer: PeerCredentials(pid: 7, uid: 0, gid: 0),
        account: 0)
      return nil
    } catch { return error }
  }

  @Test func whoIsGoneByNowIsNotAttached() throws {
    let child = try ChildProcess(["true"])
    let handle = try ProcessHandle(pid: child.pid)
    #expect(child.wait() == 0)
    let producers = try producers(limit: 1)
    #expect(
      refusal(producers, handle)
        == ControlRefusal(code: ESRCH, message: "the process that asked is gone"))
    _ = try attach(producers, pid: 7)
  }

  /// Its connection, which a child may have, still says the number, and somebody else has it now.
  @Test func deadProcessIsNotAttachedAsWhoeverHasItsNumberNow() throws {
    let child = try ChildProcess(["true"])
    let handle = try ProcessHandle(pid: child.pid)
    #expect(child.wait() == 0)
    let producers = try producers(limit: 2)
    _ = try attach(producers, pid: 7)
    #expect(refusal(producers, handle)?.code == ESRCH)
  }

  /// Before Linux 6.9 handles cannot be compared.
  @Test func numberAloneMakesNoProcessKnown() throws {
    let producers = try producers(limit: 2)
    let owner = try attach(producers, pid: 7)
    let child = try ChildProcess(["sleep", "1000"])
    defer {
      child.signal(SIGKILL)
      _ = child.wait()
    }
    let handle = try ProcessHandle(pid: child.pid)
    let areComparable = handle.isSame(as: handle) != nil
    let other = try producers.attach(
      channel, limit: nil, process: handle, peer: PeerCredentials(pid: 7, uid: 0, gid: 0),
      account: 0)
    #expect((other != owner) == areComparable)
  }

  @Test func whoCannotBeWatchedIsNotAttached() throws {
    let producers = try producers(limit: 1)
    let handle = try ProcessHandle(pid: getpid())
    let number = handle.raw
    // The kernel refuses what is watched already.
    try loop.add(number, .read, producers)
    #expect(
      refusal(producers, handle)
        == ControlRefusal(
          code: EEXIST,
          message: "cannot watch process 7: watch descriptor \(number): File exists"))
    _ = try attach(producers, pid: 7)
  }

  @Test func aChannelsLimitIsItsOwn() throws {
    let producers = try producers(limit: 10)
    _ = try attach(producers, pid: 1)
    #expect(throws: ControlRefusal.self) { try attach(producers, pid: 2, limit: 1) }
    _ = try attach(producers, pid: 2, limit: 2)
    producers.forget(channel)
    _ = try attach(producers, pid: 3, limit: 1)
  }

  @Test func oneOwnerIDAlwaysStaysFree() throws {
    let highest = Int(Channel.highestOwner) - 1
    let producers = try producers(limit: .max)
    #expect(producers.limit == highest)
    producers.limit = 5
    #expect(producers.limit == 5)
    producers.limit = .max
    #expect(producers.limit == highest)
  }
}
