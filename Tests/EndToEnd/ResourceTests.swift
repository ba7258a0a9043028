// SPDX-License-Identifier: Apache-2.0
// What a daemon costs: no time when idle, little memory beside the data, no allocation per request.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ResourceTests {
    @Test func anIdleDaemonNeverRuns() throws {
      let daemon = try Daemon("relay", "trace:mode=overwrite")
      try daemon.write("one\n")
      _ = try run("cat", daemon.device("relay0"))
      try daemon.requireSleep()
    }

    @Test func memoryIsWhatWasTouchedAndAtMost20MB() throws {
      // Room for 256 MiB, of which 3 MB are used.
      let daemon = try Daemon("relay:global,subbuf_size=32MiB,n_subbufs=8")
      try daemon.shell("head -c 3000000 /dev/urandom | $BIN/relayctl write relay --block 1000")
      try daemon.shell("cat \(daemon.device("relay0")) > /dev/null")
      let own =
        try daemon.proc("status", "RssAnon") + daemon.proc("status", "RssFile")
      #expect(own <= 20_000, "kB")
      // 3000 records: 3 MB of payload, 24 kB of index, one page of header.
      #expect(try daemon.proc("status", "RssShmem") <= 3_000 + 100, "kB")
    }

    @Test func aReadAllocatesNothing() throws {
      // The request path behind both front ends is the same, and a guest slow.
      guard Backend.underTest == .fuse else { return }
      let source = "\(#filePath)".split(separator: "/").dropLast(2).joined(separator: "/")
      let scratch = try Scratch()
      let library = "\(scratch.path)/count.so"
      let counter = "\(scratch.path)/count"
      let built = try run(
        "cc", "-shared", "-fPIC", "-O1", "-o", library, "/\(source)/Preload/count_allocations.c")
      #expect(built.status == 0, "\(built.error)")
      try run("truncate", "-s", "4096", counter)
      let daemon = try Daemon(
        "relay:global", in: scratch, environment: ["LD_PRELOAD": library, "COUNT_FILE": counter])
      try daemon.shell("head -c 1500000 /dev/zero | $BIN/relayctl write relay --block 700")
      let counts = try FileDescriptor.open(counter, O_RDONLY)
      func count() -> UInt64 {
        var number: UInt64 = 0
        pread(counts.raw, &number, 8, 0)
        return number
      }
      let device = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY)
      func readAndPoll(_ times: Int) {
        var buffer = [UInt8](repeating: 0, count: 1000)
        for _ in 0..<times {
          var poller = pollfd(fd: device.raw, events: Int16(POLLIN), revents: 0)
          #expect(poll(&poller, 1, 0) == 1)
          #expect(read(device.raw, &buffer, buffer.count) == buffer.count)
        }
      }
      readAndPoll(10)
      #expect(count() > 0, "the counter counts")
      // What the daemon's main thread does once about the writer's end is not what is counted.
      let allocated = (0..<4).map { _ in
        let before = count()
        readAndPoll(350)
        return count() - before
      }
      #expect(allocated.contains(0), "\(allocated)")
    }
  }
}
