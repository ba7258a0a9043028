// SPDX-License-Identifier: Apache-2.0
// Writing to devices with ordinary tools and system calls: each write(2) is a record, or nothing.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct DeviceWriteTests {
    private static let options = "global,write,permissions=0600"

    private func start(_ options: String = "") throws -> Daemon {
      try Daemon("relay:" + DeviceWriteTests.options + options)
    }

    /// Room for two records of 4096 bytes.
    private func startSmall(_ more: String = "") throws -> Daemon {
      try start(",subbuf_size=4KiB,n_subbufs=2" + more)
    }

    private func open(_ daemon: Daemon, _ flags: CInt = 0) throws -> FileDescriptor {
      try FileDescriptor.open(daemon.device("relay0"), O_WRONLY | flags)
    }

    /// What a write of so many bytes says, or -errno.
    private func write(_ fd: CInt, _ count: Int, _ byte: UInt8 = 0x78) -> Int {
      let bytes = [UInt8](repeating: byte, count: count)
      let written = Glibc.write(fd, bytes, count)
      return written < 0 ? -Int(errno) : written
    }

    private func cat(_ daemon: Daemon) throws -> String {
      try run("timeout", "20", "cat", daemon.device("relay0")).output
    }

    /// Runs Python with `path` and what most scripts need; what it prints.
    private func python(_ daemon: Daemon, _ script: String) throws -> String {
      let finished = try run(
        "timeout", "60", "python3", "-c",
        """
        import errno, os, select, signal, sys, threading
        path = sys.argv[1]
        def attempt(call, *arguments):
          try: return call(*arguments)
          except OSError as e: return errno.errorcode[e.errno]

        """ + script, daemon.device("relay0"))
      return finished.output + finished.error
    }

    /// A Python that opens the device and writes once, in a way that may wait, and what it said.
    private final class Waiter {
      let process: ChildProcess
      private let out: FileDescriptor

      init(_ daemon: Daemon, _ text: String, handles: Bool = false) throws {
        out = try MemoryFile.create(name: "out", count: 0)
        process = try ChildProcess(
          [
            "python3", "-c",
            """
            import ctypes, errno, signal, sys
            if \(handles ? 1 : 0):
              signal.signal(signal.SIGUSR1, lambda *_: None)
              signal.siginterrupt(signal.SIGUSR1, True)
            libc = ctypes.CDLL(None, use_errno=True)
            fd = libc.open(sys.argv[1].encode(), 1)
            print("ready", flush=True)
            n = libc.write(fd, b"\(text)", \(text.utf8.count))
            print(n if n >= 0 else errno.errorcode[ctypes.get_errno()])
            """, daemon.device("relay0"),
          ], output: out.raw)
        try eventually("it waits") { said == "ready\n" && isAsleep }
      }

      private var isAsleep: Bool {
        let wait = (try? run("cat", "/proc/\(process.pid)/stat").output) ?? ""
        return wait.contains(") S ") || wait.contains(") D ")
      }

      var said: String { text(of: out.raw) }

      func result() throws -> String {
        try eventually("it is over: \(said)") {
          try run("cat", "/proc/\(process.pid)/stat").output.contains(") Z ")
        }
        _ = process.wait()
        return String(said.dropFirst("ready\n".count).dropLast())
      }
    }

    @Test func aLineFromTheShellIsARecord() throws {
      let daemon = try start()
      let device = daemon.device("relay0")
      #expect(try daemon.shell("echo text > \(device)").status == 0)
      for word in ["more", "and", "more"] {
        #expect(try daemon.shell("echo \(word) >> \(device)").status == 0)
      }
      #expect(try daemon.shell("for i in 1 2 3; do echo $i; done >> \(device)").status == 0)
      #expect(try daemon.shell("seq 3 | tee \(device)").status == 0)
      #expect(try daemon.statistic("records_written") == 8)
      #expect(try daemon.statistic("bytes_written") == 31)
      #expect(try cat(daemon) == "text\nmore\nand\nmore\n1\n2\n3\n1\n2\n3\n")
      #expect(try run("stat", "-c", "%s", device).output == "0\n")
    }

    @Test func blocksOfDdAreRecords() throws {
      let daemon = try start()
      let copied = try daemon.shell(
        "seq 100000 | dd of=\(daemon.device("relay0")) bs=1000 iflag=fullblock status=none")
      #expect(copied.status == 0, "\(copied.error)")
      #expect(try daemon.statistic("records_written") == 589)
      #expect(try cat(daemon) == (1...100000).map { "\($0)\n" }.joined())
      #expect(try daemon.statistic("records_read") == 589)
    }

    @Test func aRecordGoesIntoTheBufferOfItsDevice() throws {
      let daemon = try Daemon("relay:write,permissions=0600")
      let devices = try Files.names(in: Backend.underTest == .cuse ? "/dev" : daemon.mount)
        .filter { $0.hasPrefix("relay") && $0.last!.isNumber }
      for device in devices {
        let path = daemon.device(device)
        #expect(try daemon.shell("for i in 1 2 3; do echo \(device); done > \(path)").status == 0)
      }
      for device in devices {
        #expect(
          try run("cat", daemon.device(device)).output
            == String(repeating: "\(device)\n", count: 3))
      }
      #expect(!devices.isEmpty)
    }

    /// None of these is stored, in whole or in part, however the caller's memory lies.
    @Test func whatIsTooLongIsRefusedAsAWhole() throws {
      let daemon = try start(",subbuf_size=4MiB,n_subbufs=2")
      let said = try python(
        daemon,
        """
        fd = os.open(path, os.O_WRONLY)
        memory = memoryview(bytearray(3 << 20))
        for size in 126977, 131072, 131073, 262144, 1 << 20, 2 << 20:
          for start in 0, 1, 2048, 4095:
            said = attempt(os.write, fd, memory[start:start + size])
            if said != "EMSGSIZE": print(size, start, said)
        for start in 0, 1, 2048, 4095:
          print(attempt(os.write, fd, memory[start:start + 126976]))
        """)
      #expect(said == String(repeating: "126976\n", count: 4))
      #expect(try daemon.statistic("records_written") == 4)
      #expect(try daemon.statistic("lost_too_big") == 0)
      #expect(try cat(daemon).utf8.count == 4 * 126976)
    }

    @Test func whatIsLongerThanASubbufferIsRefused() throws {
      let daemon = try startSmall()
      let device = try open(daemon)
      #expect(write(device.raw, 4097) == -Int(EMSGSIZE))
      #expect(write(device.raw, 4096) == 4096)
      #expect(try daemon.statistic("records_written") == 1)
    }

    @Test func aWriteOfNothingIsNoRecord() throws {
      let daemon = try start()
      let device = try open(daemon)
      #expect(write(device.raw, 0) == 0)
      #expect(try daemon.statistic("records_written") == 0)
    }

    /// The kernel passes on 32 pages at once, or more on relayfs, and each piece begins one.
    @Test func manyPiecesAreOneRecordOrItsBeginning() throws {
      let daemon = try start()
      let said = try python(
        daemon,
        """
        fd = os.open(path, os.O_WRONLY)
        print(attempt(os.writev, fd, [b"0123456789"] * 30))
        print(attempt(os.writev, fd, [b"0123456789"] * 1000))
        """)
      let written = said.split(separator: "\n").compactMap { Int($0) }
      try #require(written.count == 2, "\(said)")
      #expect(written[0] == 300 && written[1] >= 320 && written[1] < 10000)
      #expect(try daemon.statistic("records_written") == 2)
      #expect(try daemon.statistic("bytes_written") == written[0] + written[1])
    }

    @Test func writingIsRefusedWhereItIsNotAllowed() throws {
      let daemon = try Daemon("relay:global,permissions=0666", "mine:global,write")
      for (device, status) in [("relay0", EACCES), ("mine0", 0)] {
        for flags in [O_WRONLY, O_RDWR, O_WRONLY | O_APPEND, O_WRONLY | O_TRUNC] {
          let fd = Glibc.open(daemon.device(device), flags)
          #expect(fd >= 0 ? status == 0 : errno == status)
          close(fd)
        }
      }
      // The mode is everybody else's concern.
      chmod(daemon.scratch.path, 0o755)
      let refused = try run(
        PermissionTests.outsider + ["bash", "-c", "echo > \(daemon.device("mine0"))"])
      #expect(refused.status == 1 && refused.error.contains("Permission denied"))
    }

    @Test func aFullBufferIsSaidToBeSoAndNothingIsLost() throws {
      let daemon = try startSmall()
      let device = try open(daemon, O_NONBLOCK)
      for byte in [0x61, 0x62] { #expect(write(device.raw, 4096, UInt8(byte)) == 4096) }
      for count in [1, 4096] { #expect(write(device.raw, count) == -Int(EAGAIN)) }
      #expect(try cat(daemon).utf8.count == 8192)
      #expect(write(device.raw, 1) == 1)
      #expect(try daemon.statistic("records_written") == 3)
      for cause in ["lost_full", "lost_too_big", "aborted", "cancelled", "corrupt"] {
        #expect(try daemon.statistic(cause) == 0, "\(cause)")
      }
    }

    @Test func overwritingNeverWaits() throws {
      let daemon = try startSmall(",mode=overwrite")
      let device = try open(daemon)
      for byte in 0..<26 { #expect(write(device.raw, 4096, UInt8(0x61 + byte)) == 4096) }
      #expect(try cat(daemon).utf8.count == 8192)
      #expect(try daemon.statistic("lost_overwritten") == 24)
    }

    @Test func aWriterWaitsUntilAReaderMakesRoom() throws {
      let daemon = try startSmall()
      let device = try open(daemon)
      for _ in 0..<2 { #expect(write(device.raw, 4096) == 4096) }
      let waiters = [try Waiter(daemon, "first"), try Waiter(daemon, "second")]
      #expect(try daemon.statistic("records_written") == 2)
      #expect(try run("head", "-c", "4096", daemon.device("relay0")).output.utf8.count == 4096)
      #expect(try waiters[0].result() == "5")
      #expect(try waiters[1].result() == "6")
      #expect(try cat(daemon).hasSuffix("xfirstsecond"))
      #expect(try daemon.statistic("records_written") == 4)
    }

    @Test func aWriterThatWaitsIsToldOfAResetAndOfTheClose() throws {
      let daemon = try startSmall()
      let device = try open(daemon)
      for _ in 0..<2 { #expect(write(device.raw, 4096) == 4096) }
      let first = try Waiter(daemon, "first")
      try daemon.require("reset", "relay")
      #expect(try first.result() == "5")
      #expect(write(device.raw, 4096) == 4096)
      let second = try Waiter(daemon, String(repeating: "y", count: 4096))
      try daemon.require("close", "relay")
      #expect(try second.result() == "EPIPE")
      #expect(write(device.raw, 1) == -Int(EPIPE))
    }

    @Test func signalsGetAWriterOut() throws {
      let daemon = try startSmall()
      let device = try open(daemon)
      for _ in 0..<2 { #expect(write(device.raw, 4096) == 4096) }
      let handler = try Waiter(daemon, "handled", handles: true)
      handler.process.signal(SIGUSR1)
      #expect(try handler.result() == "EINTR")
      let killed = try Waiter(daemon, "killed")
      killed.process.signal(SIGKILL)
      #expect(try killed.result() == "")
      #expect(try cat(daemon).utf8.count == 8192)
      #expect(try daemon.statistic("records_written") == 2)
      #expect(write(device.raw, 1) == 1)
    }

    @Test func whoWaitsWhenRelaydDiesIsToldAndWhatWasWrittenIsThere() throws {
      let held = try HeldDaemon("relay:\(DeviceWriteTests.options),subbuf_size=4KiB,n_subbufs=2")
      let daemon = held.daemon
      #expect(try daemon.shell("echo one > \(daemon.device("relay0"))").status == 0)
      do {
        let device = try open(daemon)
        #expect(write(device.raw, 4096) == 4096)
        let waiter = try Waiter(daemon, String(repeating: "y", count: 4096))
        try held.restart()
        #expect(try waiter.result() == "ECONNABORTED")
        #expect(write(device.raw, 1) == -Int(ENOTCONN))
      }
      #expect(try cat(daemon) == "one\n" + String(repeating: "x", count: 4096))
      #expect(try daemon.shell("echo two > \(daemon.device("relay0"))").status == 0)
      #expect(try cat(daemon) == "two\n")
      #expect(try daemon.statistic("records_written") == 3)
      #expect(try daemon.statistic("aborted") == 0)
    }

    /// Every record that a call said was written is there, once, and no half of another.
    @Test func recordsSurviveAKillAmongManyWrites() throws {
      let held = try HeldDaemon("relay:\(DeviceWriteTests.options)")
      let daemon = held.daemon
      let writer = try ChildProcess(
        [
          "python3", "-c",
          """
          import os, sys
          n = 0
          out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT, 0o600)
          fd = os.open(sys.argv[1], os.O_WRONLY)
          try:
            while True:
              os.write(fd, b"%07d\\n" % n)
              n += 1
              os.pwrite(out, b"%07d" % n, 0)
          except OSError: pass
          """, daemon.device("relay0"), "\(daemon.scratch.path)/count",
        ])
      try eventually("it writes") { try daemon.statistic("records_written") > 200 }
      try held.restart()
      #expect(writer.wait() == 0)
      let count = try #require(Int(try run("cat", "\(daemon.scratch.path)/count").output))
      let lines = try cat(daemon).split(separator: "\n").map { Int($0) }
      // The one that relayd was killed in may be there.
      #expect(lines.count == count || lines.count == count + 1)
      #expect(lines.enumerated().allSatisfy { $0.offset == $0.element })
    }

    @Test func manyWritersAtOnceLoseNothing() throws {
      let daemon = try start(",subbuf_size=4KiB,n_subbufs=4,read=block")
      let device = daemon.device("relay0")
      let out = try MemoryFile.create(name: "out", count: 0)
      let reader = try ChildProcess(["timeout", "120", "cat", device], output: out.raw)
      let written = try run(
        "timeout", "100", "bash", "-c",
        """
        for w in 1 2 3 4 5 6 7 8; do
          (for ((i = 0; i < 500; i++)); do echo "$w $i"; done > \(device)) & jobs+=($!)
        done
        for j in "${jobs[@]}"; do wait $j || exit 1; done
        """)
      #expect(written.status == 0, "\(written.error)")
      try daemon.require("close", "relay")
      #expect(reader.wait() == 0)
      let lines = text(of: out.raw).split(separator: "\n")
      #expect(lines.count == 4000)
      for writer in 1...8 {
        let own = lines.filter { $0.hasPrefix("\(writer) ") }
        #expect(own.enumerated().allSatisfy { $0.element == "\(writer) \($0.offset)" })
      }
    }

    /// A device's writers and those that are attached, side by side.
    @Test func attachedWritersGoOnBesideThem() throws {
      let daemon = try start(",read=block")
      let input = try Pipe()
      let writer = try daemon.startWriter("relay", input)
      let device = try open(daemon)
      for i in 0..<10 {
        #expect(Glibc.write(input.write.raw, "attached\n", 9) == 9)
        try eventually("it is written") { try daemon.statistic("records_written") == 2 * i + 1 }
        #expect(Glibc.write(device.raw, "device\n", 7) == 7)
      }
      #expect(writer.pid > 0)
      let text = String(repeating: "attached\ndevice\n", count: 10)
      #expect(try run("head", "-c", "\(text.utf8.count)", daemon.device("relay0")).output == text)
    }

    @Test func pollTellsOfRoomExactly() throws {
      let daemon = try startSmall()
      let said = try python(
        daemon,
        """
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        poll = select.poll()
        poll.register(fd, select.POLLOUT | select.POLLWRNORM)
        writable = select.POLLOUT | select.POLLWRNORM
        print(poll.poll(0) == [(fd, writable)], select.select([], [fd], [], 0)[1] == [fd])
        while attempt(os.write, fd, b"x" * 1000) == 1000: pass
        print(poll.poll(0), attempt(os.write, fd, b"x"), select.select([], [fd], [], 0)[1])
        def read():
          global got
          reader = os.open(path, os.O_RDONLY)
          got = len(os.read(reader, 65536))
        thread = threading.Thread(target=read)
        thread.start()
        print(poll.poll(20000) == [(fd, writable)], attempt(os.write, fd, b"x"))
        thread.join()
        print(got)
        """)
      #expect(said == "True True\n[] EAGAIN []\nTrue 1\n8000\n")
    }

    @Test func edgeTriggeredWritersAreToldOfNewRoom() throws {
      let daemon = try startSmall()
      let said = try python(
        daemon,
        """
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        epoll = select.epoll()
        epoll.register(fd, select.EPOLLOUT | select.EPOLLET)
        print(epoll.poll(0) == [(fd, select.EPOLLOUT)], epoll.poll(0))
        for i in range(5):
          while attempt(os.write, fd, b"x" * 4096) == 4096: pass
          # An event from the last round may still be there, of room that is used up.
          epoll.poll(0)
          reader = os.open(path, os.O_RDONLY)
          thread = threading.Thread(target=os.read, args=(reader, 65536))
          thread.start()
          print([e & select.EPOLLOUT for _, e in epoll.poll(20)] == [select.EPOLLOUT])
          thread.join()
          os.close(reader)
        """)
      #expect(said == "True []\n" + String(repeating: "True\n", count: 5))
    }

    @Test func theCloseWakesWhoPollsForRoom() throws {
      let daemon = try startSmall()
      let out = try MemoryFile.create(name: "out", count: 0)
      let poller = try ChildProcess(
        [
          "python3", "-c",
          """
          import os, select, sys
          fd = os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)
          while True:
            try: os.write(fd, b"x" * 4096)
            except BlockingIOError: break
          poll = select.poll()
          poll.register(fd, select.POLLOUT)
          print("ready", flush=True)
          print(poll.poll(20000) == [(fd, select.POLLERR | select.POLLHUP)])
          """, daemon.device("relay0"),
        ], output: out.raw)
      try eventually("it polls") {
        let stat = try run("cat", "/proc/\(poller.pid)/stat").output
        return text(of: out.raw) == "ready\n" && stat.contains(") S ")
      }
      try daemon.require("close", "relay")
      #expect(poller.wait() == 0)
      #expect(text(of: out.raw) == "ready\nTrue\n")
    }

    /// Each reads and each writes; the writer waits for the reader, in turn, for a while.
    @Test func aPipelineThroughADeviceIsWhole() throws {
      let daemon = try startSmall(",read=block")
      let device = daemon.device("relay0")
      let out = try MemoryFile.create(name: "out", count: 0)
      let reader = try ChildProcess(["timeout", "60", "cat", device], output: out.raw)
      let copied = try daemon.shell(
        "seq 200000 | timeout 50 dd of=\(device) bs=4000 iflag=fullblock status=none")
      #expect(copied.status == 0, "\(copied.error)")
      try daemon.require("close", "relay")
      #expect(reader.wait() == 0)
      #expect(text(of: out.raw) == (1...200000).map { "\($0)\n" }.joined())
    }
  }
}
