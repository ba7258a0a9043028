// SPDX-License-Identifier: Apache-2.0
// Writers that are killed anywhere, thousands of times: no record is damaged, missing or double,
// and every count is right. The writers and their reader are Tests/Clients/stress.c.

import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct StressTests {
    /// `make stress` has the patience for more.
    private static let isLong = environment("RELAY_STRESS") == "1"

    @Test func killedWritersCostAtMostTheRecordTheyWereWriting() throws {
      let kills = StressTests.isLong ? 20000 : 500
      let daemon = try Daemon("stress:global,subbuf_size=256KiB,n_subbufs=64")
      let library = try Library.get()
      let program = try library.program("stress", Library.c + ["-O2"], "stress.c")
      let finished = try library.start(
        [program, "stress", daemon.device("stress0"), "\(kills)", "1"], daemon, seconds: 600)
      #expect(finished.status == 0, "\(finished.error)")
      let words = finished.output.split { $0 == " " || $0 == "\n" }
      var result: [Substring: Int] = [:]
      for i in stride(from: 0, to: words.count - 1, by: 2) { result[words[i]] = Int(words[i + 1]) }
      #expect(result["kills"] == kills)
      for key in ["records_written", "records_read"] {
        #expect(try daemon.statistic(key, of: "stress") == result["read"], "\(key)")
      }
      for key in [
        "records_unread", "lost_full", "lost_too_big", "lost_overwritten", "lost_stalled",
        "cancelled", "corrupt",
      ] {
        #expect(try daemon.statistic(key, of: "stress") == 0, "\(key)")
      }
      let aborted = try daemon.statistic("aborted", of: "stress")
      #expect(aborted > kills / 10, "killed inside a write")
      #expect((result["surely"]!...result["inside"]!).contains(aborted), "\(result) \(aborted)")
      if StressTests.isLong {
        print("make stress: \(finished.output.dropLast()) aborted \(aborted)")
        #expect(result["latest"]! < 100, "milliseconds that the others' records took")
      }
    }
  }
}
