// SPDX-License-Identifier: Apache-2.0
// The log where other users have a say in it: what they do stands there, in bounds, and what they
// chose as names does nothing to who reads it.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct LogTests {
    private static let user = ["setpriv", "--reuid=4008", "--regid=4008", "--clear-groups"]

    private func lines(_ daemon: Daemon, _ text: String) -> [Substring] {
      daemon.logText.split(separator: "\n").filter { $0.contains(text) }
    }

    /// The sum of the numbers right before `text` in these lines.
    private func sum(_ lines: [Substring], _ text: String) -> Int {
      lines.reduce(0) { sum, line in
        let before = String(line).components(separatedBy: text)[0]
        let digits = before.reversed().prefix { $0.isNumber }.reversed()
        return sum + (Int(String(digits)) ?? 0)
      }
    }

    @Test func childrenThatDieInsideRecordsFillNoLog() throws {
      let daemon = try Daemon("relay:global,subbuf_size=64KiB")
      let script = """
        import ctypes, os
        relay = ctypes.CDLL("librelay.so.0")
        relay.relay_attach.restype = ctypes.c_void_p
        relay.relay_reserve.restype = ctypes.c_void_p
        reservation = ctypes.create_string_buffer(256)
        for i in range(400):
            child = os.fork()
            if child == 0:
                channel = ctypes.c_void_p(relay.relay_attach(None, b"relay"))
                if channel and relay.relay_reserve(channel, ctypes.c_size_t(8), reservation):
                    os.kill(os.getpid(), 9)
                os._exit(1)
            os.waitpid(child, 0)
        """
      let finished = try Library.get().start(["python3", "-c", script], daemon)
      #expect(finished.status == 0, "\(finished.error)")
      let singles = " unfinished record"
      try eventually("all are counted: \(daemon.logText)") {
        sum(lines(daemon, "unfinished record"), singles) == 400
      }
      #expect(try daemon.statistic("aborted") == 400)
      #expect(lines(daemon, "died while it wrote to channel relay").count < 20)
      let sums = lines(daemon, "more messages left out in the last second, about processes that")
      #expect(!sums.isEmpty && sums.allSatisfy { $0.hasPrefix("<5>") })
      #expect(lines(daemon, "unfinished").count < 60, "\(daemon.logText)")
    }

    @Test func requestsThatChangeChannelsAreLogged() throws {
      let daemon = try Daemon("relay:global")
      try daemon.require("create", "job", "--global", "--keep")
      try daemon.require("reset", "job")
      try daemon.require("close", "job")
      for (what, line) in [
        ("created", "created, to stay: channel job: 8 sub-buffers of 256 KiB for each of 1 buffer"),
        ("reset", "reset channel job"), ("closed", "closed channel job"),
      ] {
        let found = lines(daemon, ": \(line)")
        #expect(
          found.count == 1 && found[0].hasPrefix("<5>process ")
            && found[0].contains(" (relayctl) of user 0: "), "\(what): \(daemon.logText)")
      }
      try daemon.require("create", "brief", "--global")
      try daemon.write("one\n", to: "brief")
      try eventually("its end is logged") {
        lines(daemon, "channel brief: closed, as its last writer has ended").count == 1
      }
    }

    @Test func refusedRequestsAreLoggedInBounds() throws {
      let daemon = try Daemon("relay:global")
      chmod(daemon.scratch.path, 0o755)
      #expect(try daemon.relayctl(["close", "relay"], prefix: LogTests.user).status == 77)
      let refusal = lines(daemon, "refused process ")
      #expect(
        refusal.count == 1 && refusal[0].hasPrefix("<4>")
          && refusal[0].hasSuffix(
            " (relayctl) of user 4008: close channel relay: user 4008 may not close channel relay; "
              + "those who may: root, relayd's own user"),
        "\(refusal)")
      let storm = """
        import socket, struct
        for i in range(300):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect("\(daemon.socket)")
            s.send(struct.pack("<BBHIH5s", 4, 7, 0, 7, 5, b"relay"))
            s.recv(4096)
        """
      let finished = try run(LogTests.user + ["/usr/bin/python3", "-c", storm])
      #expect(finished.status == 0, "\(finished.error)")
      let sums = "more messages left out in the last second, about refused"
      try eventually("all are counted: \(daemon.logText)") {
        lines(daemon, "refused process ").count + sum(lines(daemon, sums), " more message") == 301
      }
      #expect(lines(daemon, "refused").count < 30, "\(daemon.logText)")
      // Asking for what is not there is no offence.
      #expect(try daemon.relayctl("write", "nothing").status == 1)
      #expect(lines(daemon, "channel nothing").isEmpty)
    }

    @Test func atATerminalALineHasATimeAndAWord() throws {
      let scratch = try Scratch()
      mkdir("\(scratch.path)/mount", 0o755)
      let arguments =
        [program("relayd"), "--channel", "relay:global"]
        + Daemon.arguments("\(scratch.path)/control", "\(scratch.path)/mount")
      let script = """
        import os, pty, signal, sys
        pid, terminal = pty.fork()
        if pid == 0: os.execv(sys.argv[1], sys.argv[1:])
        text = b""
        try:
            while True:
                text += os.read(terminal, 4096)
                if b"ready" in text and pid: os.kill(pid, signal.SIGTERM)
        except OSError: pass
        sys.stdout.buffer.write(text)
        """
      let finished = try run(["timeout", "60", "python3", "-c", script] + arguments)
      let lines = finished.output.split { $0.isNewline }
      #expect(lines.count >= 3, "\(finished.output)\(finished.error)")
      for line in lines {
        let words = line.split(separator: " ", maxSplits: 2)
        let time = words[0].split(separator: ":").map { Int($0) ?? -1 }
        #expect(time.count == 3 && words[0].utf8.count == 8, "\(line)")
        #expect(
          zip(time, [23, 59, 60]).allSatisfy { (0...$1).contains($0) }
            && ["info:", "notice:", "warning:"].contains(String(words[1])), "\(line)")
      }
      #expect(lines.contains { $0.contains(" info: channel relay: 8 sub-buffers of 256 KiB") })
    }
  }
}

/// Texts that strangers choose, on every surface that shows them.
extension OneAtATime {
  @Suite(.onceIsEnough) struct StrangersTextTests {
    /// A C1 control that begins an escape sequence, and one that reverses what follows.
    private static let text = "x\u{9B}31m\u{202E}y"

    private func check(_ shown: String, _ surface: String, _ escaped: String = "\\u009B31m") {
      #expect(shown.contains(escaped), "\(surface): \(shown)")
      let raw = shown.unicodeScalars.filter {
        $0.value < 0x20 && $0 != "\n" || (0x7F...0x9F).contains($0.value)
          || (0x2028...0x202E).contains($0.value)
      }
      #expect(raw.isEmpty, "\(surface): \(shown)")
    }

    @Test func commandNamesAreEscaped() throws {
      let daemon = try Daemon("relay:global,subbuf_size=4KiB,stall_timeout=100ms")
      let library = try Library.get()
      let output = try outputFile("output")
      let input = try Pipe()
      let script = """
        import ctypes, os, sys
        open("/proc/self/comm", "w").write("x\\u009b31m\\u202ey")
        relay = ctypes.CDLL("librelay.so.0")
        relay.relay_attach.restype = ctypes.c_void_p
        relay.relay_reserve.restype = ctypes.c_void_p
        channel = ctypes.c_void_p(relay.relay_attach(None, b"relay"))
        relay.relay_reserve(channel, ctypes.c_size_t(8), ctypes.create_string_buffer(256))
        print("reserved", flush=True)
        sys.stdin.read()
        """
      let writer = try ChildProcess(
        ["python3", "-c", script], input: input.read.raw, output: output.raw,
        environment: ["LD_LIBRARY_PATH": library.libraries, "RELAY_SOCKET": daemon.socket])
      defer {
        writer.signal(SIGKILL)
        _ = writer.wait()
      }
      try eventually("it has reserved") { EndToEnd.text(of: output.raw) == "reserved\n" }
      try eventually("the log names it: \(daemon.logText)") {
        daemon.logText.contains("open, one for over")
      }
      check(daemon.logText, "the log", "(x\\u009B31m\\u202Ey) of user 0")
      check(try daemon.relayctl("producers").output, "relayctl producers", "x\\u009B31m\\u202Ey")
      check(try daemon.relayctl("producers", "--json").output, "relayctl producers --json")
      check(try daemon.relayctl("stat", "--json").output, "relayctl stat --json")
    }

    @Test func namesAndOptionsInRefusalsAreEscaped() throws {
      let daemon = try Daemon("relay:global")
      let text = StrangersTextTests.text
      for arguments in [
        ["create", "job", "--owner", text], ["create", "job", "--writers", text],
        ["create", "job", "--subbuf-size", text], ["create", "job", "--stall-timeout", text],
        ["read", text], ["reload", "--pid", text],
        ["read", "relay", "--follow", "--interval", text],
        ["read", "relay", "--output", "/nothing/\(text)"], [text],
      ] {
        let finished = try daemon.relayctl(arguments)
        #expect(finished.status != 0)
        check(finished.error, "relayctl \(arguments)")
      }
      for name in [text, "a\u{1B}[31m", "a\u{2067}b"] {
        let refused = try daemon.relayctl("close", name)
        #expect(refused.status == 1)
        check(
          refused.error, "relayctl close", "a channel's name has 1 to 255 bytes, and no control")
      }
      let elsewhere = try run(
        program("relayctl"), "list", environment: ["RELAY_SOCKET": "/nothing/\(text)"])
      check(elsewhere.error, "RELAY_SOCKET")
      check(daemon.logText, "the log")
    }

    /// A client that keeps to no rules.
    @Test func whatComesOverTheSocketIsEscaped() throws {
      let daemon = try Daemon("relay:global")
      let script = """
        import socket, struct
        def ask(type, *texts):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect("\(daemon.socket)")
            body = b"".join(struct.pack("<H", len(t.encode())) + t.encode() for t in texts)
            body += b"\\x01" if type == 6 else b""
            s.send(struct.pack("<BBHI", 4, type, 0, len(body)) + body)
            print(s.recv(4096)[14:].decode())
        ask(6, "job", "owner=x\\u009b31m\\u202ey")
        ask(6, "x\\u009b31m\\u202ey", "global")
        ask(1, "x\\u009b31m\\u202ey")
        """
      let finished = try run("python3", "-c", script)
      #expect(finished.status == 0, "\(finished.error)")
      check(finished.output, "replies")
      check(daemon.logText, "the log")
    }

    @Test func configurationsAreEscaped() throws {
      let scratch = try Scratch()
      let text = StrangersTextTests.text
      let file = "\(scratch.path)/\(text).toml"
      for (content, escaped) in [
        ("[channel.relay]\nowner = \"\(text)\"\n", "\\u009B31m"),
        ("[channel.\"\(text)\"]\nglobal = true\n", "\\u009B31m"),
        ("\"\(text)\" = 1\n", "\\u009B31m"),
        ("socket = \"\(text)\"\n", "\\u009B31m"), ("= \(text)\n", "\\u009B31m"),
      ] {
        let written = try FileDescriptor.open(file, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
        #expect(write(written.raw, content, content.utf8.count) == content.utf8.count)
        let checked = try run(program("relayd"), "--check", "--config", file)
        #expect(checked.status == 64)
        check(checked.error, "relayd --check of \(content.debugDescription)", escaped)
        let started = try run(program("relayd"), "--config", file)
        #expect(started.status == 64)
        check(started.error, "relayd of \(content.debugDescription)", escaped)
      }
    }
  }
}
