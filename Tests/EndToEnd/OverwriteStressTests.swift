// SPDX-License-Identifier: Apache-2.0
// Writers that overwrite are never refused, whoever reads and in whatever portions. The writers and
// readers of the first test are Tests/Load/Overwrite.swift.

import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct OverwriteStressTests {
    /// `make stress` writes 10^9.
    private static let isLong = environment("RELAY_STRESS") == "1"

    @Test(arguments: [1, 2]) func writersFindRoomWhateverIsRead(_ writers: Int) throws {
      let records = OverwriteStressTests.isLong ? 500_000_000 : 40_000_000
      let finished = try run(
        program("relay-load"), "overwrite", "--writers", "\(writers)",
        "--from", writers == 1 ? "3" : "4", "--records", "\(records)")
      #expect(finished.status == 0, "\(finished.error)")
      #expect(finished.output.hasSuffix(" refused 0\n"), "\(finished.output)")
      if OverwriteStressTests.isLong { print("make stress: \(writers): \(finished.output)") }
    }

    @Test func largeReadsOfASmallBufferRefuseNoWriter() throws {
      let daemon = try Daemon("relay:global,mode=overwrite,subbuf_size=4KiB,n_subbufs=8")
      let library = try Library.get()
      let fill = try library.program("fill", Library.c, "fill.c")
      let records = OverwriteStressTests.isLong ? 100_000_000 : 3_000_000
      let finished = try daemon.shell(
        """
        cd \(daemon.scratch.path)
        (while [[ ! -e done ]]; do
          dd if=\(daemon.device("relay0")) of=/dev/null bs=128k status=none || exit
        done) &
        LD_LIBRARY_PATH=\(library.libraries) \(fill) relay \(records)
        status=$?; touch done; wait $! || exit; exit $status
        """)
      #expect(finished.status == 0, "a write was refused: \(finished.error)")
      #expect(try daemon.statistic("lost_full") == 0)
      #expect(try daemon.statistic("bytes_read") > 0, "nothing was read meanwhile: not a test")
    }
  }
}
