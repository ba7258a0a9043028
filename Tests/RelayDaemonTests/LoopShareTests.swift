// SPDX-License-Identifier: Apache-2.0
// What many requests for one thing cost the loop, step by step on this thread.

import DeviceHost
import Glibc
import LinuxIO
import Relay
import RelayControl
import Testing

@testable import RelayDaemon

@Suite final class LoopShareTests {
  private let loop: EventLoop
  private let work: BackgroundWork
  private let table: ChannelTable

  init() throws {
    loop = try EventLoop()
    work = try BackgroundWork(loop: loop)
    let host = try DeviceHost(
      backend: .fuse, mountPoint: "/nonexistent", threadCount: 1, log: { _, _, _ in true },
      logUse: { _, _ in })
    table = ChannelTable(
      host: host, kept: try KeptState(DescriptorStore { _ in }) { _, _ in }, work: work,
      limits: Limits(), limiter: try LogLimiter(loop: loop) { _, _ in }, log: { _, _ in })
  }

  deinit { work.stop() }

  /// A channel for as long as somebody writes.
  private func open(_ name: String) throws -> ServedChannel {
    let options = try ChannelOptions(parsing: "\(name):global")
    let geometry = try Geometry(
      subbufSize: 4096, subbufCount: 2, isGlobal: true, online: CPUSet([0]), possible: CPUSet([0]))
    let served = ServedChannel(
      options, .created(uid: 4001, isKept: false), try Channel.openShared(name, geometry),
      try Identity(options), pathPrefix: "/dev/\(name)")
    try table.begin(served)
    return served
  }

  /// Of those that come while one is under way nobody looks at the channel but for all of them.
  @Test func resetsThatComeDuringOneAreDoneTogether() throws {
    let served = try open("a")
    var (resets, answers) = (0, 0)
    table.onEnd = { _, _, _ in resets += 1 }
    for _ in 0..<100 {
      table.reset(served, for: 4001) {
        #expect($0 == nil)
        answers += 1
      }
    }
    #expect(resets == 1)
    while answers < 100, try loop.runOnce(timeoutMilliseconds: 10_000) > 0 {}
    #expect(answers == 100)
    #expect(resets == 2)
  }

  @Test func abandonedChannelsAreClosedOneAtATime() throws {
    let closing = try Closing(loop: loop, table: table)
    let channels = try (0..<4).map { try open("c\($0)_") }
    for served in channels { closing.expect(served) }
    #expect(table.channels.count == 4)
    channels[1].attached.insert(ConnectionID(1))
    for left in [3, 3, 2, 1, 1] {
      try loop.runOnce(timeoutMilliseconds: 0)
      #expect(table.channels.count == left)
    }
    #expect(table.channels.first === channels[1])
  }
}
