// SPDX-License-Identifier: Apache-2.0
// Much real input from many processes, read with cat and dd: nothing missing, doubled, torn or
// out of order, and every loss in the account.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct LoadTests {
    @Test func eightProcessesWriteOneGiBAndEveryBlockArrivesOnce() throws {
      let daemon = try Daemon("relay")
      let blockSize = 4096
      let blocks = (1 << 30) / blockSize / 8
      let devices = try Processors.online().cpus.map { daemon.device("relay\($0)") }
      let output = try daemon.load(
        writers: 8, blocks: blocks, blockSize: blockSize, devices: devices)
      for writer in 1...8 {
        #expect(output.contains("writer \(writer) blocks \(blocks) highest \(blocks - 1)\n"))
      }
      #expect(try daemon.statistic("records_written") == blocks * 8)
      #expect(try daemon.statistic("records_read") == blocks * 8)
      #expect(try daemon.statistic("bytes_read") == 1 << 30)
      for loss in ["lost_full", "lost_overwritten", "lost_too_big", "aborted", "records_unread"] {
        #expect(try daemon.statistic(loss) == 0, "\(loss)")
      }
    }

    @Test func smallRecordsFromManyProcessesArriveOnce() throws {
      let daemon = try Daemon("relay:subbuf_size=64KiB,n_subbufs=4")
      let devices = try Processors.online().cpus.map { daemon.device("relay\($0)") }
      let output = try daemon.load(
        writers: 4, blocks: 100_000, blockSize: 48, devices: devices)
      for writer in 1...4 {
        #expect(output.contains("writer \(writer) blocks 100000 highest 99999"))
      }
    }

    @Test(arguments: ["discard", "overwrite"])
    func whatIsLostAtFullSpeedIsCountedExactly(_ mode: String) throws {
      let daemon = try Daemon("relay:mode=\(mode),subbuf_size=32KiB,n_subbufs=4")
      let devices = try Processors.online().cpus.map { daemon.device("relay\($0)") }
      let blocks = 100_000
      let output = try daemon.load(
        writers: 3, blocks: blocks, blockSize: 256, devices: devices, drop: true)
      let received = output.split(separator: "\n").reduce(0) { sum, line in
        sum + Int(line.split(separator: " ")[3])!
      }
      // Overwrite mode refuses, too: four sub-buffers are too few for three writers.
      let refused = try daemon.statistic("lost_full")
      let overwritten = try daemon.statistic("lost_overwritten")
      #expect(received + refused + overwritten == 3 * blocks, "\(refused) + \(overwritten)")
      #expect((mode == "discard" ? refused : overwritten) > 0, "too slow: not a test of losses")
      #expect(mode == "overwrite" || overwritten == 0)
      #expect(try daemon.statistic("records_read") == received)
      #expect(try daemon.statistic("records_written") == received + overwritten)
    }

    @Test func realLogsComeBackLineByLine() throws {
      let daemon = try Daemon("relay:global")
      let finished = try daemon.shell(
        """
        cd \(daemon.scratch.path)
        cat /var/lib/dpkg/status > in
        (while $BIN/relay-load wait --until done \(daemon.device("relay0")); do
          cat \(daemon.device("relay0")); done; cat \(daemon.device("relay0"))) > out &
        $BIN/relayctl write relay < in; touch done
        wait; cmp in out
        """)
      #expect(finished.status == 0, "\(finished.output) \(finished.error)")
      #expect(
        try daemon.statistic("records_read")
          == Int(run("grep", "-c", "", "/var/lib/dpkg/status").output.dropLast())!)
    }
  }
}

extension Daemon {
  /// Starts writers of self-describing blocks and readers of all devices, checks what came out.
  /// Returns what the check printed: a line for each writer.
  /// - Parameters:
  ///   - meanwhile: shell commands that run beside them.
  ///   - until: where given, writers follow one another until this file is there.
  func load(
    writers: Int, blocks: Int, blockSize: Int, devices: [String], drop: Bool = false,
    meanwhile: String = "true", until: String? = nil
  ) throws -> String {
    let readers = devices.map { device in
      // cat and dd take turns, each until the device is drained.
      """
      <(turn=0; while $BIN/relay-load wait --until $DONE \(device); do
          turn=$((turn + 1))
          if ((turn % 2)); then cat \(device); else dd if=\(device) bs=64k status=none; fi
        done; cat \(device))
      """
    }
    let finished = try shell(
      """
      DONE=\(scratch.path)/done
      (\(meanwhile)) &
      (
        for w in $(seq 1 \(writers)); do
          (
            round=0
            while :; do
              $BIN/relay-load generate --writer $((w + round * 100)) --blocks \(blocks) \
                --block-size \(blockSize) \
                /var/lib/dpkg/status $(ls /var/lib/dpkg/info/*.list | head -20) |
                $BIN/relayctl write relay --block \(blockSize) \(drop ? "--drop" : "") || exit
              round=$((round + 1))
              [[ ! -e "\(until ?? "/")" ]] || exit
            done
          ) &
        done
        wait; touch $DONE
      ) &
      $BIN/relay-load verify --block-size \(blockSize) \(readers.joined(separator: " "))
      """)
    #expect(finished.status == 0, "\(finished.output) \(finished.error)")
    return finished.output
  }
}
