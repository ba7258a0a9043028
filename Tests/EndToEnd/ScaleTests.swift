// SPDX-License-Identifier: Apache-2.0
// Very many channels: what they cost to start, to have and to wake.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ScaleTests {
    static let small = "global = true\nsubbuf_size = 4096\n"

    static func configuration(_ count: Int, _ options: String = small) -> String {
      (0..<count).map { "[channel.c\($0)_]\n\(options)" }.joined()
    }

    /// Small global ones, and as they are by default: a buffer of 2 MiB for each CPU.
    @Test(.onceIsEnough, arguments: [small, ""])
    func aThousandChannelsStartInTwoSecondsAndCostLittle(_ options: String) throws {
      func residentKiB(_ daemon: Daemon) throws -> Int {
        // All of it is touched that ever will be.
        #expect(try daemon.relayctl("stat").status == 0)
        return try daemon.proc("status", "VmRSS")
      }
      let one = try residentKiB(Daemon(configuration: ScaleTests.configuration(1, options)))
      let start = ContinuousClock.now
      let daemon = try Daemon(configuration: ScaleTests.configuration(1000, options))
      let time = ContinuousClock.now - start
      #expect(time < .seconds(2))
      #expect(try daemon.channels().count == 1000)
      let each = try Double(residentKiB(daemon) - one) / 999
      #expect(each <= 64, "KiB")
      try daemon.requireSleep()
      #expect(daemon.end() == 0)
    }

    @Test(.onceIsEnough) func aThousandChannelsCloseUnderTheirReaders() throws {
      let daemon = try Daemon(configuration: ScaleTests.configuration(1))
      let before = try daemon.descriptorCount()
      try daemon.configure(ScaleTests.configuration(1001))
      try daemon.require("reload")
      var files = try (1...1000).map {
        try FileDescriptor.open(daemon.device("c\($0)_0"), O_RDONLY).take()
      }
      try daemon.write("one\n", to: "c1000_")
      try daemon.configure(ScaleTests.configuration(1))
      try daemon.require("reload")
      #expect(try daemon.channels().count == 1001, "as long as somebody has them open")
      #expect(try Files.names(in: daemon.mount) == ["c0_0"])
      var bytes = [UInt8](repeating: 0, count: 100)
      #expect(read(files[999], &bytes, 100) == 4)
      #expect(files.allSatisfy { read($0, &bytes, 100) == 0 })
      for file in files { close(file) }
      files = []
      try eventually("they are gone") { try daemon.channels() == ["c0_"] }
      try eventually("their descriptors, too") { try daemon.descriptorCount() == before }
    }

    @Test(.onceIsEnough) func aWakeUpCostsNoMoreAmongThousandsThatWait() throws {
      let count = 2000
      var limit = rlimit()
      getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      limit.rlim_cur = limit.rlim_max
      setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
      let daemon = try Daemon(
        configuration: "max_channels = \(count)\n" + ScaleTests.configuration(count))
      let loop = try EventLoop()
      let drain = Drain()
      var files: [CInt] = []
      defer { for file in files { close(file) } }
      func wait(on count: Int) throws {
        for i in files.count..<count {
          files.append(try FileDescriptor.open(daemon.device("c\(i)_0"), O_RDONLY).take())
          try loop.add(files[i], .read, drain)
        }
      }
      let pipe = try Pipe()
      let writer = try daemon.startWriter("c0_", pipe)
      defer { _ = writer.wait() }
      defer { writer.signal(SIGKILL) }
      try wait(on: 10)
      let few = try wakeUpNanoseconds(daemon, loop, drain, pipe.write.raw)
      try wait(on: count)
      let many = try wakeUpNanoseconds(daemon, loop, drain, pipe.write.raw)
      // 200 times as many wait; on a busy machine they fill the caches.
      #expect(many < 10 * few)
    }

    /// Processor time of the daemon for each record that the reader of the first channel is woken
    /// for: the least of a few rounds.
    private func wakeUpNanoseconds(
      _ daemon: Daemon, _ loop: EventLoop, _ drain: Drain, _ input: CInt
    ) throws -> Int {
      func processorNanoseconds() throws -> Int {
        let times = "cat /proc/\(daemon.process.pid)/task/*/schedstat"
        return try run("bash", "-c", times).output.split(separator: "\n").reduce(0) {
          $0 + Int($1.prefix { $0 != " " })!
        }
      }
      let records = 500
      return try (0..<4).map { _ in
        let before = try processorNanoseconds()
        for _ in 0..<records {
          let wanted = drain.count + 1
          #expect(write(input, "x\n", 2) == 2)
          while drain.count < wanted { try loop.runOnce(timeoutMilliseconds: 10_000) }
        }
        return try (processorNanoseconds() - before) / records
      }.min()!
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
      try daemon.requireSleep()
      #expect(daemon.end() == 0)
      #expect(try nodes() == 0)
    }
  }
}
