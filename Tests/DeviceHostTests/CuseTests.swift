// SPDX-License-Identifier: Apache-2.0
// What is particular to CUSE devices: their numbers, and registrations that fail, which the kernel
// reports to nobody.

import Glibc
import LinuxIO
import Relay
import Testing

@testable import DeviceHost

@Suite(.serialized, .enabled(if: backend == .cuse)) struct CuseTests {
  private func number(_ path: String) throws -> DeviceNumber {
    var status = stat()
    #expect(stat(path, &status) == 0, "\(path)")
    #expect(status.st_mode & S_IFMT == S_IFCHR)
    return DeviceNumber(UInt64(status.st_rdev))
  }

  @Test func allDevicesShareOneMajorNumber() throws {
    let channel = try makeChannel()
    let host = try LiveHost((0..<4).map { ("major\($0)", channel) })
    let numbers = try (0..<4).map { try number(host.path("major\($0)")) }
    #expect(Set(numbers.map(\.major)).count == 1)
    #expect(numbers.map(\.minor) == [0, 1, 2, 3])
  }

  @Test func aNameMayHoldASlash() throws {
    let channel = try makeChannel()
    let host = try LiveHost([("group/slash0", channel)])
    channel.write("hello")
    #expect(try output("cat", host.path("group/slash0")) == "hello")
  }

  @Test func aNameThatAnotherDeviceHasIsFound() throws {
    let host = try LiveHost([("twice0", makeChannel())])
    let message = try #require(try failure(.cuse, ["first0", "twice0"]))
    #expect(message.contains("twice0"))
    #expect(access("/dev/first0", F_OK) != 0, "what came up before is taken down again")
    #expect(access(host.path("twice0"), F_OK) == 0)
  }

  @Test func twoDevicesOfOneNameAreFound() throws {
    let message = try #require(try failure(.cuse, ["same0", "same0"]))
    #expect(message.contains("same0"))
    #expect(access("/dev/same0", F_OK) != 0)
  }

  @Test func aNumberThatIsTakenIsFound() throws {
    let host = try LiveHost([("number0", makeChannel())])
    let major = try number(host.path("number0")).major
    let thread = try ServingThread(
      readers: ReaderCount(Share(of: 1, perUser: nil)), changes: -1, log: { _, _, _ in true },
      logUse: { _, _ in })
    func node(_ name: String, minor: UInt32) throws -> CuseNode {
      let channel = try makeChannel(name)
      return CuseNode(
        Device(name: name, reader: Reader(channel, channel.buffers[0])), minor: minor,
        thread: thread)
    }
    let refused = try node("number1", minor: 0)
    defer { refused.end() }
    do throws(HostError) {
      try refused.register(major: major, in: nil, watch: nil)
      Issue.record("two devices of one number")
    } catch {
      #expect(
        error.description
          == "device number1: the kernel did not register it (number \(major):0); is its name or "
          + "its number taken?")
    }
    let next = try node("number2", minor: 1)
    try next.register(major: major, in: nil, watch: nil)
    next.end()
  }

  @Test(arguments: ["null", "shm"]) func aNameThatIsTakenInDevIsFound(_ name: String) throws {
    let before = try output("ls", "-ld", "/dev/\(name)")
    let message = try #require(try failure(.cuse, [name]))
    #expect(message.contains("/dev/\(name)"))
    #expect(try output("ls", "-ld", "/dev/\(name)") == before)
  }

  @Test(arguments: ["null/0", String(repeating: "x", count: 256)])
  func
    aNameThatDevCannotHoldIsFound(_ name: String) throws
  {
    #expect(
      try #require(try failure(.cuse, [name])).contains("there can be no /dev/\(name): "))
  }

  @Test func aWritersSignalReachesADeviceOnAnotherThread() throws {
    let channel = try makeChannel()
    // The first one's thread takes the signals.
    let host = try LiveHost([("near0", channel), ("far0", channel)], threadCount: 2)
    let file = try openFile(host.path("far0"))
    let loop = try EventLoop()
    let reader = Counter()
    try loop.add(file.raw, .read, reader)
    let start = ContinuousClock.now
    for round in 1...10 {
      channel.write("hello")
      while reader.wakes < round { try loop.runOnce(timeoutMilliseconds: 10_000) }
      #expect(try readOnce(file) == "hello")
    }
    // Found by the tick instead, each would take a quarter of a second.
    #expect(ContinuousClock.now - start < .seconds(2))
  }

  private final class Counter: EventHandler {
    var wakes = 0
    func handle(_ events: Events, from fd: CInt) { wakes += 1 }
  }

  @Test func stoppedDevicesCanBeBroughtUpAgain() throws {
    for _ in 0..<3 {
      let channel = try makeChannel()
      let host = try LiveHost([("again0", channel), ("again1", channel)])
      channel.write("hello")
      #expect(try output("cat", host.path("again1")) == "hello")
      host.stop()
      #expect(access("/dev/again0", F_OK) != 0)
    }
  }
}
