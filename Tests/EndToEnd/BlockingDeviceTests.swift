// SPDX-License-Identifier: Apache-2.0
// Devices whose reads wait, and devices that tell who waits of whole sub-buffers only, with
// ordinary tools.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct BlockingDeviceTests {
    private func polled(_ fd: CInt) -> Int16 {
      var poller = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
      return poll(&poller, 1, 0) > 0 ? poller.revents : 0
    }

    @Test func whoDoesNotWantToWaitIsToldToTryAgain() throws {
      let daemon = try Daemon("relay:global,read=block")
      let device = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY | O_NONBLOCK)
      var bytes = [UInt8](repeating: 0, count: 100)
      #expect(read(device.raw, &bytes, 100) == -1 && errno == EAGAIN)
      try daemon.write("one\n")
      #expect(read(device.raw, &bytes, 100) == 4)
      // The flag is the open file's, and may change.
      #expect(fcntl(device.raw, F_SETFL, 0) == 0)
      try daemon.write("two\n")
      #expect(read(device.raw, &bytes, 100) == 4)
    }

    @Test func aLongReadReturnsWhatThereIs() throws {
      let daemon = try Daemon("relay:global,read=block")
      try daemon.write("one\n")
      // One read(2) of a megabyte is several requests; none but the first may wait.
      let finished = try run(
        "timeout", "20", "dd", "if=\(daemon.device("relay0"))", "bs=1M", "count=1", "status=none")
      #expect(finished.status == 0 && finished.output == "one\n")
    }

    @Test(arguments: [["dd", "bs=1", "count=4", "status=none"], ["head", "-c", "4"]])
    func whoWantsSomeBytesWaitsForThem(_ command: [String]) throws {
      let daemon = try Daemon("relay:global,read=block")
      let device = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY)
      let out = try outputFile("out")
      let reader = try ChildProcess(
        ["timeout", "20"] + command, input: device.raw, output: out.raw)
      try daemon.write("a\n")
      try eventually("it has what there is") { try daemon.statistic("records_read") == 1 }
      try daemon.write("b\n")
      #expect(reader.wait() == 0)
      #expect(text(of: out.raw) == "a\nb\n")
    }

    @Test func catFollowsUntilTheChannelIsClosed() throws {
      let daemon = try Daemon("relay:global,read=block")
      let out = try outputFile("out")
      let cat = try ChildProcess(
        ["timeout", "60", "cat", daemon.device("relay0")], output: out.raw)
      var expected = ""
      for line in ["one\n", "two\n", "three\n"] {
        try daemon.write(line)
        expected += line
        try eventually("\(line) arrives") { text(of: out.raw) == expected }
      }
      try daemon.require("close", "relay")
      #expect(cat.wait() == 0)
    }

    @Test func wholeSubbuffersOnlyAreTold() throws {
      let daemon = try Daemon("relay:global,wakeup=subbuffer,subbuf_size=4KiB")
      let device = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY)
      try daemon.write("one\n")
      #expect(polled(device.raw) == 0, "relay's rule")
      try daemon.require("flush", "relay")
      #expect(polled(device.raw) == Int16(POLLIN))
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
      #expect(polled(device.raw) == 0)
      try daemon.shell("head -c 5000 /dev/zero | $BIN/relayctl write relay --block 1000")
      #expect(polled(device.raw) == Int16(POLLIN))
      try daemon.write("last\n")
      #expect(try run("cat", daemon.device("relay0")).output.utf8.count == 5005)
    }
  }
}
