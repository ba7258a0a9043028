// SPDX-License-Identifier: Apache-2.0
// The system calls that the kernel serves from its page cache, on relayfs files whose inode has a
// size because somebody wrote there. The page cache reads ahead and repeats what it has; none of
// these calls may take a byte that it does not deliver, or wait for one that nobody can interrupt.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct PageCacheTests {
    /// Every call that can make the page cache ask, on the description that wrote and on one that
    /// was opened anew for the same inode. What a call delivers is counted with what read finds.
    private static let script = """
      import ctypes, mmap
      libc = ctypes.CDLL(None, use_errno=True)
      libc.mmap.restype = ctypes.c_void_p
      libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
      libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
      writer = os.open(path, os.O_RDWR)
      written = b"".join(b"%04d" % n + bytes(996) for n in range(20))
      os.write(writer, written[:100])
      for start in range(0, len(written), 1000): os.write(writer, written[start:start + 1000])
      written = written[:100] + written
      reopened = os.open("/proc/self/fd/%d" % writer, os.O_RDONLY)
      output, pipe = os.pipe()
      out = os.memfd_create("out")
      found = b""
      for file in writer, reopened:
        count = attempt(os.splice, file, pipe, 65536)
        if isinstance(count, int): found += os.read(output, 65536)
        attempt(os.sendfile, out, file, None, 4096)
        attempt(os.copy_file_range, file, out, 4096)
        attempt(os.posix_fadvise, file, 0, 65536, os.POSIX_FADV_WILLNEED)
        libc.readahead(file, ctypes.c_long(0), ctypes.c_size_t(65536))
        place = libc.mmap(None, 65536, mmap.PROT_READ, mmap.MAP_PRIVATE, file, 0)
        if libc.write(pipe, place, 10) != -1: print("a mapping showed data")
      found += os.pread(out, 65536, 0)
      while piece := os.read(writer, 65536): found += piece
      print(len(found), found == written)
      """

    @Test func callsThroughThePageCacheTakeNothing() throws {
      #expect(try WrittenDevice().python(PageCacheTests.script) == "20100 True\n")
    }

    /// On a drained channel that lets reads wait; a signal with a handler.
    @Test func aSpliceThatFindsNothingEndsOrHearsASignal() throws {
      let device = try WrittenDevice(",read=block")
      let splicer = try ChildProcess([
        "python3", "-c",
        """
        import os, signal, sys
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
        file = os.open(sys.argv[1], os.O_RDWR)
        os.write(file, bytes(100))
        os.read(file, 100)
        try: os.splice(file, os.pipe()[1], 4096)
        except OSError: pass
        """, device.path,
      ])
      defer { splicer.signal(SIGKILL) }
      func proc(_ file: String) throws -> String {
        try run("cat", "/proc/\(splicer.pid)/\(file)").output
      }
      try eventually("it is in splice, or over") {
        try proc("syscall").hasPrefix("275 ") || proc("stat").contains(") Z ")
      }
      splicer.signal(SIGUSR1)
      try eventually("it is over") { try proc("stat").contains(") Z ") }
      #expect(splicer.wait() == 0)
    }
  }
}
