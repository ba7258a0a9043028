// SPDX-License-Identifier: Apache-2.0
// relayctl read with an output that fails: what was consumed and not written is counted, exactly,
// and as little as possible is consumed.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct OutputFailureTests {
    private let daemon: Daemon
    private let scratch: String

    init() throws {
      daemon = try Daemon("relay:global,timestamps,subbuf_size=512KiB")
      scratch = daemon.scratch.path
    }

    /// Records of 1000 bytes.
    private func write(_ count: Int) throws {
      let finished = try daemon.shell(
        "seq -f %0999.0f 1 \(count) | $BIN/relayctl write relay")
      guard finished.status == 0 else { throw Failure(finished.error) }
    }

    /// What the files in a directory, or one file, have of records: whole ones, and bytes without
    /// the times they begin with.
    private func written(_ path: String) throws -> (records: Int, bytes: Int) {
      let text = try run("bash", "-c", "cat $(find \(path) -type f | sort -V)").output
      var (records, bytes) = (0, 0)
      for line in text.split(separator: "\n", omittingEmptySubsequences: true) {
        let payload = line.hasPrefix("[") ? line.drop { $0 != "]" }.dropFirst(2) : line
        bytes += payload.utf8.count
        if payload.utf8.count == 999 { records += 1 }
      }
      return (records, bytes + text.utf8.count { $0 == UInt8(ascii: "\n") })
    }

    /// The line that says how much was lost.
    private func expectExactLoss(
      _ finished: Finished, _ reason: String, written: (records: Int, bytes: Int)
    ) throws {
      let records = try daemon.statistic("records_read") - written.records
      let bytes = try daemon.statistic("bytes_read") - written.bytes
      #expect(records > 0 && bytes > 0 && records <= 132, "one read of 128 KiB at most")
      #expect(finished.status == 1)
      #expect(
        finished.error.hasSuffix(
          "relayctl: \(reason); \(records) records (\(bytes) bytes) that were read from channel "
            + "relay were not written and are lost\n"), "\(finished.error)")
    }

    @Test(
      .onceIsEnough,
      arguments: [
        "> FILE", "--time > FILE", "--lost > FILE", "--follow > FILE", "--output FILE",
        "--output FILE --per-cpu", "--output FILE --rotate-size 20000",
        "--output FILE --rotate-size 20000 --follow --time --window 1s",
        "--follow --time --window 0 --lost > FILE",
      ])
    func fullDiskLossIsCounted(_ options: String) throws {
      let disk = "\(scratch)/disk"
      try write(1000)
      let name = options.contains("per-cpu") ? "f.cpu0" : options.contains("rotate") ? "f.3" : "f"
      let arguments = options.components(separatedBy: "FILE").joined(separator: "\(disk)/f")
      let finished = try daemon.shell(
        """
        mkdir \(disk) && mount -t tmpfs -o size=64k tmpfs \(disk) || exit 99
        $BIN/relayctl read relay \(arguments)
        status=$?; mkdir \(scratch)/kept; cp \(disk)/* \(scratch)/kept/; umount \(disk)
        exit $status
        """)
      let stream = options.contains(">") ? "standard output" : "\(disk)/\(name)"
      try expectExactLoss(
        finished, "write \(stream): No space left on device", written: written("\(scratch)/kept"))
      #expect(try daemon.statistic("records_unread") > 800, "the rest is still there")
    }

    @Test(.onceIsEnough, arguments: ["> FILE", "--output FILE"])
    func fileSizeLimitIsNamedAndLossCounted(_ options: String) throws {
      try write(100)
      let file = "\(scratch)/f"
      let arguments = options.components(separatedBy: "FILE").joined(separator: file)
      let finished = try daemon.shell("ulimit -f 9; $BIN/relayctl read relay \(arguments)")
      let stream = options.contains(">") ? "standard output" : file
      try expectExactLoss(
        finished,
        """
        write \(stream): File too large: the limit on a file's size (ulimit -f, LimitFSIZE=) is \
        9216 bytes
        """, written: written(file))
    }

    @Test(.onceIsEnough) func partOfALongRecordCountsAsARecord() throws {
      try daemon.shell("head -c 600000 /dev/zero | $BIN/relayctl write relay --block 300000")
      let finished = try daemon.shell("ulimit -f 9; $BIN/relayctl read relay > \(scratch)/f")
      #expect(finished.status == 1)
      // A read of 128 KiB: a frame's header, 40 bytes, and the record's beginning.
      let lost = (128 << 10) - 40 - 9216
      #expect(finished.error.contains("; 1 records (\(lost) bytes) that were"), "\(finished.error)")
    }

    @Test(.onceIsEnough) func directoryThatVanishesEndsARotation() throws {
      let directory = "\(scratch)/out"
      mkdir(directory, 0o755)
      let follower = try Follower(
        daemon, ["--output", "\(directory)/f", "--rotate-size", "2000"])
      try write(2)
      try eventually("they arrive") { try written(directory).records == 2 }
      try run("rm", "-r", directory)
      try write(3)
      #expect(follower.wait() == 1)
      // The first of the three needs a new file. It was alone if relayd was quick.
      let consumed = try daemon.statistic("records_read") - 2
      #expect(
        follower.error == """
          relayctl: \(directory)/f.0 was removed while it was written: 2000 bytes in it are lost; \
          \(consumed) records (\(consumed * 1000) bytes) that were read from channel relay were \
          not written and are lost

          """)
    }

    @Test(.onceIsEnough) func fileThatIsRemovedIsALoss() throws {
      let follower = try Follower(daemon, ["--output", "\(scratch)/f"])
      try write(2)
      try eventually("they arrive") { try written("\(scratch)/f").records == 2 }
      unlink("\(scratch)/f")
      try daemon.require("close", "relay")
      #expect(follower.wait() == 1)
      #expect(
        follower.error
          == "relayctl: \(scratch)/f was removed while it was written: 2000 bytes in it are lost\n")
    }

    /// A FIFO's reader, a terminal: nothing is consumed for whoever is gone.
    @Test(.onceIsEnough, arguments: ["fifo", "terminal"])
    func outputThatIsGoneCostsNoRecord(_ kind: String) throws {
      let terminal = try FileDescriptor.open("/dev/ptmx", O_RDWR | O_NOCTTY).take()
      var (lock, number) = (CInt(0), CInt(0))
      // TIOCSPTLCK and TIOCGPTN, which no Swift module has.
      #expect(
        ioctl(terminal, 0x4004_5431, &lock) == 0 && ioctl(terminal, 0x8004_5430, &number) == 0)
      let path = kind == "fifo" ? "\(scratch)/fifo" : "/dev/pts/\(number)"
      if kind == "fifo" { mkfifo(path, 0o644) }
      let other =
        kind == "fifo" ? try FileDescriptor.open(path, O_RDONLY | O_NONBLOCK).take() : terminal
      let follower = try Follower(daemon, ["--output", path])
      try daemon.write("one\n")
      var buffer = [UInt8](repeating: 0, count: 100)
      try eventually("it arrives") { read(other, &buffer, buffer.count) > 3 }
      close(other)
      if kind == "fifo" { close(terminal) }
      try write(3)
      #expect(follower.wait() == 1)
      let reason = kind == "fifo" ? "Broken pipe" : "Input/output error"
      #expect(follower.error == "relayctl: write \(path): \(reason)\n")
      #expect(try daemon.statistic("records_unread") == 3)
    }

    @Test(.onceIsEnough) func brokenPipeThatLosesRecordsSaysSo() throws {
      try write(500)
      let finished = try daemon.shell("$BIN/relayctl read relay | head -c 1 > /dev/null")
      #expect(finished.status == 1)
      #expect(finished.error.hasPrefix("relayctl: write standard output: Broken pipe; "))
      #expect(
        finished.error.hasSuffix(" were read from channel relay were not written and are lost\n"))
      #expect(try daemon.statistic("records_unread") >= 500 - 132)
    }

    @Test(.onceIsEnough) func followerEndsQuietlyWithItsReader() throws {
      let finished = try daemon.shell(
        """
        echo one | $BIN/relayctl write relay
        timeout 30 $BIN/relayctl read relay --follow | head -1
        """)
      #expect(finished.status == 128 + Int(SIGPIPE))
      #expect(finished.output == "one\n" && finished.error == "")
    }

    @Test(.onceIsEnough, arguments: ["--check --channel relay", "--help", "--version"])
    func relaydNoticesAnOutputThatFails(_ options: String) throws {
      for (output, reason) in [
        ("> /dev/full", "write standard output: No space left on device"),
        (">&-", "standard output is closed"),
      ] {
        let finished = try daemon.shell("$BIN/relayd \(options) \(output)")
        #expect(finished.status == 1 && finished.error == "relayd: \(reason)\n")
      }
    }

    @Test(
      .onceIsEnough,
      arguments: [
        "list", "list --json", "stat", "stat --json", "--help", "--version", "read --help",
        "help stat",
      ])
    func eachCommandNoticesAnOutputThatFails(_ command: String) throws {
      for (output, reason) in [
        ("> /dev/full", "write standard output: No space left on device"),
        (">&-", "standard output is closed"),
        ("> \(scratch)/f", "write standard output: File too large: the limit on a file's size"),
      ] {
        // Standard error is a file, too.
        let finished = try daemon.shell(
          "(ulimit -f 0; $BIN/relayctl \(command) 2>&1 \(output)) | cat >&2")
        #expect(finished.status == 1)
        #expect(finished.error.hasPrefix("relayctl: \(reason)"), "\(finished.error)")
      }
    }
  }
}
