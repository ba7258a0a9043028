// SPDX-License-Identifier: Apache-2.0
// relayctl with standard streams that somebody else made non-blocking, and signals that come while
// an output takes nothing.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct NonBlockingTests {
    private let daemon: Daemon

    init() throws { daemon = try Daemon("relay:global,subbuf_size=512KiB") }

    private func start(
      _ arguments: [String], input: CInt? = nil, output: CInt? = nil, error: CInt? = nil
    ) throws -> ChildProcess {
      try ChildProcess(
        [program("relayctl")] + arguments, input: input, output: output, error: error,
        environment: ["RELAY_SOCKET": daemon.socket])
    }

    private func makeNonBlocking(_ fd: CInt) {
      #expect(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0)
    }

    /// Reads to the end.
    private func count(_ fd: CInt) -> Int {
      var total = 0
      var buffer = [UInt8](repeating: 0, count: 10_000)
      while true {
        let count = read(fd, &buffer, buffer.count)
        guard count > 0 else { return total }
        total += count
      }
    }

    private func waitUntilFull(_ fd: CInt) throws {
      try eventually("there is no room for the rest") {
        var poller = pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)
        return poll(&poller, 1, 0) == 0
      }
    }

    private func fill(_ bytes: Int = 1_000_000) throws {
      try daemon.shell("head -c \(bytes) /dev/zero | $BIN/relayctl write relay --block 1000")
    }

    @Test(arguments: ["pipe", "socket"])
    func nonBlockingOutputGetsEverything(_ kind: String) throws {
      var ends: [CInt] = [-1, -1]
      let type = CInt(SOCK_STREAM.rawValue)
      #expect((kind == "pipe" ? pipe(&ends) : socketpair(AF_UNIX, type, 0, &ends)) == 0)
      for end in ends { #expect(fcntl(end, F_SETFD, FD_CLOEXEC) == 0) }
      makeNonBlocking(ends[1])
      try fill()
      let reader = try start(["read", "relay"], output: ends[1])
      try waitUntilFull(ends[1])
      close(ends[1])
      #expect(count(ends[0]) == 1_000_000)
      #expect(reader.wait() == 0)
      close(ends[0])
    }

    @Test func nonBlockingInputIsWaitedFor() throws {
      let pipe = try Pipe()
      makeNonBlocking(pipe.read.raw)
      let writer = try daemon.startWriter("relay", pipe)
      for round in 1...3 {
        #expect(Glibc.write(pipe.write.raw, "line\n", 5) == 5)
        try eventually("it is written") { try daemon.statistic("records_written") == round }
      }
      writer.signal(SIGTERM)
      #expect(writer.wait() == 128 + Int(SIGTERM))
    }

    @Test func secondSignalWithinASecondLosesNothing() throws {
      let pipe = try Pipe()
      let error = try outputFile("error")
      try fill()
      let reader = try start(
        ["read", "relay", "--follow"], output: pipe.write.raw, error: error.raw)
      try waitUntilFull(pipe.write.raw)
      // As timeout(1) does it.
      reader.signal(SIGTERM)
      try eventually("it has taken the first one") { try !isPending(reader.pid) }
      reader.signal(SIGTERM)
      try eventually("it has taken the second one") { try !isPending(reader.pid) }
      let read = FileDescriptor(owning: dup(pipe.read.raw))
      _ = consume pipe
      #expect(try count(read.raw) == daemon.statistic("bytes_read"))
      #expect(reader.wait() == 128 + Int(SIGTERM))
      #expect(text(of: error.raw) == "")
    }

    private func isPending(_ pid: Int32) throws -> Bool {
      !(try run("cat", "/proc/\(pid)/status").output.contains("ShdPnd:\t0000000000000000"))
    }

    @Test func laterSignalEndsWhoCannotEndInOrderAndSaysTheLoss() throws {
      let pipe = try Pipe()
      let error = try outputFile("error")
      try fill()
      let reader = try start(
        ["read", "relay", "--follow"], output: pipe.write.raw, error: error.raw)
      try waitUntilFull(pipe.write.raw)
      reader.signal(SIGTERM)
      // Longer than what counts as one wish.
      poll(nil, 0, 1100)
      reader.signal(SIGINT)
      #expect(reader.wait() == 128 + Int(SIGTERM))
      let read = FileDescriptor(owning: dup(pipe.read.raw))
      _ = consume pipe
      let lost = try daemon.statistic("bytes_read") - count(read.raw)
      #expect(lost > 0)
      #expect(
        text(of: error.raw) == """
          relayctl: ended by SIGTERM before \((lost + 999) / 1000) records (\(lost) bytes) that \
          were read from channel relay were written; they are lost

          """)
    }

    @Test func interruptedWriterCountsTheInputItCouldNotWrite() throws {
      let small = try Daemon("small:global,subbuf_size=4096,n_subbufs=2")
      let pipe = try Pipe()
      let error = try outputFile("error")
      let input = [UInt8](repeating: 0, count: 10_000)
      #expect(Glibc.write(pipe.write.raw, input, input.count) == input.count)
      let writer = try ChildProcess(
        [program("relayctl"), "write", "small", "--block", "64"], input: pipe.read.raw,
        error: error.raw, environment: ["RELAY_SOCKET": small.socket])
      try eventually("the channel is full") {
        try small.statistic("records_written", of: "small") == 128
      }
      writer.signal(SIGTERM)
      #expect(writer.wait() == 128 + Int(SIGTERM))
      #expect(
        text(of: error.raw) == """
          relayctl: ended by SIGTERM while channel small was full: 128 records were written, 1808 \
          bytes of the input were read and not written

          """)
    }

    @Test(arguments: [
      "write relay --drop --block 100 < /dev/zero", "read relay --follow > /dev/null",
    ])
    func limitOnCPUTimeEndsInOrder(_ command: String) throws {
      let writer = command.hasPrefix("read") ? try startNoise() : nil
      let finished = try daemon.shell("ulimit -t 1; exec $BIN/relayctl \(command)")
      writer?.signal(SIGKILL)
      _ = writer?.wait()
      #expect(finished.status == 1)
      let rest =
        command.hasPrefix("read")
        ? "what was not read stays in channel relay\n" : "the rest of the input was not read\n"
      #expect(
        finished.error.contains(
          "relayctl: ended by the limit on CPU time (RLIMIT_CPU, ulimit -t), which is 1 s; "))
      #expect(finished.error.hasSuffix(rest), "\(finished.error)")
    }

    private func startNoise() throws -> ChildProcess {
      let zero = try FileDescriptor.open("/dev/zero", O_RDONLY)
      return try start(["write", "relay", "--block", "100"], input: zero.raw)
    }
  }
}
