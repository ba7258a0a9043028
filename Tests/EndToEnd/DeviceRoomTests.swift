// SPDX-License-Identifier: Apache-2.0
// Writers of devices whose buffers are full: who waits, what they are told, and what ends the wait.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct DeviceRoomTests {
    @Test func aFullBufferIsSaidToBeSoAndNothingIsLost() throws {
      let device = try WrittenDevice.small()
      let file = try device.open(O_NONBLOCK)
      for _ in 0..<2 { #expect(device.write(file, 4096) == 4096) }
      for count in [1, 4096] { #expect(device.write(file, count) == -Int(EAGAIN)) }
      #expect(try device.cat().utf8.count == 8192)
      #expect(device.write(file, 1) == 1)
      #expect(try device.daemon.statistic("records_written") == 3)
      for cause in ["lost_full", "lost_too_big", "aborted", "cancelled", "corrupt"] {
        #expect(try device.daemon.statistic(cause) == 0, "\(cause)")
      }
    }

    @Test func overwritingNeverWaits() throws {
      let device = try WrittenDevice.small(",mode=overwrite")
      let file = try device.open()
      for _ in 0..<26 { #expect(device.write(file, 4096) == 4096) }
      #expect(try device.cat().utf8.count == 8192)
      #expect(try device.daemon.statistic("lost_overwritten") == 24)
    }

    @Test func aWriterWaitsUntilAReaderMakesRoom() throws {
      let device = try WrittenDevice.small()
      let file = try device.open()
      for _ in 0..<2 { #expect(device.write(file, 4096) == 4096) }
      let waiters = [try WaitingWriter(device, "first"), try WaitingWriter(device, "second")]
      // On relayfs, too, where the kernel lets one at a time write to a file.
      #expect(device.write(try device.open(O_NONBLOCK | O_TRUNC), 1) == -Int(EAGAIN))
      #expect(try device.daemon.statistic("records_written") == 2)
      #expect(try run("head", "-c", "4096", device.path).output.utf8.count == 4096)
      #expect(try waiters[0].result() == "5")
      #expect(try waiters[1].result() == "6")
      #expect(try device.cat().hasSuffix("xfirstsecond"))
      #expect(try device.daemon.statistic("records_written") == 4)
    }

    @Test func aWriterThatWaitsIsToldOfAResetAndOfTheClose() throws {
      let device = try WrittenDevice.small()
      let file = try device.open()
      for _ in 0..<2 { #expect(device.write(file, 4096) == 4096) }
      let first = try WaitingWriter(device, "first")
      try device.daemon.require("reset", "relay")
      #expect(try first.result() == "5")
      #expect(device.write(file, 4096) == 4096)
      let second = try WaitingWriter(device, String(repeating: "y", count: 4096))
      try device.daemon.require("close", "relay")
      #expect(try second.result() == "EPIPE")
      #expect(device.write(file, 1) == -Int(EPIPE))
    }

    @Test func signalsGetAWriterOut() throws {
      let device = try WrittenDevice.small()
      let file = try device.open()
      for _ in 0..<2 { #expect(device.write(file, 4096) == 4096) }
      let handler = try WaitingWriter(device, "handled", handles: true)
      handler.process.signal(SIGUSR1)
      #expect(try handler.result() == "EINTR")
      let stopped = try WaitingWriter(device, "stopped")
      stopped.process.signal(SIGSTOP)
      try eventually("it is stopped") { stopped.isIn("T") }
      stopped.process.signal(SIGCONT)
      #expect(try stopped.result() == "EINTR")
      let killed = try WaitingWriter(device, "killed")
      killed.process.signal(SIGKILL)
      #expect(try killed.result() == "")
      #expect(try device.cat().utf8.count == 8192)
      #expect(try device.daemon.statistic("records_written") == 2)
      #expect(device.write(file, 1) == 1)
    }

    @Test func whoWaitsWhenRelaydEndsIsTold() throws {
      let device = try WrittenDevice.small()
      let file = try device.open()
      for _ in 0..<2 { #expect(device.write(file, 4096) == 4096) }
      let waiter = try WaitingWriter(device, "first")
      #expect(device.daemon.end() == 0)
      #expect(try waiter.result() == "EPIPE")
    }

    @Test func whoWaitsWhenRelaydDiesIsToldAndWhatWasWrittenIsThere() throws {
      let held = try HeldDaemon("relay:\(WrittenDevice.options),subbuf_size=4KiB,n_subbufs=2")
      let daemon = held.daemon
      let device = WrittenDevice(daemon)
      #expect(try daemon.shell("echo one > \(device.path)").status == 0)
      do {
        let file = try device.open()
        #expect(device.write(file, 4096) == 4096)
        let waiter = try WaitingWriter(device, String(repeating: "y", count: 4096))
        try held.restart()
        #expect(try waiter.result() == "ECONNABORTED")
        #expect(device.write(file, 1) == -Int(ENOTCONN))
      }
      #expect(try device.cat() == "one\n" + String(repeating: "x", count: 4096))
      #expect(try daemon.shell("echo two > \(device.path)").status == 0)
      #expect(try device.cat() == "two\n")
      #expect(try daemon.statistic("records_written") == 3)
      #expect(try daemon.statistic("aborted") == 0)
    }

    @Test func pollTellsOfRoomExactly() throws {
      let device = try WrittenDevice.small()
      let said = try device.python(
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
      let device = try WrittenDevice.small()
      let said = try device.python(
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
      let device = try WrittenDevice.small()
      let out = try outputFile("out")
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
          """, device.path,
        ], output: out.raw)
      try eventually("it polls") {
        let stat = try run("cat", "/proc/\(poller.pid)/stat").output
        return text(of: out.raw) == "ready\n" && stat.contains(") S ")
      }
      try device.daemon.require("close", "relay")
      #expect(poller.wait() == 0)
      #expect(text(of: out.raw) == "ready\nTrue\n")
    }
  }
}
