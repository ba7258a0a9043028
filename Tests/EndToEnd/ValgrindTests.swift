// SPDX-License-Identifier: Apache-2.0
// The installed librelay under valgrind's memcheck, with the suppressions that come with it: a
// program's own errors stand alone in the report, and addresses have names.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct ValgrindTests {
    private func memcheck(
      _ library: Library, _ arguments: [String], _ daemon: Daemon? = nil
    ) throws -> Finished {
      let valgrind = [
        "valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full",
        "--errors-for-leak-kinds=definite,indirect,possible",
        "--suppressions=\(library.directory)/usr/lib/valgrind/relay.supp",
      ]
      return try library.start(valgrind + arguments, daemon, seconds: 120)
    }

    @Test func writerOfAChannelHasNoErrors() throws {
      let library = try Library.get()
      let daemon = try Daemon("relay:global")
      let client = try library.program("client", Library.c, "client.c")
      let finished = try memcheck(library, [client, "relay", "1000"], daemon)
      #expect(finished.status == 0 && finished.error == "", "\(finished.error)")
      #expect(try daemon.statistic("records_written") == 1000)
    }

    @Test(arguments: [
      "every_way_of_writing_comes_back_in_order",
      "after_a_fork_parent_and_child_each_have_their_own",
      "records_come_whole_with_their_times",
      "threads_take_turns_in_a_callback",
      "an_own_buffer_is_read_where_it_lies",
    ])
    func ownChannelHasNoErrors(_ test: String) throws {
      let library = try Library.get()
      let program = try library.program("own", Library.c, ["test.c"] + LibraryTests.sources)
      let finished = try memcheck(library, [program, test])
      #expect(finished.status == 0 && finished.error == "", "\(finished.error)")
    }

    /// Where librelay copies the record, by the debugging information that is installed with it.
    @Test func overrunIsReportedWithSourcesOfLibrelay() throws {
      let library = try Library.get()
      let finished = try memcheck(library, [try library.program("overrun", Library.c, "overrun.c")])
      #expect(finished.status == 9)
      #expect(finished.error.contains("Invalid read"), "\(finished.error)")
      let caller = finished.error.split(separator: "\n").first { $0.contains(": relay_write (") }
      #expect(caller?.contains("(in ") == false, "\(finished.error)")
    }
  }
}
