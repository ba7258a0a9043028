// SPDX-License-Identifier: Apache-2.0
// The release before this one and this one, with each other: its librelay, relayd and relayctl are
// built from the repository's history (.ci/previous).

import Glibc
import LinuxIO
import Testing

/// Whose program it is.
private enum Release: String, CaseIterable {
  case previous, current

  static let previousDirectory = environment("RELAY_PREVIOUS")

  /// relayd or relayctl.
  func program(_ name: String) -> String {
    self == .current
      ? EndToEnd.program(name) : "\(Release.previousDirectory ?? "RELAY_PREVIOUS")/\(name)"
  }

  /// Where its librelay.so.0 is.
  func libraries() throws -> String {
    guard self == .previous else { return try Library.get().libraries }
    return Release.previousDirectory ?? "RELAY_PREVIOUS"
  }

  /// Runs this release's relayd instead of the one that the rig names first.
  var prefix: [String] {
    ["bash", "-c", "exec -a relayd \"$0\" \"${@:2}\"", program("relayd")]
  }
}

/// A producer that writes a record when it is asked to, and a reader that waits for it.
private final class Echo {
  private let producer: ChildProcess
  private let reader: ChildProcess
  private let input: Pipe
  private let output: Pipe
  private let error: FileDescriptor

  init(_ daemon: Daemon, _ library: Release, reader command: [String]) throws {
    input = try Pipe()
    output = try Pipe()
    error = try outputFile("error")
    let program = try Library.get().program("echo", Library.c, "echo.c")
    producer = try ChildProcess(
      [program, "relay"], input: input.read.raw, error: error.raw,
      environment: ["RELAY_SOCKET": daemon.socket, "LD_LIBRARY_PATH": try library.libraries()])
    reader = try ChildProcess(
      command, output: output.write.raw, error: error.raw,
      environment: ["RELAY_SOCKET": daemon.socket])
  }

  /// Has a record written while the reader sleeps; the milliseconds until the reader had it.
  func milliseconds(_ byte: UInt8) throws -> Int {
    try eventually("the reader waits: \(text(of: error.raw))") {
      let stat = try FileDescriptor.open("/proc/\(reader.pid)/stat", O_RDONLY)
      return text(of: stat.raw).contains(") S ")
    }
    var start = timespec()
    clock_gettime(CLOCK_MONOTONIC, &start)
    guard withUnsafeBytes(of: byte, { write(input.write.raw, $0.baseAddress, 1) }) == 1 else {
      throw Failure("the producer is gone")
    }
    var poller = pollfd(fd: output.read.raw, events: Int16(POLLIN), revents: 0)
    guard poll(&poller, 1, 30_000) == 1 else {
      throw Failure("a record did not arrive: \(text(of: error.raw))")
    }
    var end = timespec()
    clock_gettime(CLOCK_MONOTONIC, &end)
    var received: UInt8 = 0
    guard read(output.read.raw, &received, 1) == 1, received == byte else {
      throw Failure("\(received) arrived, not \(byte): \(text(of: error.raw))")
    }
    return (end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1_000_000
  }

  deinit {
    for process in [producer, reader] {
      process.signal(SIGKILL)
      _ = process.wait()
    }
  }
}

extension OneAtATime {
  @Suite(
    .onceIsEnough,
    .enabled(if: Release.previousDirectory != nil, "RELAY_PREVIOUS is not set; make test sets it"))
  struct UpgradeTests {
    /// A directory in which `relayd` is one release's; a holder that finds it there starts that.
    private func install(_ release: Release, in directory: Scratch) throws {
      let new = "\(directory.path)/relayd.new"
      #expect(symlink(release.program("relayd"), new) == 0)
      #expect(rename(new, "\(directory.path)/relayd") == 0)
    }

    private func executable(of pid: Int32) throws -> String {
      String(try run("readlink", "/proc/\(pid)/exe").output.dropLast())
    }

    private func realPath(_ path: String) throws -> String {
      String(try run("realpath", path).output.dropLast())
    }

    /// Four producers with each library, and a follower, from before the first relayd until after
    /// the last: previous, current, previous … Each adopts the memory of the one before it.
    @Test(arguments: [Release.previous, .current])
    private func recordsSurviveUpgradesAndDowngrades(_ holderAndReader: Release) throws {
      let scratch = try Scratch()
      try install(.previous, in: scratch)
      let held = HeldDaemon(
        try Daemon(
          "relay:global,subbuf_size=1MiB,n_subbufs=64", options: ["--hold"], in: scratch,
          prefix: holderAndReader.prefix,
          environment: ["PATH": "\(scratch.path):\(environment("PATH") ?? "/usr/bin:/bin")"]))
      let daemon = held.daemon
      let persist = try Library.get().program("persist", Library.c, "persist.c")
      let directories = try Release.allCases.map { try $0.libraries() }
      let survivors = try Survivors(
        environment: ["RELAY_SOCKET": daemon.socket], relayctl: holderAndReader.program("relayctl")
      ) { number, file in
        Survivors.Writer(
          command: [persist, "relay", "\(number)", file],
          environment: ["LD_LIBRARY_PATH": directories[number % 2]])
      }
      for round in 0..<6 {
        let running: Release = round % 2 == 0 ? .previous : .current
        #expect(
          try executable(of: held.child()) == realPath(running.program("relayd")), "round \(round)")
        try survivors.awaitProgress()
        try install(running == .previous ? .current : .previous, in: scratch)
        // Each kind of end in each direction.
        try held.restart(round % 4 < 2 ? SIGTERM : SIGKILL)
      }
      try survivors.awaitProgress()
      #expect(try daemon.statistic("lost_restart") == 0)
      try survivors.check()
      #expect(!daemon.logText.contains("lost"), "\(daemon.logText)")
      #expect(!daemon.logText.contains("not gone on with"), "\(daemon.logText)")
    }

    /// A wake-up that is lost costs a tick of the daemon's, 250 ms or more; without loss it is a
    /// millisecond, and seldom more where the machine is busy.
    @Test(
      arguments: [
        (Release.current, Release.previous), (.previous, .current), (.current, .current),
      ], ["read", "poll", "follow"])
    private func eachRecordWakesTheReader(_ pair: (Release, Release), _ reader: String) throws {
      let (server, library) = pair
      let daemon = try Daemon("relay:global,read=block", prefix: server.prefix)
      let commands = [
        "read": ["cat", daemon.device("relay0")],
        "poll": [
          "python3", "-c",
          """
          import os, select
          fd = os.open("\(daemon.device("relay0"))", os.O_RDONLY | os.O_NONBLOCK)
          poll = select.poll()
          poll.register(fd, select.POLLIN)
          while True:
              poll.poll()
              try: os.write(1, os.read(fd, 4096))
              except BlockingIOError: pass
          """,
        ],
        "follow": [EndToEnd.program("relayctl"), "read", "relay", "--follow"],
      ]
      let echo = try Echo(daemon, library, reader: try #require(commands[reader]))
      // The first one waits for the programs to start.
      _ = try echo.milliseconds(255)
      var slow = 0
      for number in 0..<204 {
        // The last ones come after a tick each, and after a time in which nothing was written.
        if number >= 200 { poll(nil, 0, 600) }
        if try echo.milliseconds(UInt8(number)) >= 200 { slow += 1 }
      }
      #expect(slow <= 10, "\(slow) of 204 records woke nobody")
    }

    @Test(arguments: [
      (["readers"], "readers"), (["readers", "--evict", "1", "2"], "readers --evict"),
      (["producers"], "producers"),
    ])
    func commandsThatTheEarlierDaemonDoesNotKnowSaySo(
      _ arguments: [String], _ request: String
    ) throws {
      let daemon = try Daemon("relay:global", prefix: Release.previous.prefix)
      let finished = try daemon.relayctl(arguments)
      #expect(finished.status == 1)
      #expect(
        finished.error == """
          relayctl: the relayd that serves \(daemon.socket) is older than this relayctl and does \
          not know `\(request)`; restart it (systemctl restart relayd), so that the relayd that is \
          installed serves\n
          """)
    }

    /// One release's relayctl and the other's relayd.
    @Test(arguments: [Release.previous, .current])
    private func commandsOfOneReleaseWorkWithTheOthersDaemon(_ server: Release) throws {
      let daemon = try Daemon("relay:global", prefix: server.prefix)
      let other: Release = server == .previous ? .current : .previous
      func must(_ arguments: String) throws -> String {
        let finished = try run(
          ["bash", "-c", "set -o pipefail; \(arguments)"],
          environment: ["RELAY_SOCKET": daemon.socket, "RELAYCTL": other.program("relayctl")])
        #expect(finished.status == 0, "\(arguments): \(finished.error)")
        return finished.output
      }
      _ = try must("$RELAYCTL create extra --keep --global --subbuf-size 8KiB --mode overwrite")
      #expect(try must("$RELAYCTL list").contains("extra"))
      _ = try must("printf 'one\\ntwo\\n' | $RELAYCTL write extra")
      #expect(try must("$RELAYCTL stat extra --json").contains("\"records_written\" : 2"))
      _ = try must("$RELAYCTL flush extra")
      #expect(try must("$RELAYCTL read extra") == "one\ntwo\n")
      _ = try must("$RELAYCTL reset extra")
      #expect(try must("$RELAYCTL stat extra --json").contains("\"records_written\" : 0"))
      _ = try must("$RELAYCTL close extra")
      #expect(try !must("$RELAYCTL list").contains("extra"))
    }
  }
}
