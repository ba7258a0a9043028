// SPDX-License-Identifier: Apache-2.0
// Times of the records of a writer whose time namespace sets CLOCK_MONOTONIC off, as relay(4) has
// them under CAVEATS.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct TimeNamespaceTests {
    private func monotonicSeconds() -> Double {
      var now = timespec()
      clock_gettime(CLOCK_MONOTONIC, &now)
      return Double(now.tv_sec) + Double(now.tv_nsec) / 1e9
    }

    /// A relayd that finds the time stamp counter untrusted, as on machines whose kernel drops it,
    /// and so takes times from CLOCK_MONOTONIC.
    private func startWithoutTSC(in scratch: Scratch) throws -> Daemon {
      let sources = "/sys/devices/system/clocksource/clocksource0/available_clocksource"
      let command = "echo jiffies >$0 && mount --bind $0 \(sources) && exec \"$@\""
      return try Daemon(
        "trace:global,timestamps", in: scratch,
        prefix: ["unshare", "--mount", "bash", "-c", command, "\(scratch.path)/sources"])
    }

    /// One record from here, one from a namespace with the offset, one from here, as they are read.
    private func times(_ offset: Int, _ daemon: Daemon) throws -> [(seconds: Double, text: String)]
    {
      try daemon.write("one\n", to: "trace")
      try daemon.shell(
        "echo two | unshare --time --monotonic=\(offset) --fork $BIN/relayctl write trace")
      try daemon.write("three\n", to: "trace")
      // Where its mounts are.
      let read = ["nsenter", "--mount", "--target", "\(daemon.process.pid)"]
      let output = try daemon.relayctl(["read", "trace", "--time"], prefix: read).output
      return output.split(separator: "\n").map { line in
        let parts = line.dropFirst().split(separator: "]")
        return (Double(parts[0].drop { $0 == " " })!, String(parts[1].dropFirst()))
      }
    }

    @Test(arguments: [100_000, -1_000]) func writerWithAnotherClockKeepsOrderAndRange(
      _ offset: Int
    ) throws {
      let before = monotonicSeconds()
      let daemon = try Daemon("trace:global,timestamps")
      let times = try times(offset, daemon)
      #expect(times.map(\.text) == ["one", "two", "three"])
      #expect(times.map(\.seconds) == times.map(\.seconds).sorted())
      #expect(times.allSatisfy { $0.seconds >= before && $0.seconds <= monotonicSeconds() })
    }

    @Test func clockAheadGivesTheTimeOfReading() throws {
      let before = monotonicSeconds()
      let times = try times(100_000, startWithoutTSC(in: Scratch()))
      #expect(times.map(\.text) == ["one", "two", "three"])
      #expect(times.allSatisfy { $0.seconds >= before && $0.seconds <= monotonicSeconds() })
      #expect(times[0].seconds < times[1].seconds && times[1].seconds == times[2].seconds)
    }

    @Test func clockBehindGivesTheTimeOfTheRecordBefore() throws {
      let times = try times(-1_000, startWithoutTSC(in: Scratch()))
      #expect(times.map(\.text) == ["one", "two", "three"])
      #expect(times[0].seconds == times[1].seconds && times[1].seconds < times[2].seconds)
    }
  }
}
