// SPDX-License-Identifier: Apache-2.0
// Processes that write: one that outlives the daemon, and those that the daemon cannot tell apart
// by number.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct ProducerTests {
    @Test func aWriterWhoseDaemonDiedSaysSoAtItsEnd() throws {
      let daemon = try Daemon("relay:global")
      // A socket, because its end can be said without closing it.
      let input = try UnixSocket.pair()
      let error = try MemoryFile.create(name: "error", count: 0)
      let writer = try ChildProcess(
        [program("relayctl"), "write", "relay"], input: input.second.raw, error: error.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      #expect(write(input.first.raw, "one\n", 4) == 4)
      try eventually("it has written") {
        try run("cat", daemon.device("relay0")).output == "one\n"
      }
      daemon.end(SIGKILL)
      #expect(write(input.first.raw, "two\n", 4) == 4)
      shutdown(input.first.raw, CInt(SHUT_WR))
      #expect(writer.wait() == 69)
      #expect(
        text(of: error.raw)
          == "relayctl: relayd is gone: 2 records were written, but may not have been read\n")
    }

    /// SO_PEERPIDFD, by which alone a process outside one's pid namespace is known, is of 6.5.
    private func kernelKnowsPeers() throws -> Bool {
      let release = try run("uname", "-r").output.split { !$0.isNumber }.prefix(2).map { Int($0)! }
      return (release[0], release[1]) >= (6, 5)
    }

    @Test func producersOutsideItsPIDNamespaceAreToldApart() throws {
      // Its producers, all out here, have no number in there.
      let daemon = try Daemon(
        "outside:global,max_producers=2", prefix: ["unshare", "--pid", "--fork", "--kill-child"])
      defer { daemon.end(SIGKILL) }
      guard try kernelKnowsPeers() else {
        let finished = try daemon.relayctl("write", "outside")
        #expect(finished.status == 1)
        #expect(finished.error.contains("other pid namespace needs Linux 6.5"), "\(finished.error)")
        return
      }
      let pipe = try Pipe()
      let writers = [
        try daemon.startWriter("outside", pipe), try daemon.startWriter("outside", pipe),
      ]
      let third = try daemon.relayctl("write", "outside")
      #expect(third.status == 1)
      #expect(third.error.contains("its max_producers is 2"))
      for writer in writers {
        writer.signal(SIGKILL)
        _ = writer.wait()
        try eventually("its death is seen") {
          try daemon.relayctl("write", "outside").status == 0
        }
      }
      try daemon.write("one\n", to: "outside")
      #expect(try run("cat", daemon.device("outside0")).output == "one\n")
    }
  }
}
