// SPDX-License-Identifier: Apache-2.0
// Devices of one serving thread that have something to do at once: they take turns, and between two
// of those the thread looks for requests.

import LinuxIO
import Relay
import Testing

@testable import DeviceHost

@Suite struct SharedThreadTests {
  private let thread: ServingThread

  init() throws {
    // Never started: the test has it wait for events, once at a time.
    thread = try ServingThread(
      readers: ReaderCount(Share(of: 1000, perUser: nil)), changes: -1, log: { _, _, _ in true },
      logUse: { _, _ in })
  }

  private static var options: FileOptions {
    var options = FileOptions()
    options.blocks = true
    return options
  }

  /// Has a read wait at each.
  private func serve(_ kernels: [FakeKernel]) throws {
    for kernel in kernels {
      kernel.device.keeper = thread
      thread.take(kernel.device)
      try? thread.watch(kernel.channel.wakeDescriptor)
      let file = try kernel.open()
      #expect(try kernel.exchange(.read, FakeKernel.read(file, 100)) == [])
    }
    // What that has left to do.
    while try thread.loop.runOnce(timeoutMilliseconds: 0) > 0 {}
  }

  /// Serves until all reads are answered: one device's at most between two looks for requests.
  private func expectTurns(_ kernels: [FakeKernel], with answer: String) throws {
    var left = kernels
    while !left.isEmpty {
      guard try thread.loop.runOnce(timeoutMilliseconds: 10_000) > 0 else { break }
      var told = 0
      left = try left.filter { kernel in
        let messages = try kernel.messages()
        guard !messages.isEmpty else { return true }
        #expect(messages.map(\.body) == [Array(answer.utf8)])
        told += 1
        return false
      }
      #expect(told <= 1)
    }
    #expect(left.isEmpty)
  }

  private func makeKernels() throws -> [FakeKernel] {
    try (0..<20).map { _ in try FakeKernel(options: SharedThreadTests.options) }
  }

  @Test func channelsThatSignalAtOnceTakeTurns() throws {
    let kernels = try makeKernels()
    try serve(kernels)
    for _ in 0..<2 {
      for kernel in kernels { kernel.channel.write("x") }
      try expectTurns(kernels, with: "x")
      for kernel in kernels {
        #expect(try kernel.exchange(.read, FakeKernel.read(try kernel.open(), 100)) == [])
      }
    }
  }

  @Test func buffersOfAChannelTakeTurns() throws {
    let cpus = CPUSet(0..<8)
    let channel = try Channel.open(
      "test", Geometry(subbufSize: 4096, subbufCount: 4, online: cpus, possible: cpus))
    let kernels = try cpus.cpus.map {
      try FakeKernel(channel, buffer: $0, options: SharedThreadTests.options)
    }
    try serve(kernels)
    channel.close()
    try expectTurns(kernels, with: "")
  }

  @Test func whoseSignalsWereLostTakeTurnsAtTheTick() throws {
    let kernels = try makeKernels()
    try serve(kernels)
    for kernel in kernels {
      kernel.device.reader.disarm(kernel.device.options.wakeup)
      kernel.channel.write("x")
    }
    try expectTurns(kernels, with: "x")
    #expect(kernels.allSatisfy { !$0.device.isAwaited })
    // Nobody is awaited any more: it ticks no more.
    while kernels.contains(where: \.device.isKept) {
      #expect(try thread.loop.runOnce(timeoutMilliseconds: 10_000) > 0)
    }
  }

  @Test func deviceAloneHasItsTurnAtOnce() throws {
    let kernel = try makeKernels()[0]
    try serve([kernel])
    kernel.channel.write("x")
    #expect(try thread.loop.runOnce(timeoutMilliseconds: 10_000) == 1)
    #expect(try kernel.messages().map(\.body) == [Array("x".utf8)])
  }
}
