// SPDX-License-Identifier: Apache-2.0
// Who has a buffer: shown to whom it concerns, ended by them, and behind all others afterwards. Two
// users, neither of them root.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct EvictionTests {
    let daemon: Daemon

    init() throws {
      daemon = try Daemon(
        "relay:global,permissions=0666,write,owner=4009,subbuf_size=64KiB,consumer_timeout=100ms")
      chmod(daemon.scratch.path, 0o755)
    }

    /// Words of each line of the list, without its head.
    private func list(as uid: Int? = nil) throws -> [[Substring]] {
      let finished = try daemon.relayctl(["readers"], prefix: uid.map(Taking.user) ?? [])
      guard finished.status == 0 else { throw Failure(finished.error) }
      return finished.output.split(separator: "\n").dropFirst().map { $0.split(separator: " ") }
    }

    /// The number of the one reader of that user.
    private func number(of uid: Int) throws -> String {
      let line = try list().first { $0[4] == "\(uid)" }
      guard let line else { throw Failure("user \(uid) has no reader") }
      return String(line[0])
    }

    private func evict(_ number: String, as uid: Int? = nil) throws -> Finished {
      try daemon.relayctl(["readers", "--evict", number], prefix: uid.map(Taking.user) ?? [])
    }

    private func read(as uid: Int) throws -> Finished {
      try run(Taking.user(uid) + ["cat", daemon.device("relay0")])
    }

    @Test func readersAreListedToRootTheOwnerAndThemselves() throws {
      let file = try Taking("open_all", daemon, as: 4001)
      _ = try file.says(2)
      let seen = try list()
      #expect(seen.count == file.said[0])
      #expect(Set(seen.map { $0[2] }) == ["file"])
      file.end()
      var takers: [Taking] = []
      for (test, uid) in [("peek", 4001), ("write_only", 4002), ("exclusive", 4001)] {
        takers.append(try Taking(test, daemon, as: uid))
        _ = try takers.last!.says(1)
      }
      let expected = zip(takers, ["peek", "write", "exclusive"]).map { taker, kind in
        [daemon.device("relay0"), kind, "\(taker.process.pid)"]
      }
      for viewer in [nil, 4009] {
        let lines = try list(as: viewer)
        #expect(lines.map { $0[1...3].map(String.init) } == expected, "\(lines)")
        #expect(lines.map { $0[4] } == ["4001", "4002", "4001"])
        #expect(Set(lines.map { $0[5] }) == ["readers"])
        #expect(Set(lines.map { $0.count }) == [8])
      }
      #expect(try list(as: 4002).map { $0[2] } == ["write"])
      #expect(try list(as: 4003).isEmpty)
      for taker in takers { taker.end() }
      try eventually("they are gone") { try list().isEmpty }
      let mapped = try Taking("map_again_and_again", daemon, as: 4002)
      _ = try mapped.says(1)
      let line = try #require(try list(as: 4002).first)
      #expect(line[2] == "mapped" && line[3] == "\(mapped.process.pid)" && line[5] == "readers")
    }

    @Test func readersOutsideItsPIDNamespaceHaveNoNumber() throws {
      let daemon = try Daemon(
        "outside:global", prefix: ["unshare", "--pid", "--fork", "--kill-child"])
      defer { daemon.end(SIGKILL) }
      let file = try FileDescriptor.open(daemon.device("outside0"), O_RDONLY)
      let lines = try daemon.relayctl("readers").output.split(separator: "\n").dropFirst()
      let words = lines.map { $0.split(separator: " ") }
      #expect(file.raw >= 0)
      #expect(
        words.map { $0[1...5].joined(separator: " ") } == [
          "\(daemon.device("outside0")) file - root -"
        ])
    }

    @Test func evictedFileIsOverAndOthersRead() throws {
      try daemon.write("one\n")
      _ = try read(as: 4002)
      let reader = try Taking("exclusive", daemon, as: 4001)
      _ = try reader.says(1)
      #expect(try read(as: 4002).error.contains("Device or resource busy"))
      #expect(try evict(number(of: 4001)).status == 0)
      // Poll, the read that waited, one after it, an ioctl; and its user may not come back yet.
      let stale = Int(ESTALE)
      #expect(
        try reader.says(6) == [
          0, Int(POLLERR | POLLHUP), stale, stale, stale, Int(EBUSY),
        ])
      try daemon.write("two\n")
      #expect(try read(as: 4002).output == "two\n")
      #expect(try list().map { $0[2] } == ["evicted"])
      let line =
        "relay0: user 0 evicted reader \(try number(of: 4001)): exclusive, process "
        + "\(reader.process.pid) (readers) of user 4001\n"
      #expect(daemon.logText.contains(line), "\(daemon.logText)")
      reader.end()
      try eventually("it is gone") { try list().isEmpty }
    }

    @Test func onlyWhomAReaderConcernsEndsIt() throws {
      let reader = try Taking("exclusive", daemon, as: 4001)
      _ = try reader.says(1)
      let number = try number(of: 4001)
      let refused = try evict(number, as: 4002)
      #expect(refused.status == 77)
      #expect(
        refused.error == "relayctl: user 4002 may not evict reader \(number) of relay0; those who "
          + "may: root, relayd's own user, owner 4009 of that device, and the reader's user\n")
      #expect(try evict("\(Int(number)! + 1)").error.contains("there is no reader "))
      #expect(try evict(number, as: 4009).status == 0, "the device's owner")
      #expect(try read(as: 4002).status == 0)
    }

    /// Whichever relayd gave it.
    @Test(arguments: [SIGKILL, SIGTERM], [false, true])
    func numberFromBeforeARestartNamesNobody(_ signal: CInt, _ isHeld: Bool) throws {
      self.daemon.end()
      let channel = "relay:global,permissions=0666,write"
      let first = try Daemon(channel, options: isHeld ? ["--hold"] : [])
      chmod(first.scratch.path, 0o755)
      func readers(_ daemon: Daemon) throws -> [[Substring]] {
        try daemon.relayctl("readers").output.split(separator: "\n").dropFirst()
          .map { $0.split(separator: " ") }
      }
      let earlier = try Taking("write_only", first, as: 4001)
      _ = try earlier.says(1)
      let number = try String(#require(readers(first).first?.first))
      var daemon = first
      if isHeld {
        try HeldDaemon(first).restart(signal)
      } else {
        first.end(signal)
        daemon = try Daemon(channel, in: first.scratch)
      }
      let later = try Taking("write_only", daemon, as: 4002)
      _ = try later.says(1)
      let seen = try readers(daemon)
      #expect(seen.map { $0[2...4].joined(separator: " ") } == ["write \(later.process.pid) 4002"])
      let refused = try daemon.relayctl("readers", "--evict", number)
      #expect(refused.status == 1)
      #expect(
        refused.error == "relayctl: there is no reader \(number): the numbers of this relayd are "
          + "higher, and one that a relayd before it gave names nobody any more; "
          + "`relayctl readers` lists those there are\n")
      #expect(try readers(daemon) == seen, "nobody was evicted")
      // It unmounts what is mounted at its end.
      withExtendedLifetime(first) {}
    }

    /// One that opens anew at once, again and again.
    @Test func evictedUserComesBehindOthers() throws {
      let reader = try Taking("exclusive_again_and_again", daemon, as: 4001)
      _ = try reader.says(1)
      #expect(try evict(number(of: 4001)).status == 0)
      for _ in 0..<3 { #expect(try read(as: 4002).status == 0) }
    }

    @Test func evictedConsumerIsToldAndItsDataComesAgain() throws {
      // Another one, so that only the eviction ends it.
      self.daemon.end()
      let daemon = try Daemon("relay:global,permissions=0444,consumer_timeout=never")
      chmod(daemon.scratch.path, 0o755)
      try daemon.write("one\n")
      let consumer = try Taking("mapped", daemon, as: 4001)
      #expect(try consumer.says(1) == [4])
      let list = try daemon.relayctl("readers").output
      let number = try #require(list.split(separator: "\n").last?.split(separator: " ").first)
      try daemon.require("readers", "--evict", String(number))
      let other = Taking.user(4002) + ["cat", daemon.device("relay0")]
      #expect(try run(other).output == "one\n", "it was not consumed")
      try daemon.write("three\n")
      consumer.goOn()
      #expect(try consumer.says(3) == [4, Int(ESTALE), Int(EBUSY)])
      // Once its wait is over, nobody else is there: it goes on.
      #expect(try consumer.says(5) == [4, Int(ESTALE), Int(EBUSY), 0, 6])
    }

    /// It loses the buffer to consumer_timeout, and maps it again at once.
    @Test func lateConsumerComesBehindWhoWasRefused() throws {
      try daemon.write("one\n")
      let consumer = try Taking("map_again_and_again", daemon, as: 4001)
      _ = try consumer.says(1)
      try eventually("another user reads") { try read(as: 4002).status == 0 }
      for _ in 0..<3 { #expect(try read(as: 4002).status == 0, "it stays behind") }
    }

    /// Nobody was refused, so that it may go on.
    @Test func lateConsumerThatNobodyWaitedForGoesOn() throws {
      try daemon.write("one\n")
      let consumer = try Taking("map_again_and_again", daemon, as: 4001)
      _ = try consumer.says(1)
      // It may be just between two mappings.
      var first: Substring = ""
      try eventually("it has the buffer") {
        first = try list().first { $0[4] == "4001" }?[0] ?? ""
        return !first.isEmpty
      }
      try eventually("it has the buffer again") {
        try list().contains { $0[0] != first && $0[2] == "mapped" }
      }
    }
  }
}
