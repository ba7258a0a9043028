// SPDX-License-Identifier: Apache-2.0
// A daemon that is told to end: who has a device open gets what is left, whatever others do.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct EndTests {
    /// A channel with 1,500,000 bytes that nobody has read.
    private func start() throws -> Daemon {
      let daemon = try Daemon("big:global,read=block")
      let written = try daemon.shell(
        "head -c 1500000 /dev/zero | $BIN/relayctl write big --block 1000")
      #expect(written.status == 0, "\(written.error)")
      return daemon
    }

    @Test func aSlowReaderGetsWhatIsLeftThoughClientsAreBusy() throws {
      let daemon = try start()
      let slow = """
        import os, select, time
        fd = os.open("\(daemon.device("big0"))", os.O_RDONLY)
        print("ready", flush=True)
        poller = select.poll()
        poller.register(fd, 0)
        poller.poll()
        count = 0
        while True:
            time.sleep(0.1)
            data = os.read(fd, 131072)
            count += len(data)
            if not data: break
        print(count)
        """
      let out = try outputFile("out")
      let reader = try ChildProcess(["python3", "-c", slow], output: out.raw)
      try eventually("it waits") { text(of: out.raw) == "ready\n" }
      // As fast as they can, until there is no relayd.
      let clients = try (0..<3).map { _ in
        try ChildProcess(
          ["bash", "-c", "while \(program("relayctl")) list; do :; done >/dev/null 2>&1"],
          environment: ["RELAY_SOCKET": daemon.socket])
      }
      #expect(daemon.end(SIGTERM) == 0)
      #expect(reader.wait() == 0)
      #expect(text(of: out.raw) == "ready\n1500000\n")
      for client in clients { #expect(client.wait() == 0) }
      #expect(!daemon.logText.contains("nobody read"))
    }

    @Test func aReaderThatDoesNotReadHoldsNobodyUp() throws {
      let daemon = try start()
      let device = try FileDescriptor.open(daemon.device("big0"), O_RDONLY)
      let start = ContinuousClock.now
      #expect(daemon.end(SIGTERM) == 0)
      #expect(ContinuousClock.now - start < .seconds(5))
      #expect(device.raw >= 0)
      #expect(daemon.logText.contains("nobody read 1500 records of"))
    }
  }
}
