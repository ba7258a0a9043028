// SPDX-License-Identifier: Apache-2.0
// What an ordinary user does as often as can be done to one channel, readers of another channel
// hardly notice, and root's list is answered.
//
// A storm takes processor time from everybody on the machine, whatever it is aimed at. So the calm
// that it is compared with is the same storm aimed at a second relayd of the same configuration:
// what is left of the difference is what goes through the relayd that both use. The two take turns,
// and the median of five rounds decides, because the machine does other things, too.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct StormTests {
    private static let isLong = environment("RELAY_STRESS") == "1"
    private static let rounds = 5
    /// Of one storm in one round; 10 s over all rounds in `make stress`.
    private static let milliseconds = isLong ? 2000 : 250
    /// A request waits for those of the storm's connections that came before it, once.
    private static let longestListMilliseconds = 1000

    static let atSocket = ["stat", "list", "connect"]
    static let atDevice = ["open", "poll", "ioctl", "map", "die"]

    /// A relayd with a channel that is stormed, in which 64 MiB of 8-byte records are unread, and one
    /// that is not.
    private struct Sea {
      let daemon: Daemon

      init() throws {
        daemon = try Daemon(
          configuration: """
            [channel.storm]
            global = true
            writers = 6002
            permissions = "0444"
            subbuf_size = "8MiB"
            n_subbufs = 10
            [channel.calm]
            global = true
            """)
        chmod(daemon.scratch.path, 0o755)
        let filled = try daemon.shell(
          "head -c 64M /dev/zero | $BIN/relayctl write storm --block 8")
        #expect(filled.status == 0, "\(filled.error)")
      }

      /// Runs a storm of a user who may write into its channel, and is not root, while `body` runs.
      func storm<R>(_ kind: String, _ body: () throws -> R) throws -> R {
        let library = try Library.get()
        let arguments =
          atSocket.contains(kind)
          ? [program("relay-load"), "storm", "--kind", kind, "storm"]
          : [
            try library.program("storm", Library.c + ["-O2"], "storm.c"), kind,
            daemon.device("storm0"), "storm",
          ]
        let output = try Pipe()
        let error = try MemoryFile.create(name: "storm", count: 0)
        let process = try ChildProcess(
          PermissionTests.writer + arguments, output: output.write.raw, error: error.raw,
          environment: ["RELAY_SOCKET": daemon.socket, "LD_LIBRARY_PATH": library.libraries])
        defer {
          process.signal(SIGKILL)
          _ = process.wait()
        }
        guard
          Readiness.wait(output.read.raw, .read, timeoutMilliseconds: 30_000).contains(.read)
        else { throw Failure("no storm of \(kind): \(text(of: error.raw))") }
        defer { #expect(kill(process.pid, 0) == 0 && text(of: error.raw) == "", "the storm lasts") }
        return try body()
      }

      /// Of the calm channel, in nanoseconds: the 99th percentile of its reads, the longest list.
      func latency() throws -> (read: Int, list: Int) {
        let finished = try daemon.shell(
          """
          $BIN/relay-load latency --milliseconds \(milliseconds) --device \(daemon.device("calm0")) \
            calm
          """)
        let words = finished.output.split { $0 == " " || $0 == "\n" }.compactMap { Int($0) }
        guard finished.status == 0, words.count == 2 else { throw Failure(finished.error) }
        return (words[0], words[1])
      }
    }

    @Test func aStormOfOneUserIsNotNoticedByReadersOfAnotherChannel() throws {
      let (sea, elsewhere) = (try Sea(), try Sea())
      for kind in StormTests.atSocket + StormTests.atDevice {
        var ratios: [Double] = []
        var calms: [Int] = []
        var longestList = 0
        for round in 1...StormTests.rounds {
          var calm = 0
          var stormy = (read: 0, list: 0)
          func lookAtCalm() throws { calm = try elsewhere.storm(kind) { try sea.latency().read } }
          if round % 2 == 0 { try lookAtCalm() }
          stormy = try sea.storm(kind) { try sea.latency() }
          if round % 2 == 1 { try lookAtCalm() }
          calms.append(calm)
          ratios.append(Double(stormy.read) / Double(calm))
          longestList = max(longestList, stormy.list)
        }
        let median = ratios.sorted()[StormTests.rounds / 2]
        print(
          "storm of \(kind): p99 of reads \(median) times that of \(calms.sorted()[2] / 1000) us,"
            + " longest list \(longestList / 1000) us; \(ratios)")
        #expect(median <= 2, "\(kind): \(ratios)")
        #expect(longestList < StormTests.longestListMilliseconds * 1_000_000, "\(kind)")
      }
    }
  }
}
