// SPDX-License-Identifier: Apache-2.0
// What one user can take of readers, channels, memory and the rest: a share of it, so that another
// user and root find theirs.

import Glibc
import LinuxIO
import Testing

/// A program of Tests/Clients/readers.c that runs as some user.
final class Taking {
  let process: ChildProcess
  private let input: FileDescriptor
  private let output: FileDescriptor

  static func program() throws -> String {
    try Library.get().program("readers", Library.c, "test.c", "readers.c")
  }

  init(_ test: String, _ daemon: Daemon, as uid: Int) throws {
    let pipe = try Pipe()
    output = try outputFile("output")
    process = try ChildProcess(
      Taking.user(uid) + [Taking.program(), test], input: pipe.read.raw, output: output.raw,
      environment: [
        "LD_LIBRARY_PATH": try Library.get().libraries, "RELAY_SOCKET": daemon.socket,
        "DEVICE": daemon.device("relay0"),
      ])
    input = try pipe.write.duplicate()
  }

  /// Users who are in one group beside their own.
  static func user(_ uid: Int) -> [String] {
    ["setpriv", "--reuid=\(uid)", "--regid=\(uid)", "--groups=6001"]
  }

  /// What it says, once that is so many numbers.
  func says(_ count: Int) throws -> [Int] {
    try eventually("it says \(count) numbers: \(said)") { said.count >= count }
    return said
  }

  var said: [Int] { text(of: output.raw).split(separator: "\n").compactMap { Int($0) } }

  func goOn() { Glibc.write(input.raw, "\n", 1) }

  func end() {
    process.signal(SIGKILL)
    _ = process.wait()
  }

  deinit { end() }
}

extension OneAtATime {
  @Suite struct UserShareTests {
    private func daemon(_ limits: String, _ channel: String = "") throws -> Daemon {
      let daemon = try Daemon(
        configuration: """
          create_group = 6001
          \(limits)
          [channel.relay]
          global = true
          permissions = "0666"
          write = true
          \(channel)
          """)
      chmod(daemon.scratch.path, 0o755)
      return daemon
    }

    @Test func readersOfOneUserLeaveRoomForOthers() throws {
      let daemon = try daemon("max_readers = 16")
      let first = try Taking("open_all", daemon, as: 4001)
      #expect(try first.says(2) == [4, Int(EDQUOT)])
      let second = try Taking("open_all", daemon, as: 4002)
      #expect(try second.says(2) == [4, Int(EDQUOT)], "another user has a share, too")
      #expect(try run("cat", daemon.device("relay0")).status == 0, "root")
      #expect(
        daemon.logText.contains(
          "relay0: an open by user 4001 was refused, because the user has 4 files open or buffers "
            + "mapped already and that is the limit of a user (max_readers_per_user)\n"),
        "\(daemon.logText)")
      first.end()
      let again = try Taking("open_all", daemon, as: 4001)
      #expect(try again.says(2) == [4, Int(EDQUOT)], "its files are closed")
    }

    @Test func usersTogetherLeaveReadersToRoot() throws {
      let daemon = try daemon("max_readers = 8\nmax_readers_per_user = 3")
      let users = try (4001...4003).map { try Taking("open_all", daemon, as: $0) }
      for user in users { _ = try user.says(2) }
      #expect(users.reduce(0) { $0 + $1.said[0] } == 7)
      #expect(Set(users.map { $0.said[1] }) == [Int(EDQUOT), Int(EMFILE)])
      #expect(daemon.logText.contains("the rest is kept for root (max_readers is 8)"))
      #expect(try run("cat", daemon.device("relay0")).status == 0)
    }

    @Test(.onceIsEnough) func refusedOpensAreLoggedInBounds() throws {
      let daemon = try daemon("max_readers = 4")
      let storm = try Taking("open_storm", daemon, as: 4001)
      #expect(try storm.says(1) == [Int(EDQUOT)])
      try eventually("the log counts the others: \(daemon.logText)") {
        daemon.logText.contains("about open and mapped devices")
      }
      let lines = daemon.logText.components(separatedBy: "(max_readers_per_user)").count - 1
      #expect((1...20).contains(lines), "\(lines)")
    }

    @Test func mappedConsumersCountAsReaders() throws {
      let daemon = try daemon("max_readers = 8")
      let user = try Taking("map_beside_open_files", daemon, as: 4001)
      #expect(try user.says(1) == [Int(EDQUOT)])
      let other = try Taking("map_again_and_again", daemon, as: 4002)
      #expect(try other.says(1) == [0])
    }

    /// It maps the buffer of the channel "relay", or asks for the next part of it, through one
    /// connection, and says the type of each answer, or why it is refused.
    private static let oneConnection = """
      import os, socket, struct, sys
      s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
      s.connect(os.environ["RELAY_SOCKET"])
      for line in sys.stdin:
          kind, rest = (9, b"\\1") if line == "map\\n" else (10, b"")
          s.send(struct.pack("<BBHIH5sI", 4, kind, 0, 11 + len(rest), 5, b"relay", 0) + rest)
          reply = s.recv(4096)
          print(struct.unpack_from("<I", reply, 8)[0] if reply[1] == 255 else reply[1], flush=True)
      """

    @Test func consumerThatLostItsBufferMapsItAgainWithinItsShare() throws {
      let daemon = try daemon(
        "max_readers = 8\nmax_readers_per_user = 1", "consumer_timeout = \"100ms\"")
      try daemon.write("one\n")
      let input = try Pipe()
      let output = try outputFile("output")
      let consumer = try ChildProcess(
        Taking.user(4001) + ["/usr/bin/python3", "-c", UserShareTests.oneConnection],
        input: input.read.raw, output: output.raw, environment: ["RELAY_SOCKET": daemon.socket])
      defer {
        consumer.signal(SIGKILL)
        _ = consumer.wait()
      }
      var answers = 0
      func ask(_ request: String) throws -> Int? {
        answers += 1
        _ = Glibc.write(input.write.raw, request + "\n", request.utf8.count + 1)
        try eventually("it is answered") {
          text(of: output.raw).split(separator: "\n").count == answers
        }
        return text(of: output.raw).split(separator: "\n").last.flatMap { Int($0) }
      }
      /// The number and what it does to the buffer, of each of the user's readers.
      func readers() throws -> [[Substring]] {
        try daemon.relayctl("readers").output.split(separator: "\n").dropFirst()
          .map { $0.split(separator: " ") }.filter { $0[4] == "4001" }.map { [$0[0], $0[2]] }
      }
      #expect(try ask("map") == 133)
      #expect(try ask("next") == 134)
      try eventually("it is too late") { try readers().map { $0[1] } == ["lost"] }
      let lost = try readers()
      let other = try Taking("open_all", daemon, as: 4002)
      #expect(try other.says(2) == [1, Int(EDQUOT)])
      #expect(try ask("map") == Int(EBUSY))
      #expect(try readers() == lost, "it may still ask for its buffer")
      other.end()
      try eventually("the buffer is free") {
        try !daemon.relayctl("readers").output.contains(" 4002 ")
      }
      #expect(try ask("map") == 133)
      let again = try readers()
      #expect(again.count == 1 && again[0][0] != lost[0][0], "\(lost) \(again)")
      // Its share is used up: that client says nothing unless an open says EDQUOT.
      let second = try Taking("map_beside_open_files", daemon, as: 4001)
      _ = try second.says(1)
    }

    @Test(.onceIsEnough) func readerLimitsMayChange() throws {
      let daemon = try daemon("max_readers = 4\nmax_readers_per_user = 1")
      try daemon.configure(
        "max_readers = 16\nmax_readers_per_user = 2\n[channel.relay]\nglobal = true\n"
          + "permissions = \"0666\"\nwrite = true\n")
      _ = try daemon.relayctl("reload")
      let user = try Taking("open_all", daemon, as: 4001)
      #expect(try user.says(2) == [2, Int(EDQUOT)])
    }

    private func create(_ name: String, _ daemon: Daemon, as uid: Int?, _ options: String...) throws
      -> Finished
    {
      try daemon.relayctl(
        ["create", name, "--global", "--keep"] + options, prefix: uid.map(Taking.user) ?? [])
    }

    @Test(.onceIsEnough) func channelsOfOneUserLeaveRoomForOthers() throws {
      let daemon = try daemon("max_channels = 9\nmax_channels_per_user = 2")
      for name in ["a", "b"] { #expect(try create(name, daemon, as: 4001).status == 0) }
      let refused = try create("c", daemon, as: 4001)
      #expect(
        refused.error == "relayctl: channel c: max_channels_per_user is 2, and user 4001 has as "
          + "many; close one first\n")
      for name in ["d", "e"] { #expect(try create(name, daemon, as: 4002).status == 0) }
      #expect(try daemon.relayctl(["close", "a"], prefix: Taking.user(4001)).status == 0)
      #expect(try create("c", daemon, as: 4001).status == 0)
    }

    @Test(.onceIsEnough) func usersTogetherLeaveChannelsToRoot() throws {
      let daemon = try daemon("max_channels = 4\nmax_channels_per_user = 2")
      for (name, uid) in [("a", 4001), ("b", 4001), ("c", 4002)] {
        _ = try create(name, daemon, as: uid)
      }
      try daemon.require("close", "relay")
      let refused = try create("d", daemon, as: 4002)
      #expect(
        refused.error == "relayctl: channel d: max_channels is 4, of which users other than root "
          + "may have 3, and they have as many\n")
      #expect(try create("d", daemon, as: nil).status == 0)
    }

    @Test(.onceIsEnough) func memoryOfOneUserLeavesRoomForOthers() throws {
      let daemon = try daemon("max_memory = \"64MiB\"\nmax_memory_per_user = \"8MiB\"")
      #expect(try create("a", daemon, as: 4001).status == 0)
      let refused = try create("b", daemon, as: 4001, "--n-subbufs", "64")
      let reason = /bytes, the other channels of user 4001 \d+, and max_memory_per_user is 8388608/
      #expect(refused.error.contains(reason), "\(refused.error)")
      #expect(try create("b", daemon, as: 4002).status == 0)
      #expect(try create("c", daemon, as: nil, "--n-subbufs", "64").status == 0)
    }

    @Test(.onceIsEnough) func usersTogetherLeaveProducersToRoot() throws {
      let daemon = try daemon("max_producers = 2", "writers = 6001")
      let pipe = try Pipe()
      let writer = try ChildProcess(
        Taking.user(4001) + [program("relayctl"), "write", "relay"], input: pipe.read.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      try eventually("it is attached") {
        try daemon.relayctl("producers").output.contains("\(writer.pid)")
      }
      let refused = try daemon.relayctl(["write", "relay"], prefix: Taking.user(4002))
      #expect(
        refused.error == "relayctl: max_producers is 2, of which users other than root may have 1, "
          + "and as many of their processes write already\n")
      #expect(try daemon.relayctl("write", "relay").status == 0)
      writer.signal(SIGKILL)
      _ = writer.wait()
    }

    /// 1,024 of one user, of 4,096 that may.
    @Test(.onceIsEnough) func readsOfOneUserThatWaitLeaveRoomForOthers() throws {
      let daemon = try daemon("")
      let user = try Taking("wait_to_read", daemon, as: 4001)
      let refused = [Int](repeating: Int(ENOMEM), count: 6)
      #expect(try user.says(refused.count) == refused)
      let other = try Taking("read_one", daemon, as: 4002)
      _ = try other.says(1)
      try daemon.write(String(repeating: "x", count: 1025))
      #expect(try other.says(2) == [0, 1])
      _ = user.process.wait()
      #expect(user.said == refused)
    }

    /// 16 MiB may wait, and 4 of one user: 40 records of 100 KiB.
    @Test(.onceIsEnough) func writesOfOneUserThatWaitLeaveRoomForOthers() throws {
      let daemon = try daemon("", "subbuf_size = \"128KiB\"\nn_subbufs = 2")
      let user = try Taking("wait_to_write", daemon, as: 4001)
      // Two of 60 were written: each has a sub-buffer.
      let refused = [Int](repeating: Int(ENOMEM), count: 60 - 2 - 40)
      #expect(try user.says(refused.count) == refused)
      let other = try Taking("write_one", daemon, as: 4002)
      #expect(try other.says(1) == [0])
      try eventually("what the other one wrote comes") {
        _ = try run("cat", daemon.device("relay0"))
        return other.said.count == 2
      }
      #expect(other.said == [0, 100 << 10])
      _ = user.process.wait()
      #expect(user.said == refused)
    }
  }
}
