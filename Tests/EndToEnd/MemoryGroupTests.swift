// SPDX-License-Identifier: Apache-2.0
// Whose memory control group a channel's memory is charged to: that of the process that touches it
// first or, with prefault, relayd's. In real control groups.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.enabled(if: ControlGroup.isToBeHad, "needs memory control groups"))
  struct MemoryGroupTests {
    /// 64 MiB in all.
    private static let ring = "global,mode=overwrite,subbuf_size=8MiB,n_subbufs=8"

    private func group(_ bytes: Int) throws -> ControlGroup {
      guard let group = ControlGroup(bytes: bytes) else {
        throw Failure("no memory control group can be made here")
      }
      return group
    }

    /// Bytes of a channel's ring that are in memory.
    static func resident(_ channel: String, of pid: Int32) throws -> Int {
      let script = """
        for fd in /proc/\(pid)/fd/*; do
          [ "$(readlink $fd)" != "/memfd:relay:\(channel) (deleted)" ] || stat -L -c %b $fd
        done
        """
      let blocks = try run("bash", "-c", script).output.split(separator: "\n")
      guard let blocks = blocks.first.flatMap({ Int($0) }) else {
        throw Failure("process \(pid) has no ring of channel \(channel)")
      }
      return blocks * 512
    }

    @Test(arguments: [false, true])
    func producerInASmallGroupLivesWithAPrefaultedRing(_ isPrefaulted: Bool) throws {
      let daemon = try Daemon("relay:\(Self.ring)\(isPrefaulted ? ",prefault" : "")")
      let resident = try Self.resident("relay", of: daemon.process.pid)
      #expect(isPrefaulted ? resident > 72 << 20 : resident < 1 << 20, "\(resident)")
      // An eighth more for the index of records of 64 bytes, and little else.
      #expect(resident < 73 << 20, "\(resident)")
      let library = try Library.get()
      let fill = try library.program("fill", Library.c, "fill.c")
      let small = try group(8 << 20)
      let finished = try library.start(
        [fill, "relay", "1048576"], daemon, prefix: small.prefix, seconds: 240)
      #expect(finished.status == (isPrefaulted ? 0 : 128 + Int(SIGKILL)), "\(finished.error)")
      guard isPrefaulted else { return }
      #expect(try daemon.statistic("records_written") == 1_048_576)
      #expect(try Self.resident("relay", of: daemon.process.pid) == resident)
    }

    @Test func prefaultIsRefusedWhereTheGroupHasNotEnoughLeft() throws {
      let group = try group(128 << 20)
      let daemon = try Daemon("relay:global", prefix: group.prefix)
      // What others of the group have taken, relayd's own accounts do not say.
      let file = "/dev/shm/relay-test.\(getpid())"
      defer { unlink(file) }
      let taken = try run(
        group.prefix + ["bash", "-c", "head -c 100M /dev/zero > \(file)"])
      #expect(taken.status == 0, "\(taken.error)")
      let options = ["create", "big", "--subbuf-size", "5MiB", "--global", "--keep"]
      let refused = try daemon.relayctl(options + ["--prefault"])
      #expect(refused.status == 1)
      #expect(
        refused.error.contains(
          /channel big: prefault takes \d+ bytes now, and the control group has \d+;/),
        "\(refused.error)")
      #expect(try daemon.channels() == ["relay"])
      // Not refused: it takes nothing now.
      #expect(try daemon.relayctl(options).status == 0)
      daemon.end()
    }

    @Test(.onceIsEnough) func adoptedChannelIsPrefaultedAndKeepsItsRecords() throws {
      let channel = "[channel.relay]\nglobal = true\n"
      let daemon = try Daemon(configuration: channel, options: ["--hold"])
      try daemon.write("one\n")
      try daemon.require("create", "made", "--global", "--keep", "--prefault")
      let before = try child(daemon)
      #expect(try Self.resident("relay", of: before) < 1 << 20)
      let made = try Self.resident("made", of: before)
      #expect(made > 2 << 20)
      try daemon.configure(channel + "prefault = true\n")
      kill(before, SIGKILL)
      try eventually("the next one is ready: \(daemon.logText)") {
        daemon.logText.components(separatedBy: "ready:").count > 2
      }
      let after = try child(daemon)
      #expect(try Self.resident("relay", of: after) > 2 << 20)
      #expect(try Self.resident("made", of: after) == made)
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
      daemon.end()
    }

    /// By somebody else of its control group. The holder, which is outside, starts the next one.
    @Test func relaydThatIsKilledForItsMemoryLosesNothing() throws {
      let group = try group(96 << 20)
      let daemons = try Daemons(
        "relay:global,subbuf_size=16KiB,n_subbufs=64", options: ["--hold"])
      let held = HeldDaemon(daemons.now)
      let file = "/dev/shm/relay-test.\(getpid())"
      defer { unlink(file) }
      let trace = try daemons.compare(
        ["resting"],
        rests: [
          {
            let relayd = try held.child()
            try group.take(relayd)
            try daemons.now.require(
              "create", "big", "--subbuf-size", "4MiB", "--global", "--keep", "--prefault")
            let kills = try group.outOfMemoryKills()
            // It is the first one that the kernel chooses.
            _ = try run(
              ["bash", "-c", "echo 1000 > /proc/\(relayd)/oom_score_adj"])
            _ = try run(group.prefix + ["bash", "-c", "head -c 200M /dev/zero > \(file)"])
            unlink(file)
            #expect(try group.outOfMemoryKills() > kills)
            try eventually("the next one is ready: \(daemons.now.logText)") {
              try held.child() != relayd
                && daemons.now.logText.components(separatedBy: "ready:").count == 3
            }
          }
        ])
      #expect(trace.status == 3)
      #expect(try daemons.read().split(separator: "\n").count == 3 * 201 + 10)
      #expect(try daemons.now.statistic("lost_restart") == 0)
    }

    /// The relayd that the holder started last.
    private func child(_ daemon: Daemon) throws -> Int32 {
      try eventually("the holder names it") {
        daemon.logText.components(separatedBy: "relayd is process ").count
          >= daemon.logText.components(separatedBy: "ready:").count
      }
      let last = daemon.logText.components(separatedBy: "relayd is process ").last
      return try #require(last.flatMap { Int32($0.prefix { $0.isNumber }) })
    }
  }
}
