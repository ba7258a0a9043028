// SPDX-License-Identifier: Apache-2.0
// The file operations beside read and poll, on a relayfs file or a CUSE node: what the kernel
// decides, and that none of them loses data or holds up another.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct FileOperationTests {
    private func open(_ daemon: Daemon, _ flags: CInt = 0) throws -> FileDescriptor {
      try FileDescriptor.open(daemon.device("relay0"), O_RDONLY | flags)
    }

    private func content(_ daemon: Daemon) throws -> String {
      try run("timeout", "20", "cat", daemon.device("relay0")).output
    }

    @Test func aFileCannotBeMapped() throws {
      let daemon = try Daemon("relay:global")
      let file = try open(daemon)
      #expect(mmap(nil, 4096, PROT_READ, MAP_SHARED, file.raw, 0) == MAP_FAILED && errno == ENODEV)
      try daemon.write("one\n")
      let address = mmap(nil, 4096, PROT_READ, MAP_PRIVATE, file.raw, 0)
      if Backend.underTest == .cuse {
        #expect(address == MAP_FAILED && errno == ENODEV)
      } else {
        // The kernel maps it, and there is nothing behind it: a program's access is a SIGBUS.
        let pipe = try Pipe()
        #expect(Glibc.write(pipe.write.raw, address, 1) == -1 && errno == EFAULT)
        munmap(address, 4096)
      }
      #expect(try content(daemon) == "one\n")
    }

    /// Not ours: advisory locks are between those who have it open, and leave reads alone.
    @Test func locksAreTheKernels() throws {
      let daemon = try Daemon("relay:global")
      let files = try (0..<2).map { _ in try GuardedDescriptor(open(daemon)) }
      #expect(flock(files[0].raw, LOCK_EX | LOCK_NB) == 0)
      #expect(flock(files[1].raw, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK)
      try daemon.write("one\n")
      var bytes = [UInt8](repeating: 0, count: 8)
      #expect(read(files[1].raw, &bytes, 8) == 4)
      #expect(flock(files[0].raw, LOCK_UN) == 0)
      #expect(flock(files[1].raw, LOCK_EX | LOCK_NB) == 0)
    }

    /// The kernel refuses them, or finds nothing there. Whoever falls back on read gets it all.
    @Test func spliceAndSendfileTakeNothing() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let calls = """
        import errno, os, sys
        file = os.open(sys.argv[1], os.O_RDONLY)
        _, pipe = os.pipe()
        out = os.memfd_create("out")
        for call in os.splice, lambda a, b, n: os.sendfile(b, a, None, n):
          try: print(call(file, pipe if call is os.splice else out, 4))
          except OSError as e: print(errno.errorcode[e.errno])
        """
      let said = try run("python3", "-c", calls, daemon.device("relay0"))
      #expect(
        said.output == "EINVAL\nEINVAL\n"
          || Backend.underTest == .fuse && said.output == "0\nEINVAL\n", "\(said)")
      #expect(try content(daemon) == "one\n")
    }

    @Test func anExclusiveOpenExcludesNobody() throws {
      let daemon = try Daemon("relay:global")
      let first = try open(daemon, O_EXCL)
      let second = try open(daemon, O_EXCL)
      #expect(first.raw != second.raw)
    }

    @Test func whoClosesAFileLeavesTheRestToTheNext() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("0123456789\n")
      for digits in ["012", "345", "678"] {
        let file = try open(daemon)
        var bytes = [UInt8](repeating: 0, count: 3)
        #expect(read(file.raw, &bytes, 3) == 3)
        #expect(bytes.elementsEqual(digits.utf8))
      }
      #expect(try content(daemon) == "9\n")
    }

    /// Neither on another open file, nor on the one it waits on.
    @Test func aReadThatWaitsHoldsUpNeitherPollNorFlushNorRelease() throws {
      let daemon = try Daemon("wait:global,read=block")
      let device = daemon.device("wait0")
      let waiter = try WaitingStateTests.Waiter(.read, daemon)
      for _ in 0..<20 {
        let polled = try run("timeout", "20", program("relay-load"), "wait", "--until", "/", device)
        #expect(polled.status == 1, "nothing is there")
      }
      // Two waiters of one open file. A close by either is a FLUSH, the last one a RELEASE.
      let shared = Glibc.open(device, O_RDONLY | O_CLOEXEC)
      let out = try outputFile("out")
      let cats = try (0..<2).map { _ in try ChildProcess(["cat"], input: shared, output: out.raw) }
      try eventually("both wait") {
        try cats.allSatisfy {
          try run("cat", "/proc/\($0.pid)/stat").output.contains("(cat) S ")
        }
      }
      #expect(close(shared) == 0)
      for cat in cats {
        cat.signal(SIGKILL)
        #expect(cat.wait() == 128 + Int(SIGKILL))
      }
      #expect(waiter.said == ["ready"])
      try daemon.write("one\n", to: "wait")
      #expect(try waiter.result() == ["read 4"])
    }
  }
}
