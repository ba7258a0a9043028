// SPDX-License-Identifier: Apache-2.0
// What an ordinary user does to one channel as often as can be done, readers of another channel
// hardly notice, and root's list is answered.
//
// A storm takes processor time from everybody on the machine, whatever it is aimed at. So the calm
// that it is compared with is the same storm, as strong, aimed at a second relayd of the same
// configuration: what is left of the difference goes through the relayd that they share.
// The two storms take turns of 25 ms, in which they are stopped and continued, so that both meet
// the same of what else the machine does; the median of the rounds decides.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct StormTests {
    private static let isLong = environment("RELAY_STRESS") == "1"
    /// Of one round. In a shorter one, one slice of the scheduler decides. `make stress` has the
    /// patience for 10 s of each storm.
    private static let milliseconds = isLong ? 4000 : 1500
    /// Each request waits once for those of the storm's connections, all of them light: not for
    /// what is unread, a look at an index, or memory that is taken or given back.
    private static let longestListMilliseconds = 500

    /// Each with the connections it has, of the 128 that a user may have.
    static let atSocket = [
      "stat": 120, "list": 120, "connect": 120, "readers": 120, "reset": 120, "create": 120,
      "prefault": 8,
    ]
    /// At the devices of channels of their own, which are named after them.
    static let atOwnChannel = ["peek", "empty"]

    /// A storm that runs until it is let go of.
    private final class Storm {
      let process: ChildProcess
      private let error: FileDescriptor

      private init(_ process: ChildProcess, _ error: consuming FileDescriptor) {
        self.process = process
        self.error = error
      }

      /// Of somebody who may write into the channel and read it, and is not root.
      static func start(_ arguments: [String], _ environment: [String: String]) throws -> Storm {
        let output = try Pipe()
        let error = try outputFile("storm")
        let process = try ChildProcess(
          PermissionTests.writer + arguments, output: output.write.raw, error: error.raw,
          environment: environment)
        let storm = Storm(process, error)
        let ready = Readiness.wait(output.read.raw, .read, timeoutMilliseconds: 30_000)
        guard ready.contains(.read) else { throw Failure("no storm: \(storm.complaint)") }
        kill(-process.pid, SIGSTOP)
        return storm
      }

      private var complaint: String { text(of: error.raw) }

      func checkThatItLasts() {
        let lasts = kill(process.pid, 0) == 0
        #expect(lasts && complaint == "")
      }

      deinit {
        kill(-process.pid, SIGKILL)
        _ = process.wait()
      }
    }

    /// A relayd with channels that are stormed, of which one has 64 MiB of 8-byte records unread,
    /// and one that is not.
    private struct Sea {
      let daemon: Daemon

      /// - Parameter isFilled: otherwise nothing is unread.
      init(isFilled: Bool) throws {
        daemon = try Daemon(
          configuration: """
            create_group = 6002
            [channel.storm]
            global = true
            writers = 6002
            permissions = "0444"
            subbuf_size = "8MiB"
            n_subbufs = 10
            [channel.peek]
            global = true
            writers = 6002
            permissions = "0444"
            [channel.empty]
            global = true
            writers = 6002
            permissions = "0444"
            subbuf_size = "8MiB"
            n_subbufs = 4
            [channel.calm]
            global = true
            subbuf_size = "64KiB"
            prefault = true
            """)
        chmod(daemon.scratch.path, 0o755)
        guard isFilled else { return }
        let filled = try daemon.shell(
          "head -c 64M /dev/zero | $BIN/relayctl write storm --block 8")
        #expect(filled.status == 0, "\(filled.error)")
      }

      func storm(_ kind: String) throws -> Storm {
        let library = try Library.get()
        let channel = atOwnChannel.contains(kind) ? kind : "storm"
        let arguments =
          if let connections = atSocket[kind] {
            [
              program("relay-load"), "storm", "--kind", kind, "--connections", "\(connections)",
              "storm",
            ]
          } else {
            [
              try library.program("storm", Library.c + ["-O2"], "storm.c"), kind,
              daemon.device("\(channel)0"), channel,
            ]
          }
        return try Storm.start(
          arguments, ["RELAY_SOCKET": daemon.socket, "LD_LIBRARY_PATH": library.libraries])
      }

      /// In nanoseconds: the 99th percentile of reads of the calm channel in one and the other
      /// storm, and the longest list in the first one.
      func latency(
        in storm: Storm, and other: Storm
      ) throws -> (inStorm: Int, elsewhere: Int, list: Int) {
        let finished = try daemon.shell(
          """
          $BIN/relay-load latency --milliseconds \(milliseconds) \
            --device \(daemon.device("calm0")) --storm \(storm.process.pid) \
            --other-storm \(other.process.pid) calm
          """)
        guard finished.status == 0 else { throw Failure("\(finished.status) \(finished.error)") }
        let words = finished.output.split { $0 == " " || $0 == "\n" }.compactMap { Int($0) }
        guard words.count == 3 else { throw Failure(finished.output) }
        storm.checkThatItLasts()
        other.checkThatItLasts()
        return (words[0], words[1], words[2])
      }
    }

    @Test func readersOfAnotherChannelHardlyNoticeTheStormOfAUser() throws {
      try compare(
        ["stat", "list", "connect", "readers", "open", "poll", "ioctl", "map", "die"], rounds: 5,
        isFilled: true)
    }

    /// A thousand reads that wait, and millions of empty records.
    @Test func readersOfAnotherChannelHardlyNoticeLooksAtMuch() throws {
      try compare(StormTests.atOwnChannel, rounds: 3, isFilled: false)
    }

    /// Requests that cost relayd more than an answer.
    @Test func readersAndRootHardlyNoticeAStormOfHeavyRequests() throws {
      try compare(["reset", "create", "prefault"], rounds: 3, isFilled: false)
    }

    private func compare(_ kinds: [String], rounds: Int, isFilled: Bool) throws {
      let (sea, elsewhere) = (try Sea(isFilled: isFilled), try Sea(isFilled: isFilled))
      for kind in kinds {
        let storm = try sea.storm(kind)
        let other = try elsewhere.storm(kind)
        var results: [(inStorm: Int, elsewhere: Int, list: Int)] = []
        for _ in 0..<rounds { results.append(try sea.latency(in: storm, and: other)) }
        let ratios = results.map { Double($0.inStorm) / Double($0.elsewhere) }
        let median = ratios.sorted()[rounds / 2]
        let list = results.map(\.list).max()! / 1_000_000
        if StormTests.isLong { print("make stress: storm of \(kind): \(median), list \(list) ms") }
        #expect(median <= 2, "\(kind): \(results)")
        #expect(list < StormTests.longestListMilliseconds, "\(kind): \(results)")
      }
    }
  }
}
