// SPDX-License-Identifier: Apache-2.0
// Very many channels: what they cost to start, to have and to wake.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ScaleTests {
    static func configuration(_ count: Int) -> String {
      (0..<count).map { "[channel.c\($0)_]\nglobal = true\nsubbuf_size = 4096\n" }.joined()
    }

    @Test(.onceIsEnough) func aThousandChannelsStartInTwoSecondsAndCostLittle() throws {
      func residentKiB(_ daemon: Daemon) throws -> Int {
        // All of it is touched that ever will be.
        #expect(try daemon.relayctl("stat").status == 0)
        return try daemon.proc("status", "VmRSS")
      }
      let one = try residentKiB(Daemon(configuration: ScaleTests.configuration(1)))
      let start = ContinuousClock.now
      let daemon = try Daemon(configuration: ScaleTests.configuration(1000))
      let time = ContinuousClock.now - start
      #expect(time < .seconds(2))
      #expect(try daemon.channels().count == 1000)
      let each = try Double(residentKiB(daemon) - one) / 999
      print("FIGURE", time, each)
      #expect(each <= 64, "KiB")
      #expect(try daemon.switchesWhenIdle() == 0)
      #expect(daemon.end() == 0)
    }

    @Test(.onceIsEnough) func aWakeUpCostsNoMoreAmongAThousandThatWait() throws {
      let few = try wakeUpNanoseconds(channels: 10)
      let many = try wakeUpNanoseconds(channels: 1000)
      print("FIGURE", few, many)
      #expect(many < 3 * few)
    }

    /// Processor time of the daemon for each record that a waiting reader is woken for, while all
    /// devices have one that waits.
    func wakeUpNanoseconds(channels count: Int) throws -> Int {
      let daemon = try Daemon(configuration: ScaleTests.configuration(count))
      let loop = try EventLoop()
      let drain = Drain()
      var files: [CInt] = []
      defer { for file in files { close(file) } }
      for i in 0..<count {
        files.append(try FileDescriptor.open(daemon.device("c\(i)_0"), O_RDONLY).take())
        try loop.add(files[i], .read, drain)
      }
      let pipe = try Pipe()
      let writer = try daemon.startWriter("c0_", pipe)
      defer { _ = writer.wait() }
      defer { writer.signal(SIGKILL) }
      func processorNanoseconds() throws -> Int {
        let sum = "cat /proc/\(daemon.process.pid)/task/*/schedstat"
        return try run("bash", "-c", sum).output.split(separator: "\n").reduce(0) {
          $0 + Int($1.prefix { $0 != " " })!
        }
      }
      let rounds = 1000
      let before = try processorNanoseconds()
      for round in 1...rounds {
        #expect(write(pipe.write.raw, "x\n", 2) == 2)
        while drain.count < round { try loop.runOnce(timeoutMilliseconds: 10_000) }
      }
      return try (processorNanoseconds() - before) / rounds
    }

    private final class Drain: EventHandler {
      var count = 0

      func handle(_ events: Events, from fd: CInt) {
        var bytes: (UInt64, UInt64) = (0, 0)
        if read(fd, &bytes, 16) == 2 { count += 1 }
      }
    }

    @Test func threeHundredNodesComeWorkAndGo() throws {
      guard Backend.underTest == .cuse else { return }
      func nodes() throws -> Int {
        try run("ls", "/dev").output.split(separator: "\n").count {
          $0.hasPrefix("c") && $0.hasSuffix("_0")
        }
      }
      let daemon = try Daemon(configuration: ScaleTests.configuration(300))
      #expect(try nodes() == 300)
      for i in [0, 150, 299] { try daemon.write("on \(i)\n", to: "c\(i)_") }
      let read = try daemon.shell("cat /dev/c{0..299}_0")
      #expect(read.output == "on 0\non 150\non 299\n", "\(read.error)")
      #expect(read.status == 0)
      #expect(try daemon.switchesWhenIdle() == 0)
      #expect(daemon.end() == 0)
      #expect(try nodes() == 0)
    }
  }
}
