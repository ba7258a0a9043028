// SPDX-License-Identifier: Apache-2.0
// Requests that take relayd long: others are served meanwhile, and whatever becomes of the client,
// the channel or relayd, each request ends in order.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct PendingRequestTests {
    /// 512 MiB of memory, which take a quarter of a second or more.
    private static let options = [
      "--global", "--keep", "--prefault", "--subbuf-size", "32MiB", "--n-subbufs", "16",
    ]
    private static let residentBytes = 512 << 20

    private final class Command {
      let process: ChildProcess
      private let error: FileDescriptor
      private(set) var status: Int?

      init(_ daemon: Daemon, _ arguments: [String]) throws {
        error = try outputFile("error")
        process = try ChildProcess(
          [program("relayctl")] + arguments, error: error.raw,
          environment: ["RELAY_SOCKET": daemon.socket])
      }

      var said: String { text(of: error.raw) }

      var isRunning: Bool {
        var info = siginfo_t()
        return status == nil
          && waitid(P_PID, id_t(process.pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0
          && info.si_signo == 0
      }

      @discardableResult
      func wait() -> Int {
        if status == nil { status = process.wait() }
        return status!
      }

      deinit { wait() }
    }

    /// Does something while the channel "big" is being created. False: it was there too soon.
    private func whileBigIsCreated(
      _ daemon: Daemon, _ body: (Command) throws -> Void
    ) throws -> Bool {
      let command = try Command(daemon, ["create", "big"] + Self.options)
      var isPending = false
      try eventually("it is being created: \(command.said)") {
        // Where the name is free, it is refused for its size.
        let other = try daemon.relayctl([
          "create", "big", "--subbuf-size", "32MiB", "--n-subbufs", "65536",
        ])
        #expect(other.status != 0)
        isPending = other.error.contains("channel big: is being created by another request; choose")
        return isPending || other.error.contains("exists already") || !command.isRunning
      }
      guard isPending else { return false }
      try body(command)
      return true
    }

    /// Has `body` meet a creation that goes on until it returns.
    private func untilBigIsSlowEnough(
      _ daemon: Daemon, _ body: (Command) throws -> Bool
    ) throws {
      try eventually("it takes longer than what is done meanwhile", within: 120) {
        var isDone = false
        _ = try whileBigIsCreated(daemon) { command in
          isDone = try body(command)
          if isDone { return }
          command.wait()
        }
        if !isDone { try daemon.relayctl("close", "big") }
        return isDone
      }
    }

    @Test func othersAreServedWhileAChannelTakesItsMemory() throws {
      let daemon = try Daemon("relay:global")
      try untilBigIsSlowEnough(daemon) { command in
        let channels = try daemon.channels()
        let closed = try daemon.relayctl("close", "big").error
        let created = try daemon.relayctl("create", "small", "--global", "--keep").status
        let isPending = command.isRunning
        _ = try daemon.relayctl("close", "small")
        guard isPending else { return false }
        #expect(channels == ["relay"])
        #expect(closed == "relayctl: no channel big; there are: relay\n")
        #expect(created == 0)
        #expect(command.wait() == 0, "\(command.said)")
        return true
      }
      #expect(try daemon.channels() == ["relay", "big"])
      #expect(try MemoryGroupTests.resident("big", of: daemon.process.pid) > Self.residentBytes)
      #expect(daemon.logText.contains("created, to stay: channel big"), "\(daemon.logText)")
      try daemon.write("one\n", to: "big")
      #expect(try run("cat", daemon.device("big0")).output == "one\n")
      try daemon.require("close", "big")
      try eventually("its memory is given back") {
        try daemon.proc("status", "RssShmem") < 100 << 10
      }
    }

    @Test func channelOfAClientThatGoesAwayIsMadeAllTheSame() throws {
      let daemon = try Daemon("relay:global")
      try untilBigIsSlowEnough(daemon) { command in
        command.process.signal(SIGKILL)
        return command.wait() == 128 + Int(SIGKILL)
      }
      try eventually("it is there") { try daemon.channels() == ["relay", "big"] }
    }

    @Test(arguments: [SIGKILL, SIGTERM])
    func relaydThatEndsLeavesNothingOfAChannelThatIsBeingCreated(_ signal: CInt) throws {
      let held = try HeldDaemon("relay:global")
      let daemon = held.daemon
      try untilBigIsSlowEnough(daemon) { command in
        try held.restart(signal)
        // 69: relayd closed the connection; 0: it had been quicker.
        return command.wait() == 69
      }
      #expect(try daemon.channels() == ["relay"])
      try daemon.require("create", "big", "--global")
      #expect(daemon.end() == 0)
    }

    /// Its fresh memory takes long: it is made once for all who ask for it.
    @Test func othersAreServedWhileADamagedChannelGetsItsMemory() throws {
      let daemon = try Daemon("relay:global")
      #expect(try daemon.relayctl(["create", "big"] + Self.options).status == 0)
      try daemon.write("one\n", to: "big")
      let said = "channel big: reset with fresh memory"
      var count = 0
      try eventually("it takes longer than what is done meanwhile", within: 120) {
        try DamageTests().damage("big", daemon, "\\xff\\xff\\x10\\x00\\x00\\x00\\x00\\x00")
        let commands = try (0..<3).map { _ in try Command(daemon, ["reset", "big"]) }
        let channels = try daemon.channels()
        let isPending = daemon.logText.components(separatedBy: said).count == count + 1
        for command in commands { #expect(command.wait() == 0, "\(command.said)") }
        count = daemon.logText.components(separatedBy: said).count - 1
        #expect(channels == ["relay", "big"])
        return isPending
      }
      #expect(try MemoryGroupTests.resident("big", of: daemon.process.pid) > Self.residentBytes)
      try daemon.write("two\n", to: "big")
      #expect(try run("cat", daemon.device("big0")).output == "two\n")
      #expect(try daemon.relayctl("list").output.contains("damaged") == false)
      try eventually("the other memory is given back") {
        try daemon.proc("status", "RssShmem") < (Self.residentBytes + Self.residentBytes / 2) / 1024
      }
    }
  }
}
