// SPDX-License-Identifier: Apache-2.0
// The kernel marks a process's end, whatever ends it, for those who look and the one who follows.

import Glibc
import LinuxIO
import Testing

@Suite struct LifeTests {
  private let page: LifePage
  /// By which a child opens it.
  private let path: String

  init() throws {
    page = try LifePage.create()
    path = "/proc/\(getpid())/fd/\(page.storeDescriptor)"
  }

  /// In a child: takes it up.
  private static func take(_ path: String) throws -> LifePage {
    let page = try LifePage.adopt(FileDescriptor.open(path, O_RDWR))
    try page.begin()
    let isAlive = try LifeView(page.descriptor).isAlive
    #expect(isAlive)
    return page
  }

  private func requireDeath(generation: UInt64 = 1) throws {
    let view = try LifeView(page.descriptor)
    #expect(!view.isAlive && view.generation == generation)
  }

  @Test func nobodyHadIt() throws {
    let view = try LifeView(page.descriptor)
    #expect(!view.isAlive && view.generation == 0 && page.nextGeneration == 1)
  }

  @Test func aKilledProcessIsMarked() async throws {
    await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String] in
      _ = try LifeTests.take(path)
      kill(getpid(), SIGKILL)
    }
    try requireDeath()
  }

  @Test func aTerminatedProcessIsMarked() async throws {
    await #expect(processExitsWith: .signal(SIGTERM)) { [path = path as String] in
      _ = try LifeTests.take(path)
      kill(getpid(), SIGTERM)
      poll(nil, 0, -1)
    }
    try requireDeath()
  }

  @Test func aTrapIsMarked() async throws {
    await #expect(processExitsWith: .failure) { [path = path as String] in
      _ = try LifeTests.take(path)
      // The end that is tested.
      fatalError("as it should")
    }
    try requireDeath()
  }

  @Test func anExitIsMarkedAndTheNextOneGoesOn() async throws {
    for generation in 1...3 as ClosedRange<UInt64> {
      await #expect(processExitsWith: .success) { [path = path as String] in
        _ = try LifeTests.take(path)
      }
      try requireDeath(generation: generation)
    }
    #expect(page.nextGeneration == 4)
  }

  @Test func anotherProgramIsAnotherLife() async throws {
    await #expect(processExitsWith: .success) { [path = path as String] in
      let page = try LifeTests.take(path)
      // Not this process's life: it has the page, and no thread for it.
      let test = "/proc/self/fd/\(dup(page.descriptor))"
      let command = "od -An -tx4 -N4 \(test) | grep -q ' 4'"
      let words: [String] = ["sh", "-c", command]
      var arguments = words.map { strdup($0) } + [nil]
      execv("/bin/sh", &arguments)
    }
    try requireDeath()
  }

  @Test func itIsSeenWhileItLastsAndNotTakenAway() throws {
    try page.begin()
    let view = try LifeView(page.descriptor)
    #expect(view.isAlive && view.generation == 1 && page.nextGeneration == 1)
    #expect(adoption(of: page.storeDescriptor) == EBUSY)
  }

  private func adoption(of fd: CInt) -> CInt {
    code { () throws(SystemError) in _ = try LifePage.adopt(FileDescriptor(owning: dup(fd))) }
  }

  @Test func whoLooksCannotWrite() throws {
    #expect(
      code { () throws(SystemError) in
        _ = try Mapping.shared(
          page.descriptor, count: 4096, writable: true, inheritedByChildren: false)
      } == EACCES)
  }

  @Test func whatIsNoPageIsRefused() throws {
    let file = try MemoryFile.create(name: "x", count: 4096)
    #expect(code { () throws(SystemError) in _ = try LifeView(file.raw) } == EINVAL)
    #expect(adoption(of: file.raw) == EINVAL)
    let empty = try MemoryFile.create(name: "x", count: 0)
    try MemoryFile.seal(empty.raw, [.shrink, .grow])
    #expect(code { () throws(SystemError) in _ = try LifeView(empty.raw) } == EINVAL)
    #expect(adoption(of: empty.raw) == EINVAL)
  }
}
