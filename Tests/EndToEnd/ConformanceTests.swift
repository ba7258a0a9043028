// SPDX-License-Identifier: Apache-2.0
// relay's behaviour, on each of the three things that have it: a channel of librelay's, a relayfs
// file, a CUSE node. The tests themselves are Tests/Clients/conform*.c; README.md's table names
// them.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ConformanceTests {
    static let behaviours = Result { try Library.tests("conform.c", "conform_read.c") }

    private func program() throws -> String {
      try Library.get().program("conform", Library.c, "test.c", "conform.c", "conform_read.c")
    }

    @Test(.onceIsEnough, arguments: try behaviours.get())
    func ofTheLibrary(_ behaviour: String) throws {
      let finished = try Library.get().start([program(), behaviour])
      #expect(finished.status == 0, "\(finished.error)")
    }

    /// A relayfs file or a CUSE node: whatever the back end under test has.
    @Test(arguments: try behaviours.get()) func ofAFile(_ behaviour: String) throws {
      let daemon = try Daemon("relay:global")
      let finished = try Library.get().start(
        ["env", "DEVICES=\(daemon.device(""))", program(), behaviour], daemon)
      #expect(finished.status == 0, "\(finished.error)")
      // The kernel tells of a close in its own time.
      try eventually("its channel is gone") {
        let list = try daemon.relayctl("list", "--json")
        return list.status == 0 && !list.output.contains("on-")
      }
    }

    /// Two processes write lines of real text, one on the first CPU and one on the last; what the
    /// kernel's loop wrote down is that text. Woken by relay's rule or by relayd's.
    @Test(arguments: ["subbuffer", "data"])
    func theKernelsLoopReadsEverything(_ wakeup: String) throws {
      let daemon = try Daemon("relay:subbuf_size=16KiB,n_subbufs=4,wakeup=\(wakeup)")
      let directory = daemon.scratch.path
      let loop = try Library.get().program("kernel_loop", Library.c, "kernel_loop.c")
      let out = try outputFile("out")
      let reader = try ChildProcess(
        ["timeout", "60", loop, daemon.device("relay"), "\(directory)/out"], output: out.raw)
      try eventually("it reads") { text(of: out.raw) == "ready\n" }
      let cpus = try Processors.online().cpus
      let finished = try daemon.shell(
        """
        cd \(directory)
        for writer in "one \(cpus[0])" "two \(cpus[cpus.count - 1])"; do
          set -- $writer
          cat /var/lib/dpkg/status /var/lib/dpkg/status | head -20000 | sed "s/^/$1 /" >$1
          taskset -c $2 $BIN/relayctl write relay <$1 || touch failed &
        done
        wait; [[ ! -e failed ]] && $BIN/relayctl flush relay && kill -TERM \(reader.pid)
        """)
      #expect(finished.status == 0, "\(finished.error)")
      #expect(reader.wait() == 0)
      // Not by its time-out alone.
      let wakes = text(of: out.raw).split(separator: " ").last.flatMap { Int($0.dropLast()) }
      #expect(try #require(wakes) > 0)
      let compared = try daemon.shell(
        """
        cd \(directory)
        for writer in one two; do cat out* | grep -a "^$writer " | cmp - $writer || exit; done
        [[ $(cat out* | wc -c) == $(cat one two | wc -c) ]]
        """)
      #expect(compared.status == 0, "\(compared.output)\(compared.error)")
      #expect(try daemon.statistic("records_unread") == 0)
    }
  }
}
