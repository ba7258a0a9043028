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
      let error = try outputFile("error")
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

    /// The count of what nobody had read dies with the writer.
    @Test(.onceIsEnough)
    func writerOfAChannelThatComesBackWithOtherSizesSaysWhatIsLost() throws {
      let daemon = try Daemon("relay:global")
      let input = try Pipe()
      let error = try outputFile("error")
      let writer = try ChildProcess(
        [program("relayctl"), "write", "relay"], input: input.read.raw, error: error.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      #expect(write(input.write.raw, "one\ntwo\n", 8) == 8)
      try eventually("both are written") { try daemon.statistic("records_written") == 2 }
      daemon.end(SIGKILL)
      let next = try Daemon("relay:global,n_subbufs=4", in: daemon.scratch)
      // Until it notices: what goes into the old memory is lost, too.
      var written = 2
      try eventually("it notices: \(next.logText)") {
        if write(input.write.raw, "one\n", 4) == 4 { written += 1 }
        return text(of: error.raw).contains("\n")
      }
      #expect(writer.wait() == 1)
      let parts = text(of: error.raw).split { !$0.isNumber }.compactMap { Int($0) }
      let lost = parts.last ?? 0
      #expect(
        text(of: error.raw)
          == "relayctl: channel relay is closed; \(lost) records were written; lost, and counted "
          + "nowhere else: \(lost) records that nobody had read, or that no relayd took\n")
      #expect((2...written).contains(lost))
    }

    /// What a client that relayctl is not gets from a daemon.
    private func ask(_ daemon: Daemon, _ script: String) throws -> String {
      let finished = try run(
        "python3", "-c",
        """
        import os, select, socket, struct
        def client(): return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        def attach(s):
            s.send(struct.pack("<BBHIH5s", 4, 1, 0, 7, 5, b"relay"))
            return s.recv(4096)[14:].decode()
        path = "\(daemon.socket)"
        \(script)
        """)
      #expect(finished.status == 0, "\(finished.error)")
      return finished.output
    }

    /// The connection of a process that has ended, used by another one. Of one that was reaped,
    /// some kernels give no handle any more.
    @Test(.onceIsEnough, arguments: [false, true])
    func whoConnectedAndIsGoneGetsNothing(_ isReaped: Bool) throws {
      let daemon = try Daemon("relay:global")
      let refusal = try ask(
        daemon,
        """
        s = client()
        child = os.fork()
        if child == 0:
            s.connect(path)
            os._exit(0)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        if \(isReaped ? 1 : 0): os.waitpid(child, 0)
        print(attach(s))
        """)
      #expect(
        refusal == "the process that asked is gone\n"
          || isReaped && refusal.hasPrefix("cannot watch the client: open a handle of "))
      #expect(try daemon.relayctl("write", "relay").status == 0, "others are attached")
    }

    @Test(.onceIsEnough) func withoutADescriptorForItsHandleNobodyIsAttached() throws {
      let daemon = try Daemon("relay:global", prefix: ["prlimit", "--nofile=80"])
      // Channels take what they may: fewer are left than there may be connections.
      for i in 0..<20 { try daemon.relayctl("create", "c\(i)_", "--global", "--keep") }
      let refusal = try ask(
        daemon,
        """
        clients = []
        while True:
            clients.append(client())
            clients[-1].connect(path)
            clients[-1].send(struct.pack("<BBHII", 4, 2, 0, 4, 0))
            if not select.select([clients[-1]], [], [], 1)[0]: break
            clients[-1].recv(4096)
        print(attach(clients[0]))
        """)
      #expect(refusal == "cannot watch the client: open a handle of a peer: Too many open files\n")
      try daemon.write("fine\n")
      #expect(try run("cat", daemon.device("relay0")).output == "fine\n", "once they are gone")
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
