// SPDX-License-Identifier: Apache-2.0
// relayctl with what it cannot do, and each of its options: what it says, and its exit status.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct RelayctlTests {
    @Test(
      .onceIsEnough,
      arguments: [
        (["write", "relay", "--lines", "--block", "5"], "--lines and --block exclude each other"),
        (["write", "relay", "--block", "0"], "--block takes a size of 1 byte or more"),
        (
          ["create", "x", "--owner", "a,global"], "--owner \"a,global\": one value, without commas"
        ),
        (["create", "x", "--subbuf-size", ""], "--subbuf-size \"\": one value, without commas"),
        (["read", "relay", "--rotate-size", "1MiB"], "--rotate-size needs --output"),
        (["read", "relay", "--per-cpu"], "--per-cpu needs --output"),
        (["read", "relay", "--output", ""], "--output takes the name of a file"),
        (
          ["read", "relay", "--output", "f", "--rotate-count", "2"],
          "--rotate-count needs --rotate-size"
        ),
        (
          ["read", "relay", "--output", "f", "--rotate-size", "0"],
          "--rotate-size \"0\" is not a size such as 1048576, \"256KiB\" or \"64MiB\""
        ),
        (
          ["read", "relay", "--output", "f", "--rotate-size", "1", "--rotate-count", "0"],
          "--rotate-count takes 1 file or more"
        ),
        (["read", "relay", "--wait", "1s"], "--wait needs --follow"),
        (["read", "relay", "--follow", "--window", "1s"], "--window needs --follow and --time"),
        (
          [
            "read", "relay", "--follow", "--time", "--window", "1s", "--per-cpu", "--output", "f",
          ], "--window: with --per-cpu nothing is merged that could wait"
        ),
        (["read", "relay", "--interval", "1s"], "--interval needs --follow"),
        (
          ["read", "relay", "--follow", "--interval", "0"],
          "--interval \"0\" is not a time such as \"50ms\" or \"2s\", of 1 ms to a day"
        ),
        (["frobnicate"], "Unexpected argument 'frobnicate'"),
      ])
    func wrongUsage(_ arguments: [String], _ reason: String) throws {
      let finished = try run([program("relayctl")] + arguments)
      #expect(finished.status == 64)
      #expect(finished.error.contains(reason), "\(finished.error)")
    }

    @Test(
      .onceIsEnough,
      arguments: [
        (
          "write relay --block 5000",
          "--block 5000: a record is at most one sub-buffer, 4096 bytes here"
        ),
        ("write relay < /", "read standard input: Is a directory"),
        (
          "write relay --lines <<< $(head -c 5000 /dev/zero | tr '\\0' x)",
          "1 records refused: longer than a sub-buffer of channel relay, 4096 bytes"
        ),
        ("read nosuch", "no channel nosuch; relayctl list names those there are"),
        ("read relay --cpu 77", "channel relay has no buffer for CPU 77; there are 0"),
        (
          "read relay > /dev/full",
          "write standard output: No space left on device; 1 records (4 bytes) that were read from "
            + "channel relay were not written and are lost"
        ),
        ("read relay >&-", "standard output is closed"),
        ("write relay <&-", "standard input is closed"),
        (
          "close ''",
          "a channel's name has 1 to 255 bytes, and no control or bidirectional characters"
        ),
        (
          "create $'a\\nb'",
          "a channel's name has 1 to 255 bytes, and no control or bidirectional characters"
        ),
        (
          "create x --owner $(head -c 2000 /dev/zero | tr '\\0' x)",
          "more than fits into a control message; use shorter texts"
        ),
      ])
    func aFailure(_ command: String, _ reason: String) throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096")
      try daemon.write("one\n")
      let finished = try daemon.shell("$BIN/relayctl \(command)")
      #expect(finished.status == (command.hasPrefix("create") ? 64 : 1))
      #expect(finished.error == "relayctl: \(reason)\n")
    }

    @Test(.onceIsEnough) func withoutADaemonOrAWayToItTheStatusSaysWhich() throws {
      let absent = try run(
        [program("relayctl"), "list"], environment: ["RELAY_SOCKET": "/nonexistent/control"])
      #expect(absent.status == 69)
      #expect(
        absent.error == "relayctl: no relayd serves /nonexistent/control: start one, or set "
          + "RELAY_SOCKET to its socket\n")
      let daemon = try Daemon("relay:global")
      let shut = try daemon.relayctl(["list"], prefix: PermissionTests.outsider)
      #expect(shut.status == 77)
      #expect(
        shut.error == "relayctl: no permission to use \(daemon.socket): its directory is not open "
          + "to this user\n")
      chmod(daemon.scratch.path, 0o755)
      let unreadable = try daemon.relayctl(["read", "relay"], prefix: PermissionTests.outsider)
      #expect(unreadable.status == 77)
      #expect(
        unreadable.error == "relayctl: open \(daemon.device("relay0")): Permission denied\n")
    }

    @Test(.onceIsEnough) func whoFollowsOrWaitsForADaemonThatDiesIsToldSo() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=2", "idle:global")
      let errors = try (0..<2).map { try outputFile("error\($0)").take() }
      defer { for error in errors { close(error) } }
      let zero = try FileDescriptor.open("/dev/zero", O_RDONLY)
      let writer = try ChildProcess(
        [program("relayctl"), "write", "relay", "--block", "64"], input: zero.raw,
        error: errors[0], environment: ["RELAY_SOCKET": daemon.socket])
      let device = daemon.device("idle0")
      let reader = try ChildProcess(
        [program("relayctl"), "read", "idle", "--follow"], error: errors[1],
        environment: ["RELAY_SOCKET": daemon.socket])
      try eventually("one waits for space, the other for data") {
        try daemon.statistic("records_unread") == 128
          && run("ls", "-l", "/proc/\(reader.pid)/fd").output.contains(device)
      }
      daemon.end(SIGKILL)
      #expect(writer.wait() == 69)
      let waits = "relayctl: relayd is gone; waiting until channel idle is there again\n"
      try eventually("it has noticed") { text(of: errors[1]) == waits }
      // A successor without the channel.
      let successor = try Daemon("relay:global", in: daemon.scratch)
      #expect(reader.wait() == 1)
      successor.end()
      #expect(
        text(of: errors[0])
          == "relayctl: relayd is gone: 128 records were written, the rest were not\n")
      #expect(
        text(of: errors[1])
          == waits + "relayctl: relayd is there again, but channel idle is not\n")
    }

    @Test(.onceIsEnough) func statSaysTheBacklogAndWhatShareIsLost() throws {
      let daemon = try Daemon(
        "full:global,subbuf_size=64,n_subbufs=4", "idle:global",
        "most:global,subbuf_size=1MiB,n_subbufs=2",
        "over:global,subbuf_size=4,n_subbufs=2,mode=overwrite")
      func lastColumns(_ channel: String...) throws -> [[String]] {
        let lines = try daemon.relayctl(["stat"] + channel).output.split(separator: "\n")
        #expect(lines[0].split(separator: " ").suffix(3) == ["BACKLOG", "MAX", "LOST"])
        return lines.dropFirst().map { $0.split(separator: " ").suffix(2).map(String.init) }
      }
      // Room for 8 records of 32 bytes.
      try daemon.shell("yes 0123456789012345678901234567890 | head -12 | \(drop("full"))")
      try daemon.shell("seq -s ' ' 100 | \(drop("full"))")
      #expect(try daemon.statistic("lost_full", of: "full") == 4)
      #expect(try daemon.statistic("lost", of: "full") == 5)
      #expect(try daemon.statistic("backlog_max", of: "full") == 4)
      let json = try daemon.relayctl("stat", "full", "--json").output
      #expect(json.contains("\"lost_percent\" : 38.46153846153846"), "\(json)")
      #expect(try lastColumns("full") == [["4", "38.46%"]], "5 of 13; one buffer needs no total")
      try daemon.shell("seq -s ' ' 200000 | \(drop("most"))")
      #expect(
        try lastColumns() == [
          ["4", "38.46%"], ["0", "0.00%"], ["0", "100.00%"], ["0", "0.00%"], ["4", "42.86%"],
        ])
      try daemon.shell("yes | head -100000 | \(drop("most"))")
      #expect(try lastColumns("most") == [["0", "0.01%"]], "1 of 100001 is not none")
      try daemon.shell("yes | head -100000 | \(drop("over"))")
      #expect(try lastColumns("over") == [["2", "99.99%"]], "99996 of 100000 are not all")
    }

    private func drop(_ channel: String) -> String {
      "$BIN/relayctl write \(channel) --lines --drop"
    }

    @Test(.onceIsEnough) func onATerminalAWriterShowsHowFarItIsAndWhatItWaitsFor() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4096,n_subbufs=2")
      let out = try outputFile("out")
      let null = try FileDescriptor.open("/dev/null", O_RDONLY)
      let command = "head -c 8256 /dev/zero | \(program("relayctl")) write relay --block 64"
      // script(1) is the terminal.
      let terminal = try ChildProcess(
        ["script", "-qec", command, "/dev/null"], input: null.raw, output: out.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      try eventually("it waits") {
        text(of: out.raw).contains("\r128 records, 0 MiB, 0 MiB/s, full: waiting for a reader")
      }
      #expect(try run("cat", daemon.device("relay0")).output.utf8.count >= 8192)
      #expect(terminal.wait() == 0)
      let last = text(of: out.raw).components(separatedBy: "\r129 records, 0 MiB, ").dropFirst()
      #expect(last.count == 1, "\(text(of: out.raw))")
    }

    /// All that a help text names, beside --help: a new one belongs here, with its test.
    @Test(
      .onceIsEnough,
      arguments: [
        "": "--version", "list": "--json", "stat": "--json", "producers": "--json",
        "write": "--block --drop --lines",
        "read": """
        --cpu --follow --interval --lost --output --per-cpu --rotate-count --rotate-size --time \
        --wait --window
        """, "flush": "", "reset": "", "close": "",
        "reload": "--pid",
        "create": """
        --consumer-timeout --global --group --keep --max-producers --mode --n-subbufs --owner \
        --permissions --prefault --read --stall-timeout --subbuf-size --timestamps --wakeup \
        --write --writers
        """,
        "relayd":
          "--backend --channel --check --config --hold --mount --socket --version --wait-for-cuse",
      ])
    func everyOptionIsKnownHere(_ command: String, _ options: String) throws {
      let help = try run(
        command == "relayd"
          ? [program("relayd"), "--help"]
          : [program("relayctl")] + (command.isEmpty ? [] : [command]) + ["--help"])
      #expect(help.status == 0)
      let named = help.output.split(separator: "\n").compactMap { line -> String? in
        let words = line.split(separator: " ")
        guard line.hasPrefix("  -"), let word = words.first(where: { $0.hasPrefix("--") }) else {
          return nil
        }
        return String(word)
      }
      let isWhole = ["", "relayd"].contains(command)
      #expect(
        named.filter { $0 != "--help" && (isWhole || $0 != "--version") }.sorted()
          == options.split(separator: " ").map(String.init))
    }

    @Test(.onceIsEnough, arguments: ["relayd", "relayctl"]) func versions(_ name: String) throws {
      let finished = try run(program(name), "--version")
      #expect(finished.status == 0)
      #expect(finished.output.hasPrefix("\(name) 0."))
    }
  }
}
