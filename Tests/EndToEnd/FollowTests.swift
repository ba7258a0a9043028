// SPDX-License-Identifier: Apache-2.0
// relayctl read --follow over a daemon's death: each record once, whatever the next daemon has of
// them.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct FollowTests {
    @Test func aFollowerGoesOnWithTheNextDaemon() throws {
      let channel = "relay:global"
      // All are kept to the end: each unmounts then what is mounted.
      var daemons = [try Daemon(channel)]
      var daemon: Daemon { daemons.last! }
      let reader = try Follower(daemon)
      var expected = ""
      for round in 0..<3 {
        for line in ["\(round) a\n", "\(round) b\n"] {
          try daemon.write(line)
          expected += line
          try eventually("\(line) arrives") { reader.output == expected }
        }
        daemon.end(SIGKILL)
        daemons.append(try Daemon(channel, in: daemon.scratch))
      }
      let last = "the end\n"
      try daemon.write(last)
      try eventually("the last line arrives") { reader.output == expected + last }
      try daemon.require("close", "relay")
      #expect(reader.wait() == 0)
      let gone = "relayctl: relayd is gone; waiting until channel relay is there again\n"
      #expect(reader.error == gone + gone + gone)
    }

    @Test(arguments: [SIGKILL, SIGTERM])
    func followerOfADaemonThatStoppedForGoodSaysSo(_ signal: CInt) throws {
      let held = try HeldDaemon("relay:global")
      let daemon = held.daemon
      let reader = try Follower(daemon, ["--wait", "300ms"])
      try daemon.write("one\n")
      try eventually("it reads") { reader.output == "one\n" }
      // As systemd stops it: the holder goes first, and relayd leaves the channel as it is.
      let child = try held.child()
      daemon.end(SIGKILL)
      kill(child, signal)
      #expect(reader.wait() == 69)
      #expect(
        reader.error.hasSuffix(
          """
          relayctl: relayd was stopped for good: nobody has served \(daemon.socket) for 300ms \
          (--wait); what was not read of channel relay may be kept for the next relayd: read it \
          again once there is one\n
          """), "\(reader.error)")
    }

    private func gone(_ channel: String = "relay") -> String {
      "relayctl: relayd is gone; waiting until channel \(channel) is there again\n"
    }

    @Test(arguments: [SIGTERM, SIGINT])
    func followerOfADaemonThatIsStoppedPrintsAllAndSaysSo(_ signal: CInt) throws {
      let daemon = try Daemon("relay")
      let reader = try Follower(daemon, ["--wait", "300ms"])
      try daemon.write("one\n")
      try eventually("it reads") { reader.output == "one\n" }
      try daemon.shell("seq 10000 | taskset -c 0 $BIN/relayctl write relay")
      #expect(daemon.end(signal) == 0)
      #expect(reader.wait() == 69)
      #expect(reader.output == "one\n" + (1...10_000).map { "\($0)\n" }.joined())
      #expect(
        reader.error == gone()
          + """
          relayctl: relayd was stopped for good: nobody has served \(daemon.socket) for 300ms \
          (--wait); what was not read of channel relay may be kept for the next relayd: read it \
          again once there is one\n
          """)
    }

    @Test(arguments: [SIGTERM, SIGINT], [false, true])
    func followerGoesOnWhereADaemonIsStoppedAndStartedAgain(
      _ signal: CInt, _ isHeld: Bool
    ) throws {
      let first = try Daemon("relay:global", options: isHeld ? ["--hold"] : [])
      let reader = try Follower(first)
      try first.write("one\n")
      try eventually("it reads") { reader.output == "one\n" }
      var next = first
      if isHeld {
        try HeldDaemon(first).restart(signal)
      } else {
        first.end(signal)
        next = try Daemon("relay:global", in: first.scratch)
      }
      try next.write("two\n")
      try eventually("it reads on: \(reader.error)") { reader.output == "one\ntwo\n" }
      try next.require("close", "relay")
      #expect(reader.wait() == 0)
      #expect(reader.error == gone())
    }

    @Test func closedChannelEndsItsFollowerThoughRelaydIsStoppedNext() throws {
      let daemon = try Daemon("relay:global")
      let reader = try Follower(daemon, ["--wait", "300ms"])
      try daemon.write("one\n")
      try eventually("it reads") { reader.output == "one\n" }
      try daemon.require("close", "relay")
      #expect(daemon.end() == 0)
      #expect(reader.wait() == 0)
      #expect(reader.error == "")
    }

    /// Its last writer ends while relayd lives, or relayd does first.
    @Test(arguments: [false, true])
    func temporaryChannelEndsItsFollowerAsItEnds(_ endsWithRelayd: Bool) throws {
      let daemon = try Daemon("other:global")
      try daemon.require("create", "relay", "--global")
      let reader = try Follower(daemon, ["--wait", "300ms"])
      let pipe = try Pipe()
      let writer = try daemon.startWriter("relay", pipe)
      #expect(Glibc.write(pipe.write.raw, "one\n", 4) == 4)
      try eventually("it reads") { reader.output == "one\n" }
      if endsWithRelayd { daemon.end() }
      writer.signal(SIGTERM)
      _ = writer.wait()
      #expect(reader.wait() == (endsWithRelayd ? 69 : 0))
      #expect(reader.error.hasPrefix(endsWithRelayd ? gone() : ""))
    }

    @Test func eachCPUsDeviceIsOpenedAgain() throws {
      let first = try Daemon("relay")
      let reader = try Follower(first)
      try first.write("zero\n")
      try eventually("it reads") { reader.output == "zero\n" }
      first.end(SIGKILL)
      let daemon = try Daemon("relay", in: first.scratch)
      var count = 5
      for cpu in try Processors.online().cpus {
        try daemon.shell("echo 'on \(cpu)' | taskset -c \(cpu) $BIN/relayctl write relay")
        count += "on \(cpu)\n".utf8.count
        try eventually("it arrives") { reader.output.utf8.count == count }
      }
    }

    @Test func lossesAreSaidWhereTheyAre() throws {
      let daemon = try Daemon("relay:global,mode=overwrite,subbuf_size=4096,n_subbufs=2")
      try daemon.shell("seq -f %0999.0f 1 20 | $BIN/relayctl write relay")
      let finished = try daemon.relayctl("read", "relay", "--lost")
      let kept = finished.output.utf8.count / 1000
      #expect(kept >= 4 && kept <= 8 && finished.output.hasSuffix("20\n"))
      let device = daemon.device("relay0")
      let lines = finished.error.split(separator: "\n")
      #expect(lines.count == 2)
      #expect(lines[0] == "relayctl: \(device): \(20 - kept) records lost here: overwritten")
      let percentage = "\((20 - kept) * 5).00%"
      #expect(
        lines[1]
          == "relayctl: channel relay: \(kept) records read, \(20 - kept) lost (\(percentage))")
    }

    @Test func aLossIsSaidToWhoDidNotAskAndNothingElse() throws {
      let daemon = try Daemon("relay:global,mode=overwrite,subbuf_size=4096,n_subbufs=2")
      try daemon.write("one\n")
      #expect(try daemon.relayctl("read", "relay").error == "")
      try daemon.shell("seq -f %0999.0f 1 20 | $BIN/relayctl write relay")
      let finished = try daemon.relayctl("read", "relay")
      #expect(finished.status == 0)
      #expect(
        finished.error.hasPrefix("relayctl: channel relay: ")
          && finished.error.split(separator: "\n").count == 1)
      #expect(
        try daemon.relayctl("read", "relay", "--lost").error
          == "relayctl: channel relay: 0 records read, none lost\n")
    }

    @Test(arguments: [SIGINT, SIGTERM, SIGHUP])
    func aSignalEndsAFollowerInOrder(_ signal: CInt) throws {
      let daemon = try Daemon("relay:global")
      let follower = try Follower(daemon, ["--lost"])
      try daemon.write("one\n")
      try eventually("it arrives") { follower.output == "one\n" }
      follower.signal(signal)
      #expect(follower.wait() == 128 + Int(signal))
      #expect(follower.error == "relayctl: channel relay: 1 records read, none lost\n")
      #expect(follower.output == "one\n")
    }

    @Test func aSignalThatIsIgnoredStaysSo() throws {
      let daemon = try Daemon("relay:global")
      let follower = try Follower(daemon, prefix: ["env", "--ignore-signal=HUP"])
      for line in ["one\n", "two\n"] {
        try daemon.write(line)
        try eventually("it arrives") { follower.output.hasSuffix(line) }
        follower.signal(SIGHUP)
      }
      try daemon.require("close", "relay")
      #expect(follower.wait() == 0)
    }

    /// Where poll tells of whole sub-buffers only, and none is ever whole.
    @Test(arguments: [[], ["--interval", "20ms"]])
    func aFewRecordsArriveSoonWhateverPollTells(_ options: [String]) throws {
      let daemon = try Daemon("relay:global,wakeup=subbuffer")
      let follower = try Follower(daemon, options)
      var expected = ""
      for line in ["one\n", "two\n", "three\n"] {
        try daemon.write(line)
        expected += line
        try eventually("it arrives") { follower.output == expected }
      }
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
