// SPDX-License-Identifier: Apache-2.0
// What a producer keeps of a channel, and what becomes of its records while relayd is gone, stopped
// or refuses it. The tests themselves are Tests/Clients/unserved.c.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct UnservedTests {
    static let channel = "relay:global,subbuf_size=16KiB,n_subbufs=64"

    /// Runs a test in C, and does something wherever it rests; what it printed.
    @discardableResult
    private func check(
      _ test: String, _ daemons: Daemons, socket: String? = nil, in directory: String? = nil,
      rests: [() throws -> Void] = [], at line: SourceLocation = #_sourceLocation
    ) throws -> String {
      let library = try Library.get()
      let program = try library.program("unserved", Library.c, "test.c", "unserved.c")
      let output = try outputFile("output")
      let error = try outputFile("error")
      let child = try ChildProcess(
        ["env", "-C", directory ?? "/", program, test], output: output.raw, error: error.raw,
        environment: [
          "LD_LIBRARY_PATH": library.libraries, "RELAY_SOCKET": socket ?? daemons.now.socket,
        ])
      let status = try child.wait(doing: rests)
      #expect(status == 0, "\(text(of: error.raw))", sourceLocation: line)
      return text(of: output.raw)
    }

    /// Every record is read or counted, and some of them are read.
    private func expectAll(
      _ total: Int, _ daemons: Daemons, read isRead: Bool = true,
      at line: SourceLocation = #_sourceLocation
    ) throws {
      let read = try daemons.read().split(separator: "\n").count
      let lost = try daemons.now.statistic("lost_restart")
      #expect(
        (read > 0 || !isRead) && read + lost == total, "\(read) and \(lost) of \(total)",
        sourceLocation: line)
    }

    @Test func twoDescriptorsAreKeptAndNoneCanHarmTheRing() throws {
      let daemons = try Daemons(Self.channel)
      try check("two_descriptors_are_kept_out_of_the_way", daemons)
      let output = try check("the_ring_cannot_be_written_to_by_accident", daemons)
      #expect(output == "the ring is mapped\n")
      try daemons.now.write("whole\n")
      #expect(try daemons.read() == "whole\n")
    }

    @Test func sharedMemoryStaysOutOfCores() throws {
      let daemons = try Daemons(Self.channel)
      try check(
        "shared_memory_stays_out_of_cores", daemons, rests: [{ try daemons.replace() }])
    }

    @Test func forkedChildWaitsForAStoppedRelaydOnlyShortly() throws {
      let daemons = try Daemons(Self.channel)
      try check(
        "a_childs_first_write_waits_some_tenths_of_a_second", daemons,
        rests: [{ try daemons.stop() }, { daemons.now.process.signal(SIGCONT) }])
      #expect(try daemons.read() == "parent\ntaken\nparent\n")
    }

    @Test func writerOfMemoryThatOthersLeftWaitsOnlyShortly() throws {
      let daemons = try Daemons(Self.channel)
      let output = try check(
        "memory_that_others_left_is_left_within_some_tenths_of_a_second", daemons,
        rests: [
          { try daemons.replace() }, { try daemons.stop() },
          { daemons.now.process.signal(SIGCONT) },
        ])
      let refused = try #require(Int(output.dropLast()))
      try expectAll(4 + refused, daemons)
    }

    /// The next relayd refuses with an error.
    private func expectRefusal(
      _ test: String, _ daemons: Daemons, atOnce isAtOnce: Bool = true,
      refusing: () throws -> Void, taking: () throws -> Void,
      at line: SourceLocation = #_sourceLocation
    ) throws {
      try withoutActuallyEscaping(refusing) { refusing in
        try withoutActuallyEscaping(taking) { taking in
          let output = try check(test, daemons, rests: [refusing, taking], at: line)
          let numbers = output.split { $0 == " " || $0 == "\n" }.compactMap { Int($0) }
          try #require(numbers.count == 3, "\(output)", sourceLocation: line)
          // Where the machine is busy an answer may come too late for the first try.
          let isInTime = isAtOnce ? numbers[0] < 5000 : 9000..<15000 ~= numbers[0]
          #expect(isInTime, "\(numbers[0]) ms", sourceLocation: line)
          try expectAll(numbers[1] + numbers[2] + 1, daemons, at: line)
        }
      }
    }

    @Test func channelThatTheNextRelaydDoesNotKnow() throws {
      let daemons = try Daemons(Self.channel)
      try expectRefusal(
        "the_next_relayd_does_not_know_the_channel", daemons,
        refusing: { try daemons.replace(with: "other:global") },
        taking: { try daemons.replace(with: Self.channel) })
    }

    @Test func userWhomTheNextRelaydDoesNotKnow() throws {
      let daemons = try Daemons(Self.channel)
      try expectRefusal(
        "the_next_relayd_does_not_know_the_user", daemons, refusing: { try daemons.replace() },
        taking: { try daemons.replace(with: Self.channel + ",writers=4003") })
    }

    @Test func producerThatIsOneTooMany() throws {
      let daemons = try Daemons(Self.channel)
      let input = try Pipe()
      var writer: ChildProcess?
      try expectRefusal(
        "the_next_relayd_has_too_many_producers", daemons,
        refusing: {
          // It is asked before the next one has its place.
          try daemons.replace(with: Self.channel + ",max_producers=1")
          writer = try daemons.now.startWriter("relay", input)
        },
        taking: {
          writer!.signal(SIGTERM)
          _ = writer!.wait()
        })
    }

    /// The one test that waits as long as the memory may take records without a relayd.
    @Test func processWithoutADescriptorForTheNextRelayd() throws {
      let daemons = try Daemons(Self.channel)
      try expectRefusal(
        "no_descriptor_is_left_for_the_next_relayd", daemons, atOnce: false,
        refusing: { try daemons.replace() }, taking: {})
    }

    @Test(
      arguments: [
        "a_relative_path_is_found_from_anywhere",
        "a_relative_path_as_an_argument_is_found_from_anywhere",
      ], [false, true])
    func relativePath(_ test: String, _ isLong: Bool) throws {
      let daemons = try Daemons(Self.channel)
      var directory = daemons.now.scratch.path
      if isLong {
        for _ in 0..<3 { directory += "/" + String(repeating: "d", count: 60) }
        try Library.get().must("mkdir", "-p", directory)
        #expect(symlink(daemons.now.socket, directory + "/control") == 0)
      }
      try check(
        test, daemons, socket: "control", in: directory, rests: [{ try daemons.replace() }])
      try expectAll(100, daemons)
    }

    @Test func renamedDirectory() throws {
      let daemons = try Daemons(Self.channel)
      let directory = daemons.now.scratch.path + "/directory"
      mkdir(directory, 0o755)
      #expect(symlink("../control", directory + "/control") == 0)
      try check(
        "a_renamed_directory_is_found_when_it_is_back", daemons, socket: directory + "/control",
        rests: [
          {
            #expect(rename(directory, directory + "2") == 0)
            try daemons.replace()
          },
          { #expect(rename(directory + "2", directory) == 0) },
        ])
      // The last one may still have gone into the old memory.
      try expectAll(102, daemons, read: false)
    }

    @Test func slowWriterFindsTheNextRelaydWithinASecond() throws {
      let daemons = try Daemons(Self.channel)
      try check(
        "a_slow_writer_finds_the_next_relayd", daemons, rests: [{ try daemons.replace() }])
      let times = try daemons.read().split(separator: "\n").compactMap { Int($0) }
      #expect(try #require(times.first) < 1500, "\(times)")
      #expect(try times.count + daemons.now.statistic("lost_restart") == 25)
    }

    @Test func everyTestIsRun() throws {
      #expect(try Library.tests("unserved.c").count == 13)
    }
  }
}
