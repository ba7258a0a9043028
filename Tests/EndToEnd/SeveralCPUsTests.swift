// SPDX-License-Identifier: Apache-2.0
// relayctl read of several CPUs' buffers: one stream by time, or one file for each. Where there is
// one CPU only, there is nothing to merge; Tests/VM/with-cpus has four.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.enabled(if: (try? Processors.online().cpus.count) ?? 0 > 1)) struct SeveralCPUsTests {
    private static let channel = "relay:timestamps,subbuf_size=4KiB,n_subbufs=4"
    /// Longer than any test waits for something.
    private static let forEver = ["--time", "--window", "600s", "--lost"]

    private let cpus: [Int]

    init() throws { cpus = try Processors.online().cpus }

    private func write(_ text: String, on cpu: Int, _ daemon: Daemon) throws {
      let finished = try daemon.shell(
        "printf '\(text)' | taskset -c \(cpu) $BIN/relayctl write relay")
      #expect(finished.status == 0, "\(finished.error)")
    }

    /// A record that was begun before the one that is read, and committed after it.
    private func withStraggler(
      _ daemon: Daemon, _ body: (_ commit: () -> Int) throws -> Void
    ) throws {
      let library = try Library.get()
      let straggler = try library.program("straggler", Library.c, "straggler.c")
      let go = try Pipe()
      let said = try outputFile("said")
      let writer = try ChildProcess(
        ["taskset", "-c", "\(cpus[0])", straggler], input: go.read.raw, output: said.raw,
        environment: ["LD_LIBRARY_PATH": library.libraries, "RELAY_SOCKET": daemon.socket])
      try eventually("it has reserved") { text(of: said.raw) == "reserved\n" }
      try write("later\n", on: cpus[1], daemon)
      try eventually("the later one is read") { try daemon.statistic("records_read") == 1 }
      try body {
        _ = Glibc.write(go.write.raw, "\n", 1)
        return writer.wait()
      }
    }

    @Test func aStragglerWithinTheWindowComesInOrder() throws {
      let daemon = try Daemon(SeveralCPUsTests.channel)
      let follower = try Follower(daemon, SeveralCPUsTests.forEver)
      try withStraggler(daemon) { commit in
        #expect(follower.output == "", "the later one waits")
        #expect(commit() == 0)
        try daemon.require("close", "relay")
        // At the end nothing waits.
        #expect(follower.wait() == 0)
        #expect(follower.records == ["early", "later"])
        #expect(follower.error == "relayctl: channel relay: 2 records read, none lost\n")
      }
    }

    @Test func oneThatComesLaterIsPrintedAtOnceAndSaid() throws {
      let daemon = try Daemon(SeveralCPUsTests.channel)
      let follower = try Follower(daemon, ["--time", "--window", "1ms", "--lost"])
      try withStraggler(daemon) { commit in
        try eventually("the window has passed") { follower.records == ["later"] }
        #expect(commit() == 0)
        try eventually("it comes all the same") { follower.records == ["later", "early"] }
        try daemon.require("close", "relay")
        #expect(follower.wait() == 0)
        #expect(
          follower.error.contains("channel relay: 1 records out of order, by up to "),
          "\(follower.error)")
      }
    }

    @Test func aRecordIsPrintedOnceAllOthersShowALaterOne() throws {
      let daemon = try Daemon(SeveralCPUsTests.channel)
      let follower = try Follower(daemon, SeveralCPUsTests.forEver)
      for cpu in cpus { try write("on \(cpu)\n", on: cpu, daemon) }
      try eventually("the first has waited for the last") {
        follower.records == ["on \(cpus[0])"]
      }
    }

    @Test func aHalfFullBufferIsReadOnWhateverTheWindow() throws {
      let daemon = try Daemon(SeveralCPUsTests.channel)
      let follower = try Follower(daemon, SeveralCPUsTests.forEver)
      // Many times what a reader and the buffer hold.
      try daemon.shell(
        "seq 100000 | timeout 60 taskset -c \(cpus[1]) $BIN/relayctl write relay")
      try daemon.require("close", "relay")
      #expect(follower.wait() == 0)
      #expect(follower.records == (1...100_000).map(String.init))
      #expect(follower.error == "relayctl: channel relay: 100000 records read, none lost\n")
    }

    @Test(arguments: [SIGINT, SIGTERM, SIGHUP])
    func aSignalLeavesNothingUnprinted(_ signal: CInt) throws {
      let daemon = try Daemon(SeveralCPUsTests.channel)
      let follower = try Follower(daemon, SeveralCPUsTests.forEver)
      try write("one\n", on: cpus[1], daemon)
      try eventually("it is read") { try daemon.statistic("records_read") == 1 }
      #expect(follower.output == "")
      follower.signal(signal)
      #expect(follower.wait() == 128 + Int(signal))
      #expect(follower.records == ["one"])
      #expect(follower.error == "relayctl: channel relay: 1 records read, none lost\n")
    }

    @Test func whatWaitsWhenRelaydDiesIsPrintedOnce() throws {
      let first = try Daemon(SeveralCPUsTests.channel)
      let follower = try Follower(first, SeveralCPUsTests.forEver)
      try write("one\n", on: cpus[1], first)
      try eventually("it is read") { try first.statistic("records_read") == 1 }
      first.end(SIGKILL)
      try eventually("nothing earlier can come") { follower.records == ["one"] }
      let next = try Daemon(SeveralCPUsTests.channel, in: first.scratch)
      for cpu in cpus { try write("on \(cpu)\n", on: cpu, next) }
      try eventually("it reads on") { follower.records == ["one", "on \(cpus[0])"] }
      try next.require("close", "relay")
      #expect(follower.wait() == 0)
      #expect(follower.records == ["one"] + cpus.map { "on \($0)" })
    }

    @Test func eachCPUsLossesAreSaidAndAllTogether() throws {
      let daemon = try Daemon("relay:mode=overwrite,subbuf_size=4KiB,n_subbufs=2")
      try write("one\n", on: cpus[0], daemon)
      try daemon.shell("seq -f %0999.0f 20 | taskset -c \(cpus[1]) $BIN/relayctl write relay")
      let finished = try daemon.relayctl("read", "relay")
      let kept = finished.output.split(separator: "\n").count - 1
      let lines = finished.error.split(separator: "\n")
      #expect(lines.count == 2)
      let device = daemon.device("relay\(cpus[1])")
      #expect(
        lines[0].hasPrefix("relayctl: \(device): \(kept) records read, \(20 - kept) lost ("))
      #expect(
        lines[1].hasPrefix(
          "relayctl: channel relay: \(kept + 1) records read, \(20 - kept) lost ("))
    }

    @Test func eachCPUHasItsFile() throws {
      let daemon = try Daemon("relay")
      for cpu in cpus { try write("on \(cpu)\n", on: cpu, daemon) }
      let file = "\(daemon.scratch.path)/trace"
      try daemon.require("read", "relay", "--per-cpu", "--output", file)
      for cpu in cpus { #expect(try run("cat", "\(file).cpu\(cpu)").output == "on \(cpu)\n") }
    }
  }
}
