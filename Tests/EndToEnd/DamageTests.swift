// SPDX-License-Identifier: Apache-2.0
// Channels that give nothing more: full ones, those whose memory a producer spoiled, those of a
// relayd that ends. What whoever uses them is told.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct DamageTests {
    @Test(.onceIsEnough) func aFullChannelIsNotFlushed() throws {
      let daemon = try Daemon("full:global,subbuf_size=4096,n_subbufs=2")
      let filled = try daemon.shell(
        "head -c 8256 /dev/zero | $BIN/relayctl write full --block 64 --drop")
      #expect(filled.status == 0)
      #expect(filled.error == "relayctl: 1 records lost: the channel was full\n")
      let refused = try daemon.relayctl("flush", "full")
      #expect(refused.status == 1)
      #expect(refused.error == "relayctl: channel full is full: read it, then flush again\n")
      #expect(try run("cat", daemon.device("full0")).output.utf8.count == 8192)
      try daemon.require("flush", "full")
    }

    /// What a producer can do to the memory it writes into, to the first words of its only buffer.
    func damage(_ channel: String, _ daemon: Daemon, _ words: String) throws {
      let finished = try run(
        "bash", "-c",
        """
        for file in /proc/\(daemon.process.pid)/fd/*; do
          [[ $(readlink $file) == "/memfd:relay:\(channel) "* ]] || continue
          printf '\(words)' | dd of=$file conv=notrunc status=none && exit
        done; exit 1
        """)
      #expect(finished.status == 0, "\(finished.error)")
    }

    @Test func aDamagedChannelIsSaidToBeSoAndTheOthersGoOn() throws {
      let daemon = try Daemon("bad:global,subbuf_size=4096,n_subbufs=2", "relay:global")
      let input = try Pipe()
      let error = try outputFile("error")
      let writer = try ChildProcess(
        [program("relayctl"), "write", "bad"], input: input.read.raw, error: error.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      #expect(write(input.write.raw, "one\n", 4) == 4)
      try eventually("it is written") { try daemon.statistic("records_written", of: "bad") == 1 }
      // The current sub-buffer is one that there is not.
      try damage("bad", daemon, "\\xff\\xff\\x10\\x00\\x00\\x00\\x00\\x00")
      #expect(write(input.write.raw, "two\n", 4) == 4)
      #expect(writer.wait() == 1)
      let damaged = "the shared memory of channel bad is damaged"
      #expect(text(of: error.raw) == "relayctl: \(damaged); 1 records were written\n")
      let flushed = try daemon.relayctl("flush", "bad")
      #expect(flushed.status == 1)
      #expect(flushed.error == "relayctl: \(damaged)\n")
      let device = daemon.device("bad0")
      try eventually("what was whole is read, then it fails") {
        let read = try daemon.relayctl("read", "bad")
        return read.status == 1 && read.error == "relayctl: \(device): \(damaged)\n"
      }
      #expect(try run("cat", device).error.contains("Input/output error"))
      #expect(
        daemon.logText.components(
          separatedBy: "bad0: a process that writes to channel bad damaged its shared memory; this "
            + "buffer delivers nothing more"
        ).count == 2, "said once: \(daemon.logText)")
      #expect(try daemon.statistic("corrupt", of: "bad") > 0)
      // Also to those who write into it.
      chmod(daemon.scratch.path, 0o755)
      let user = ["setpriv", "--reuid=4007", "--regid=4007", "--clear-groups"]
      func state(_ channel: String) throws -> Substring? {
        let list = try daemon.relayctl(["list"], prefix: user).output
        let line = list.split(separator: "\n").first { $0.hasPrefix(channel + " ") }
        return line?.split(separator: " ").dropFirst(4).first
      }
      #expect(try state("bad") == "damaged" && state("relay") == "open")
      let json = try daemon.relayctl("list", "--json").output
      #expect(json.components(separatedBy: "\"damaged\" : true").count == 2, "\(json)")
      try daemon.require("reset", "bad")
      #expect(try state("bad") == "open")
      try daemon.write("fine\n")
      #expect(try run("cat", daemon.device("relay0")).output == "fine\n")
    }

    /// More than the log takes at once.
    @Test(.onceIsEnough) func everyDamagedChannelIsNamedHoweverManyThereAre() throws {
      let letters = "abcdefghij"
      let names = letters.flatMap { a in letters.map { "x\(a)\($0)" } } + ["ya", "yb", "yc"]
      let daemon = try Daemon(
        configuration: names.map {
          "[channel.\($0)]\nglobal = true\nsubbuf_size = 4096\nn_subbufs = 2\n"
        }.joined())
      let finished = try daemon.shell(
        """
        for file in /proc/\(daemon.process.pid)/fd/*; do
          [[ $(readlink $file) == "/memfd:relay:"[xy]* ]] || continue
          printf '\\xff\\xff\\x10\\0\\0\\0\\0\\0' | dd of=$file conv=notrunc status=none
        done
        for name in \(names.joined(separator: " ")); do
          timeout 20 cat \(daemon.device(""))${name}0
        done; true
        """)
      #expect(finished.error.components(separatedBy: "Input/output error").count == 104)
      func count() -> Int {
        daemon.logText.components(separatedBy: "damaged its shared memory").count - 1
      }
      try eventually("each is named: \(count())", within: 60) { count() == 103 }
      #expect(daemon.logText.contains("left out in the last second, about damaged channels"))
      for name in names { #expect(daemon.logText.contains("\(name)0: a process"), "\(name)") }
    }

    /// Only the daemon closes a channel; a producer can make its own look like one.
    @Test func aChannelThatAProducerMarkedAsClosedIsSaidToBe() throws {
      let daemon = try Daemon("bad:global,subbuf_size=4096,n_subbufs=2")
      try daemon.write("one\n", to: "bad")
      try damage("bad", daemon, "\\x00\\x00\\x18\\x00\\x00\\x00\\x00\\x00")
      let refused = try daemon.relayctl("flush", "bad")
      #expect(refused.status == 1)
      #expect(refused.error == "relayctl: channel bad is closed\n")
      #expect(try run("timeout", "20", "cat", daemon.device("bad0")).output == "one\n")
    }

    /// Stopped, it finds the signal first, and the request that came after it in its last moments:
    /// clients have no time of the readers'.
    @Test(.onceIsEnough, arguments: [SIGTERM, SIGINT])
    func aRelaydThatEndsHearsNobodyAnyMore(_ signal: CInt) throws {
      let daemon = try Daemon("relay:global")
      try daemon.write("one\n")
      // In another process: a close of the file waits for relayd.
      let reader = try ChildProcess([
        "bash", "-c", "exec 3< $0; kill -STOP $$", daemon.device("relay0"),
      ])
      try eventually("it has the device open") {
        try run("ls", "-l", "/proc/\(reader.pid)/fd").output.contains(daemon.device("relay0"))
      }
      daemon.process.signal(SIGSTOP)
      daemon.process.signal(signal)
      let error = try outputFile("error")
      let late = try ChildProcess(
        [program("relayctl"), "flush", "relay"], error: error.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      try eventually("it waits for the answer") {
        try run("cat", "/proc/\(late.pid)/stat").output.contains(") S ")
          && run("ls", "-l", "/proc/\(late.pid)/fd").output.contains("socket:")
      }
      daemon.process.signal(SIGCONT)
      #expect(late.wait() == 69)
      #expect(text(of: error.raw) == "relayctl: relayd closed the connection\n")
      reader.signal(SIGKILL)
      _ = reader.wait()
      #expect(daemon.end() == 0)
      #expect(daemon.logText.contains("<5>\(signal == SIGTERM ? "SIGTERM" : "SIGINT"): ending\n"))
      #expect(daemon.logText.contains("nobody read 1 record of \(daemon.device("relay0")), now"))
    }
  }
}
