// SPDX-License-Identifier: Apache-2.0
// The core that a producer leaves: nothing of the ring is in it, which others write into, too.

import Glibc
import LinuxIO
import Testing

/// Core dumps, as this kernel writes them.
enum Cores {
  static var areFiles: Bool {
    guard let pattern = try? FileDescriptor.open("/proc/sys/kernel/core_pattern", O_RDONLY) else {
      return false
    }
    return !text(of: pattern.raw).contains { $0 == "|" || $0 == "/" }
  }

  static func find(in directory: String) throws -> String? {
    try Files.names(in: directory).first { $0.hasPrefix("core") }.map { "\(directory)/\($0)" }
  }
}

extension OneAtATime {
  // Also in the guest, whose kernel writes cores into files whatever this machine does with them.
  @Suite(.enabled(if: Cores.areFiles, "the kernel gives cores to a program"))
  struct CoreTests {
    @Test func coreHoldsNothingOfTheRing() throws {
      let marker = "the record of somebody else"
      let daemons = try Daemons("relay:global,subbuf_size=8MiB,n_subbufs=16,mode=overwrite")
      for _ in 0..<10 { try daemons.now.write(marker + "\n") }
      let scratch = try Scratch()
      let application = try Application(["aborted"], in: scratch, daemons.now)
      var resident = 0
      let trace = try application.finish([
        { resident = try MemoryGroupTests.resident("relay", of: daemons.now.process.pid) }
      ])
      #expect(trace.status == 128 + Int(SIGABRT))
      #expect(trace.files["log"] == "one record\n")
      let core = try #require(try Cores.find(in: application.directory))
      // By its blocks, and by its length.
      var status = stat()
      #expect(stat(core, &status) == 0)
      #expect(status.st_size > 4096 && status.st_size < 64 << 20, "\(status.st_size)")
      #expect(try run("grep", "-c", "application", core).status == 0, "it is searched")
      #expect(try run("grep", "-c", marker, core).status == 1)
      // The dump touched no page of it.
      let after = try MemoryGroupTests.resident("relay", of: daemons.now.process.pid)
      #expect(after == resident && after < 1 << 20, "\(resident) \(after)")
    }
  }
}
