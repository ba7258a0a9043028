// SPDX-License-Identifier: Apache-2.0
// The rows of relay(4)'s table of clients about programs that wait: those that poll before they
// read, those whose read waits, and tail -f. Those that are interrupted are in
// InterruptedClientTests.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct WaitingClientTests {
    /// Where cat ends, they wait for what comes later; the end is when the channel closes.
    @Test(arguments: [
      "pv -q $NODE",
      "socat -u OPEN:$NODE,rdonly STDOUT",
      "busybox ash -c 'while read -r line; do echo $line; done' <$NODE",
    ])
    func readerThatPollsFirstEndsWithTheChannel(_ command: String) throws {
      try requireInManual("pv, socat, nc")
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let client = try WaitingClient(command, daemon)
      try eventually("it has read what there is: \(client.said)") { client.said == "one\n" }
      #expect(try daemon.statistic("records_unread") == 0)
      try daemon.write("two\n")
      try eventually("it has waited for more: \(client.said)") { client.said == "one\ntwo\n" }
      try daemon.require("close", "relay")
      #expect(try client.end() == 0)
    }

    @Test(.onceIsEnough) func readerThatPollsFirstEndsBehindCat() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      #expect(try daemon.shell("cat \(daemon.device("relay0")) | pv -q").output == "one\n")
    }

    /// Into a pipe or a socket: nc.
    @Test func netcatEndsWithTheChannel() throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let socket = "\(daemon.scratch.path)/nc"
      let listener = try WaitingClient("nc -l -U \(socket)", daemon)
      try eventually("it listens") { access(socket, F_OK) == 0 }
      let client = try WaitingClient("nc -N -U \(socket) <$NODE", daemon)
      try eventually("it has sent what there is") { listener.said == "one\n" }
      try daemon.write("two\n")
      try eventually("it has waited for more") { listener.said == "one\ntwo\n" }
      try daemon.require("close", "relay")
      #expect(try client.end() == 0)
      #expect(try listener.end() == 0)
    }

    /// CUSE: it looks again each second. relayfs: it takes a file of size 0 for a truncated one.
    @Test func tailFollowsANodeOnly() throws {
      try requireInManual("tail")
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      let tail = try WaitingClient("tail -f $NODE", daemon)
      try eventually("it has read what there is: \(tail.said)") { tail.said.hasPrefix("one\n") }
      guard Backend.underTest == .cuse else {
        #expect(try tail.end() != 0)
        #expect(tail.said.contains("file truncated"), "\(tail.said)")
        return
      }
      try daemon.write("two\n")
      try eventually("it has read what came later") { tail.said == "one\ntwo\n" }
    }

    /// It looks for the last lines, which nobody knows before the end.
    @Test(.onceIsEnough) func tailOfABlockingDevicePrintsAtTheEndOnly() throws {
      try requireInManual("tail")
      let daemon = try Daemon("relay:global,read=block")
      try daemon.write("one\n")
      let tail = try WaitingClient("tail -f $NODE", daemon)
      try eventually("it has read what there is") { try daemon.statistic("records_unread") == 0 }
      try eventually("it waits for more") { tail.waitsForData }
      #expect(tail.said == "")
      try daemon.require("close", "relay")
      try eventually("it prints: \(tail.said)") { tail.said.hasPrefix("one\n") }
    }

    /// On relayfs it does not: ClientTableTests.asynchronousReadEndsAtOnce.
    @Test(.enabled(if: Backend.underTest == .cuse), arguments: ["aio", "uring"])
    func asynchronousReadOfANodeWaits(_ interface: String) throws {
      try requireInManual("io_uring, AIO")
      let program = try Library.get().program("asynchronous", Library.c, "asynchronous.c")
      let daemon = try Daemon("relay:global,read=block")
      let client = try WaitingClient("\(program) \(interface) $NODE", daemon)
      try eventually("it waits: \(client.said)") { client.waitsForData }
      try daemon.write("one\n")
      #expect(try client.end() == 0)
      #expect(client.said == "4\n")
    }

    /// Reads devices that have nothing, looks at a file, and lets its event loop turn a hundred
    /// times; prints what ends. The argument before the devices says how it reads.
    private static let node = """
      const fs = require("fs"), [way, ...devices] = process.argv.slice(1);
      const say = text => fs.writeSync(1, text + "\\n");
      const turn = count => count ? setImmediate(turn, count - 1) : say("turned");
      const look = () => { fs.stat("/", () => say("stat")); turn(100); };
      let ready = 0;
      for (const device of devices)
        if (way == "stream")
          fs.createReadStream(device).on("data", () => say("read")).on("ready", () => {
            if (++ready == devices.length) setImmediate(look);
          });
        else
          fs.read(fs.openSync(device, "r"), Buffer.alloc(16), 0, 16, null, () => say("read"));
      if (way != "stream") look();
      """

    private func startNode(_ prefix: String, _ way: String, _ daemon: Daemon) throws
      -> WaitingClient
    {
      try WaitingClient("\(prefix) node -e '\(Self.node)' \(way) ${NODE%/*}/{a,b,c,d}0", daemon)
    }

    private func fourDevices() throws -> Daemon {
      let block = "global,read=block"
      return try Daemon("a:\(block)", "b:\(block)", "c:\(block)", "d:\(block)")
    }

    /// The pool has 4 threads.
    @Test(.onceIsEnough, arguments: ["read", "stream"])
    func fourBlockingReadsStallFileOperationsOfNode(_ way: String) throws {
      try requireInManual("Node.js")
      let daemon = try fourDevices()
      let node = try startNode("env -u UV_THREADPOOL_SIZE", way, daemon)
      try eventually("its event loop goes on: \(node.said)") { node.said == "turned\n" }
      try daemon.write("one\n", to: "a")
      try eventually("a thread is free again: \(node.said)") {
        node.said == "turned\nread\nstat\n"
      }
    }

    @Test(.onceIsEnough, arguments: ["read", "stream"])
    func nodeWithMoreThreadsThanDevicesGoesOn(_ way: String) throws {
      let daemon = try fourDevices()
      let node = try startNode("env UV_THREADPOOL_SIZE=5", way, daemon)
      try eventually("a file operation ends: \(node.said)") { node.said.contains("stat\n") }
      #expect(!node.said.contains("read"))
    }
  }
}
