// SPDX-License-Identifier: Apache-2.0
// relayctl read --follow over a daemon's death: each record once, whatever the next daemon has of
// them.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct FollowTests {
    private let out: CInt
    private let error: CInt

    init() throws {
      // Closed with the test process.
      out = try MemoryFile.create(name: "out", count: 0).take()
      error = try MemoryFile.create(name: "error", count: 0).take()
    }

    private func follow(_ daemon: Daemon, _ options: String...) throws -> ChildProcess {
      try ChildProcess(
        [program("relayctl"), "read", "relay", "--follow"] + options, output: out, error: error,
        environment: ["RELAY_SOCKET": daemon.socket])
    }

    @Test func aFollowerGoesOnWithTheNextDaemon() throws {
      let channel = "relay:global"
      // All are kept to the end: each unmounts then what is mounted.
      var daemons = [try Daemon(channel)]
      var daemon: Daemon { daemons.last! }
      let reader = try follow(daemon)
      var expected = ""
      for round in 0..<3 {
        for line in ["\(round) a\n", "\(round) b\n"] {
          try daemon.write(line)
          expected += line
          try eventually("\(line) arrives") { text(of: out) == expected }
        }
        daemon.end(SIGKILL)
        daemons.append(try Daemon(channel, in: daemon.scratch))
      }
      let last = "the end\n"
      try daemon.write(last)
      try eventually("the last line arrives") { text(of: out) == expected + last }
      try daemon.require("close", "relay")
      #expect(reader.wait() == 0)
      let gone = "relayctl: relayd is gone; waiting until channel relay is there again\n"
      #expect(text(of: error) == gone + gone + gone)
    }

    @Test func eachCPUsDeviceIsOpenedAgain() throws {
      let first = try Daemon("relay")
      let reader = try follow(first)
      defer { _ = reader.wait() }
      defer { reader.signal(SIGKILL) }
      try first.write("zero\n")
      try eventually("it reads") { text(of: out) == "zero\n" }
      first.end(SIGKILL)
      let daemon = try Daemon("relay", in: first.scratch)
      var count = 5
      for cpu in try Processors.online().cpus {
        try daemon.shell("echo 'on \(cpu)' | taskset -c \(cpu) $BIN/relayctl write relay")
        count += "on \(cpu)\n".utf8.count
        try eventually("it arrives") { text(of: out).utf8.count == count }
      }
    }

    @Test func lossesAreSaidWhereTheyAre() throws {
      let daemon = try Daemon("relay:global,mode=overwrite,subbuf_size=4096,n_subbufs=2")
      try daemon.shell("seq -f %0999.0f 1 20 | $BIN/relayctl write relay")
      let finished = try daemon.relayctl("read", "relay", "--lost")
      let kept = finished.output.utf8.count / 1000
      #expect(kept >= 4 && kept <= 8 && finished.output.hasSuffix("20\n"))
      let device = daemon.device("relay0")
      #expect(
        finished.error == "relayctl: \(device): \(20 - kept) records lost here: overwritten\n")
    }

    @Test func timesAreShownAndOrderTheCPUs() throws {
      let daemon = try Daemon("relay:timestamps")
      let cpus = try Processors.online().cpus
      for i in 0..<20 {
        try daemon.shell(
          "echo 'line \(i)' | taskset -c \(cpus[i % cpus.count]) $BIN/relayctl write relay")
      }
      let lines = try daemon.relayctl("read", "relay", "--time").output.split(separator: "\n")
      #expect(
        lines.map { String($0.drop { $0 != "]" }) } == (0..<20).map { "] line \($0)" })
      let times = lines.compactMap { line in
        Double(line.dropFirst().prefix { $0 != "]" }.drop { $0 == " " })
      }
      #expect(times.count == 20 && times == times.sorted())
      var now = timespec()
      clock_gettime(CLOCK_MONOTONIC, &now)
      #expect(times[0] > 0 && times[19] <= Double(now.tv_sec) + 1)
    }

    @Test func recordsWithoutTimesHaveNoneToShow() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let finished = try daemon.relayctl("read", "relay", "--time")
      #expect(finished.status == 1 && finished.error.contains("have no times"))
      #expect(try daemon.relayctl("read", "relay").output == "one\n", "nothing was consumed")
    }
  }
}
