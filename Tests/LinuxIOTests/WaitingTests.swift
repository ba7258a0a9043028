// SPDX-License-Identifier: Apache-2.0
// Futexes, the membarrier, and the processors.

import Glibc
import LinuxIO
import Synchronization
import Testing

@Suite struct WaitingTests {
  @Test func aWaitOnAnotherValueReturnsAtOnce() throws {
    let memory = try Mapping.anonymous(count: 4)
    #expect(Futex.wait(memory.base, expected: 1, timeoutMilliseconds: 10_000) == .changed)
  }

  @Test func aWaitIsBounded() throws {
    let memory = try Mapping.anonymous(count: 4)
    #expect(Futex.wait(memory.base, expected: 0, timeoutMilliseconds: 1) == .timedOut)
    #expect(Futex.wake(memory.base, count: 1) == 0)
  }

  @Test func aWakeReachesAnotherMappingOfTheWord() throws {
    let file = try MemoryFile.create(name: "test", count: 4)
    let here = try Mapping.shared(file.raw, count: 4, writable: true, inheritedByChildren: true)
    let there = try Mapping.shared(
      file.raw, count: 4, writable: false, inheritedByChildren: true)
    // Sendable: an address.
    nonisolated(unsafe) let word = UnsafeRawPointer(there.base)
    let outcome = Mutex<Futex.Outcome?>(nil)
    // A thread of its own: those that run tests may all be busy, or be one.
    let waiter = try Thread(name: "waiter") {
      let result = Futex.wait(word, expected: 0, timeoutMilliseconds: 60_000)
      outcome.withLock { $0 = result }
    }
    // Counted as woken only once the other side sleeps.
    while Futex.wake(here.base, count: 1) == 0, outcome.withLock({ $0 == nil }) { sched_yield() }
    waiter.join()
    #expect(outcome.withLock { $0 } == .woken)
    extendLifetime(there)
  }

  @Test func theMembarrierWorksOnceRegistered() {
    #expect(Membarrier.register() == Membarrier.issue())
  }
}

@Suite struct ProcessorsTests {
  @Test(arguments: [
    ("0", [0]), ("0-3\n", [0, 1, 2, 3]), ("0-1,8", [0, 1, 8]), ("2,0-1,1", [0, 1, 2]), ("", []),
    ("\n", []), ("8191", [8191]),
  ])
  func aListIsUnderstood(list: String, cpus: [Int]) {
    #expect(CPUSet(list: list)?.cpus == cpus)
  }

  @Test(arguments: [
    "a", "-1", "1-", "3-1", "0-1-2", "0,,1", ",", "0,", "8192", "0-8192", " 0", "+1",
    "99999999999999999999",
  ])
  func anythingElseIsNot(list: String) {
    #expect(CPUSet(list: list) == nil)
  }

  @Test func whatIsOnlineIsPossible() throws {
    let possible = try Processors.possible()
    let online = try Processors.online()
    #expect(!online.isEmpty)
    #expect(online.cpus.allSatisfy { possible.contains($0) })
    #expect(possible.highest ?? -1 >= online.highest ?? 0)
  }
}
