// SPDX-License-Identifier: Apache-2.0
// Reads and polls behind more records without any bytes, or given up, than relayd passes at a time.

import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct WalkTests {
    static let tests = Result { try Library.tests("walk.c") }

    @Test(arguments: try tests.get()) func device(_ test: String) throws {
      let library = try Library.get()
      let program = try library.program("walk", Library.c, "test.c", "walk.c")
      let daemon = try Daemon("relay:global,subbuf_size=1MiB,n_subbufs=16")
      let finished = try library.start(
        [program, test], daemon, prefix: ["env", "DEVICE=\(daemon.device("relay0"))"])
      #expect(finished.status == 0, "\(finished.error)")
      #expect(try daemon.relayctl("list").status == 0, "relayd lives")
    }
  }
}
