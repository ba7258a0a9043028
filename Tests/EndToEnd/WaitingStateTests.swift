// SPDX-License-Identifier: Apache-2.0
// Every way to wait × everything that can happen meanwhile: what the reader gets. Nothing hangs.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct WaitingStateTests {
    enum State: String, CaseIterable {
      case read, poll, epoll
      case edge = "epoll-edge"
      case open
      /// For StoppedDaemonTests: needs a relayd that does not answer.
      case opening

      static var allCases: [State] { [.read, .poll, .epoll, .edge, .open] }

      /// What its call says before it looks what is to be had.
      func says(_ events: String) -> [String] {
        switch self {
        case .read, .opening: []
        case .poll, .open: ["poll \(events)"]
        case .epoll, .edge: ["epoll \(events)"]
        }
      }
    }

    /// A reader of /dev/wait0, which blocks, in one of the states.
    final class Waiter {
      let process: ChildProcess
      private let state: State
      private let input: FileDescriptor
      private let out: FileDescriptor
      private var isReaped = false

      init(_ state: State, _ daemon: Daemon, handles: Bool = false) throws {
        self.state = state
        let pipe = try Pipe()
        out = try outputFile("out")
        process = try ChildProcess(
          [program("relay-load"), "reader", "--state", state.rawValue]
            + (handles ? ["--handler"] : []) + [daemon.device("wait0")],
          input: pipe.read.raw, output: out.raw)
        input = try pipe.write.duplicate()
        try eventually("it waits") { said == ["ready"] && isAsleep }
      }

      var isAsleep: Bool { statCode == "S" || statCode == "D" }

      /// S sleeps, D does, but for what kills, T is stopped, Z is over.
      var statCode: String {
        let text = (try? run("cat", "/proc/\(process.pid)/stat").output) ?? ""
        return text.split(separator: " ").dropFirst(2).first.map(String.init) ?? "gone"
      }

      var said: [String] { text(of: out.raw).split(separator: "\n").map(String.init) }

      /// Lets one that is in no call look now, and returns what it got in all, bounded in time.
      func result() throws -> [String] {
        if state == .open { _ = write(input.raw, "\n", 1) }
        try awaitEnd()
        return Array(said.dropFirst())
      }

      /// How it ended, bounded in time.
      @discardableResult
      func awaitEnd() throws -> Int {
        try eventually("it is over: \(said)", within: 20) { statCode == "Z" }
        isReaped = true
        return process.wait()
      }

      // Once it is reaped its number may be another process's.
      deinit { if !isReaped { process.signal(SIGKILL) } }
    }

    private func start() throws -> Daemon { try Daemon("wait:global,read=block") }

    private func expectServed(_ daemon: Daemon) throws {
      try daemon.write("next\n", to: "wait")
      let next = try run("timeout", "20", "head", "-c", "5", daemon.device("wait0"))
      #expect(next.output == "next\n")
    }

    @Test func data() throws {
      let daemon = try start()
      for state in State.allCases {
        let waiter = try Waiter(state, daemon)
        try daemon.write("one\n", to: "wait")
        #expect(try waiter.result() == state.says("IN") + ["read 4"], "\(state)")
      }
    }

    @Test func blockedReadersAreServedInTurn() throws {
      let daemon = try start()
      let waiters = try (0..<3).map { _ in try Waiter(.read, daemon) }
      for (index, line) in ["a\n", "bb\n", "ccc\n"].enumerated() {
        try daemon.write(line, to: "wait")
        #expect(try waiters[index].result() == ["read \(line.utf8.count)"])
        #expect(waiters[(index + 1)...].allSatisfy { $0.said == ["ready"] })
      }
    }

    /// A read that does not wait may not overtake one that does.
    @Test func nobodyOvertakesABlockedReader() throws {
      for wakeup in ["data", "subbuffer"] {
        let daemon = try Daemon("wait:global,read=block,wakeup=\(wakeup)")
        let waiter = try Waiter(.read, daemon)
        let hasty = try FileDescriptor.open(daemon.device("wait0"), O_RDONLY | O_NONBLOCK)
        func readOnce() -> Int {
          var byte: UInt8 = 0
          return read(hasty.raw, &byte, 1)
        }
        #expect(readOnce() == -1 && errno == EAGAIN)
        // The signal of this write is a race that the newcomer may win.
        try daemon.write("one\n", to: "wait")
        #expect(readOnce() == -1 && errno == EAGAIN, "\(wakeup)")
        #expect(try waiter.result() == ["read 4"], "\(wakeup)")
      }
    }

    @Test func close() throws {
      let daemon = try start()
      for state in State.allCases {
        let waiter = try Waiter(state, daemon)
        try daemon.require("close", "wait")
        #expect(try waiter.result() == state.says("HUP") + ["read 0"], "\(state)")
        // The name is free once the reader is gone.
        try eventually("it is open again") {
          try daemon.relayctl("create", "wait", "--global", "--read", "block", "--keep").status == 0
        }
      }
    }

    @Test func resetForgetsAndTheWaitGoesOn() throws {
      let daemon = try start()
      for state in State.allCases where state != .open {
        let waiter = try Waiter(state, daemon)
        try daemon.require("reset", "wait")
        #expect(waiter.isAsleep, "\(state)")
        try daemon.write("after\n", to: "wait")
        #expect(try waiter.result() == state.says("IN") + ["read 6"], "\(state)")
      }
      let waiter = try Waiter(.open, daemon)
      try daemon.write("forgotten\n", to: "wait")
      try daemon.require("reset", "wait")
      #expect(try waiter.result() == ["poll nothing", "read EAGAIN"])
    }

    @Test func killedReadersAreForgotten() throws {
      let daemon = try start()
      for state in State.allCases {
        for signal in [SIGKILL, SIGTERM] {
          let waiter = try Waiter(state, daemon)
          waiter.process.signal(signal)
          #expect(try waiter.awaitEnd() == 128 + Int(signal), "\(state)")
          try expectServed(daemon)
        }
      }
    }

    @Test func aHandledSignalInterrupts() throws {
      let daemon = try start()
      for state in State.allCases where state != .open {
        let waiter = try Waiter(state, daemon, handles: true)
        waiter.process.signal(SIGTERM)
        let call = state == .edge ? "epoll" : state.rawValue
        try eventually("\(state) is interrupted and waits again") {
          waiter.said == ["ready", "\(call) EINTR"] && waiter.isAsleep
        }
        try daemon.write("one\n", to: "wait")
        #expect(
          try waiter.result() == ["\(call) EINTR"] + state.says("IN") + ["read 4"], "\(state)")
      }
    }

    /// A stop is a signal that no handler sees: a FUSE read and epoll_wait say EINTR all the same,
    /// poll waits on.
    @Test func stoppedAndContinued() throws {
      let daemon = try start()
      for state in State.allCases {
        let waiter = try Waiter(state, daemon)
        waiter.process.signal(SIGSTOP)
        try eventually("it is stopped") { waiter.statCode == "T" }
        try expectServed(daemon)
        waiter.process.signal(SIGCONT)
        try eventually("it waits again") { waiter.isAsleep }
        try daemon.write("one\n", to: "wait")
        let interrupted: [String] =
          switch state {
          case .read: ["read EINTR"]
          case .epoll, .edge: ["epoll EINTR"]
          case .poll, .open, .opening: []
          }
        #expect(try waiter.result() == interrupted + state.says("IN") + ["read 4"], "\(state)")
      }
    }

    @Test func catAndDdSurviveAStop() throws {
      let daemon = try start()
      for command in [["cat"], ["dd", "bs=64", "status=none"]] {
        let out = try outputFile("out")
        let device = try FileDescriptor.open(daemon.device("wait0"), O_RDONLY)
        let reader = try ChildProcess(command, input: device.raw, output: out.raw)
        defer {
          reader.signal(SIGKILL)
          _ = reader.wait()
        }
        func state(_ code: String) throws -> Bool {
          try run("cat", "/proc/\(reader.pid)/stat").output.contains(") \(code) ")
        }
        try daemon.write("one\n", to: "wait")
        try eventually("it reads") { text(of: out.raw) == "one\n" }
        try eventually("it waits") { try state("S") }
        reader.signal(SIGSTOP)
        try eventually("it is stopped") { try state("T") }
        reader.signal(SIGCONT)
        try daemon.write("two\n", to: "wait")
        try eventually("it reads on") { text(of: out.raw) == "one\ntwo\n" }
      }
    }

    @Test func theDaemonIsTerminated() throws {
      for state in State.allCases {
        let daemon = try start()
        let waiter = try Waiter(state, daemon)
        #expect(daemon.end(SIGTERM) == 0)
        #expect(access(daemon.socket, F_OK) == -1, "the socket is gone")
        #expect(access(daemon.device("wait0"), F_OK) == -1, "the device is gone")
        let result = try waiter.result()
        if state == .open {
          // It held its file open longer than the daemon waits.
          #expect(result == ["poll ERR", "read ENOTCONN"])
        } else {
          #expect(result == state.says("HUP") + ["read 0"], "\(state)")
        }
      }
    }

    @Test func theDaemonIsKilled() throws {
      for state in State.allCases {
        let daemon = try start()
        let waiter = try Waiter(state, daemon)
        daemon.end(SIGKILL)
        #expect(try waiter.result() == lost(state), "\(state)")
      }
    }

    @Test func theConnectionIsAborted() throws {
      for state in State.allCases {
        let daemon = try start()
        let waiter = try Waiter(state, daemon)
        try daemon.abort("wait0")
        #expect(try waiter.result() == lost(state), "\(state)")
        try eventually("it is said") { daemon.logText.contains("somebody") }
        #expect(try daemon.relayctl("list").status == 0, "the daemon lives on")
      }
    }

    /// What a reader gets whose server is gone.
    private func lost(_ state: State) -> [String] {
      state == .read ? ["read ECONNABORTED"] : state.says("ERR") + ["read ENOTCONN"]
    }
  }
}
