// SPDX-License-Identifier: Apache-2.0
// relayctl read into files: one, or numbered ones of a size.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct OutputTests {
    private let daemon: Daemon
    private let file: String

    init() throws {
      daemon = try Daemon("relay:global,subbuf_size=512KiB")
      mkdir("\(daemon.scratch.path)/out", 0o755)
      file = "\(daemon.scratch.path)/out/trace"
    }

    private func read(_ options: String...) throws {
      let finished = try daemon.relayctl(["read", "relay", "--output", file] + options)
      #expect(finished.status == 0 && finished.output == "" && finished.error == "")
    }

    /// The numbers of the files there are.
    private func numbers() throws -> [Int] {
      try Files.names(in: "\(daemon.scratch.path)/out").compactMap {
        Int($0.dropFirst("trace.".count))
      }.sorted()
    }

    private func content(_ number: Int) throws -> String {
      try run("cat", "\(file).\(number)").output
    }

    /// Lines of 10 bytes.
    private func write(_ lines: ClosedRange<Int>) throws {
      try daemon.shell(
        "seq -f 'line %04.0f' \(lines.lowerBound) \(lines.upperBound) | "
          + "$BIN/relayctl write relay")
    }

    private func lines(_ range: ClosedRange<Int>) -> String {
      range.map { "line \(String("000\($0)".suffix(4)))\n" }.joined()
    }

    @Test func aFileIsEmptiedFirst() throws {
      try write(1...2)
      try read()
      try write(3...3)
      try read()
      #expect(try run("cat", file).output == lines(3...3))
    }

    @Test func aFileThatCannotBeWrittenCostsNoRecord() throws {
      try write(1...2)
      for (options, reason) in [
        (["--output", "/"], "open /: Is a directory"),
        (["--output", "/nosuch/f"], "open /nosuch/f: No such file or directory"),
        (
          ["--output", "/nosuch/f", "--rotate-size", "1MiB"],
          "list /nosuch/: No such file or directory"
        ),
      ] {
        let finished = try daemon.relayctl(["read", "relay"] + options)
        #expect(finished.status == 1 && finished.error == "relayctl: \(reason)\n")
      }
      try read()
      #expect(try run("cat", file).output == lines(1...2))
    }

    @Test func filesRotateBetweenRecords() throws {
      try write(1...13)
      try read("--rotate-size", "64")
      #expect(try numbers() == [0, 1, 2])
      #expect(try content(0) == lines(1...6))
      #expect(try content(1) == lines(7...12))
      #expect(try content(2) == lines(13...13))
    }

    @Test func theNextRunGoesOnBehindTheHighestNumber() throws {
      try run("touch", "\(file).7", "\(file).08", "\(file).9x", "\(file)x.9")
      try write(1...2)
      try read("--rotate-size", "1KiB")
      #expect(try content(8) == lines(1...2))
    }

    @Test func theNewestFilesAreKept() throws {
      try write(1...13)
      try read("--rotate-size", "64", "--rotate-count", "2")
      #expect(try numbers() == [1, 2])
      try write(14...14)
      try read("--rotate-size", "64", "--rotate-count", "2")
      #expect(try numbers() == [2, 3], "those of the last run count, too")
      #expect(try content(3) == lines(14...14))
    }

    @Test func aRecordIsNeverSplit() throws {
      // More than one read returns, and more than a file shall hold.
      try daemon.shell(
        "head -c 600000 /dev/zero | tr '\\0' x | $BIN/relayctl write relay --block 300000")
      try write(1...1)
      try read("--rotate-size", "4KiB")
      #expect(try (0..<3).map { try content($0).utf8.count } == [300_000, 300_000, 10])
      #expect(try numbers() == [0, 1, 2])
    }

    @Test func aFollowerRotates() throws {
      let follower = try Follower(daemon, ["--output", file, "--rotate-size", "64"])
      try write(1...7)
      try eventually("the second file is there") { try content(1) == lines(7...7) }
      follower.signal(SIGTERM)
      #expect(follower.wait() == 128 + Int(SIGTERM))
      #expect(follower.output == "" && follower.error == "")
      #expect(try content(0) == lines(1...6))
    }
  }
}
