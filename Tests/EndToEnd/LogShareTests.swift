// SPDX-License-Identifier: Apache-2.0
// What one user causes leaves out no line of another user's.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct LogShareTests {
    /// Creates, writes to and closes channels until its input ends, or so many.
    private static let script = """
      import ctypes, os, select, socket, struct, sys
      relay = ctypes.CDLL("librelay.so.0")
      relay.relay_attach.restype = ctypes.c_void_p
      relay.relay_write.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
      relay.relay_detach.argtypes = [ctypes.c_void_p]
      control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
      control.connect(os.environ["RELAY_SOCKET"])
      def text(text): return struct.pack("<H", len(text)) + text
      def ask(type, body):
          control.send(struct.pack("<BBHI", 4, type, 0, len(body)) + body)
          return control.recv(4096)
      prefix, count = sys.argv[1].encode(), int(sys.argv[2])
      while count and not select.select([0], [], [], 0)[0]:
          name = prefix + b"-%dx" % count
          ask(6, text(name) + text(b"global,subbuf_size=4096,n_subbufs=2") + b"\\x01")
          channel = relay.relay_attach(None, name)
          if not channel or relay.relay_write(channel, b"one", 3): sys.exit("no record")
          relay.relay_detach(channel)
          ask(7, text(name))
          count -= 1
      """

    private final class Closer {
      let process: ChildProcess
      private let input: Pipe
      private let error: FileDescriptor
      var said: String { text(of: error.raw) }

      init(_ daemon: Daemon, as uid: Int, _ prefix: String, _ count: Int) throws {
        input = try Pipe()
        error = try outputFile("error")
        process = try ChildProcess(
          Taking.user(uid) + ["/usr/bin/python3", "-c", LogShareTests.script, prefix, "\(count)"],
          input: input.read.raw, error: error.raw,
          environment: [
            "LD_LIBRARY_PATH": try Library.get().libraries, "RELAY_SOCKET": daemon.socket,
          ])
      }

      deinit { process.signal(SIGKILL) }
    }

    @Test func unreadRecordsOfOneUserAreNamedThroughAnothersFlood() throws {
      let daemon = try Daemon(configuration: "create_group = 6001\n")
      chmod(daemon.scratch.path, 0o755)
      let flood = try Closer(daemon, as: 4001, "flood", -1)
      try eventually("lines are left out: \(flood.said)", within: 60) {
        daemon.logText.contains("left out in the last second, about channels that are gone")
      }
      let other = try Closer(daemon, as: 4002, "other", 20)
      #expect(other.process.wait() == 0, "\(other.said)")
      for i in 1...20 {
        let line = "nobody read 1 record of \(daemon.device("other-\(i)x0")), now lost"
        try eventually("\(line)") { daemon.logText.contains(line) }
      }
      withExtendedLifetime(flood) {}
    }

    @Test func refusalsOfOneUserAreNamedThroughAnothersFlood() throws {
      let daemon = try Daemon("relay:global")
      chmod(daemon.scratch.path, 0o755)
      func refuse(_ uid: Int, _ count: Int) throws {
        let finished = try daemon.shell(
          "for i in $(seq \(count)); do setpriv --reuid=\(uid) --regid=\(uid) --clear-groups "
            + "$BIN/relayctl close relay; done; true")
        #expect(finished.status == 0)
      }
      try refuse(4001, 12)
      try refuse(4002, 2)
      func count(_ uid: Int) -> Int {
        daemon.logText.components(separatedBy: "(relayctl) of user \(uid): close").count - 1
      }
      #expect(count(4001) == 10 && count(4002) == 2, "\(daemon.logText)")
    }
  }
}
