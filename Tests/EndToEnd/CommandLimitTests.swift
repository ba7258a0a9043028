// SPDX-License-Identifier: Apache-2.0
// relayctl under small resource limits: it works, or names the limit. Limits that an output meets
// are in OutputFailureTests.swift.

import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct CommandLimitTests {
    private let daemon: Daemon

    init() throws { daemon = try Daemon("relay:global,subbuf_size=4MiB") }

    /// The least stack is about what the program loader needs by itself.
    @Test(arguments: [48, 64, 128])
    func commandsNeedNoStackOfTheMainThread(_ kilobytes: Int) throws {
      let limit = "ulimit -s \(kilobytes)"
      let written = try daemon.shell("\(limit); echo one | $BIN/relayctl write relay")
      #expect(written.status == 0, "\(written.error)")
      let read = try daemon.shell("\(limit); $BIN/relayctl read relay --lost")
      #expect(read.output == "one\n" && read.status == 0, "\(read.error)")
      for command in ["list", "stat --json", "producers --json", "read --help", "flush relay"] {
        let finished = try daemon.shell("\(limit); $BIN/relayctl \(command)")
        #expect(finished.status == 0, "\(command): \(finished.status) \(finished.error)")
      }
      let wrong = try daemon.shell("\(limit); $BIN/relayctl bogus")
      #expect(wrong.status == 64, "\(wrong.error)")
    }

    /// The signal goes to the thread that has the command, and ends it in order.
    @Test func signalsEndACommandThatHasLittleStack() throws {
      let finished = try daemon.shell(
        """
        ulimit -s 64; echo one | $BIN/relayctl write relay
        $BIN/relayctl read relay --follow > \(daemon.scratch.path)/out & reader=$!
        while ! grep -q one \(daemon.scratch.path)/out; do :; done
        kill -TERM $reader; wait $reader
        """)
      #expect(finished.status == 128 + 15, "\(finished.error)")
    }

    @Test func limitOnAddressesIsNamedWhereTheChannelDoesNotFit() throws {
      let finished = try daemon.shell("ulimit -v 35000; echo one | $BIN/relayctl write relay")
      #expect(finished.status == 1)
      let name = "the limit on address space (ulimit -v, LimitAS=) is 35840000 bytes"
      #expect(finished.error.contains("Cannot allocate memory: \(name)"), "\(finished.error)")
    }
  }
}
