// SPDX-License-Identifier: Apache-2.0
// relayd --hold: a relayd that ends is started again, until its holder is told to end; and what it
// gave away is handed to the next one.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct HoldTests {
    /// The relayd that the holder started last.
    private func child(_ daemon: Daemon) throws -> Int32 {
      // It may be ready before the holder has said that it is there.
      try eventually("the holder says it") {
        daemon.logText.components(separatedBy: "relayd is process ").count
          >= daemon.logText.components(separatedBy: "ready:").count
      }
      let line = try #require(
        daemon.logText.components(separatedBy: "relayd is process ").last?.prefix {
          $0.isNumber
        })
      return try #require(Int32(line))
    }

    /// Ends the relayd and waits for the next one.
    private func replace(_ daemon: Daemon, _ signal: CInt) throws {
      let before = try child(daemon)
      let readies = daemon.logText.components(separatedBy: "ready:").count
      kill(before, signal)
      try eventually("the next one is ready: \(daemon.logText)") {
        daemon.logText.components(separatedBy: "ready:").count > readies
      }
      #expect(try child(daemon) != before)
    }

    @Test(arguments: [SIGKILL, SIGTERM, SIGINT])
    func aRelaydThatEndsIsStartedAgain(_ signal: CInt) throws {
      let daemon = try Daemon("relay:global", options: ["--hold"])
      try daemon.write("one\n")
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
      try replace(daemon, signal)
      try daemon.write("two\n")
      #expect(try run("cat", daemon.device("relay0")).output.hasSuffix("two\n"))
      let how = signal == SIGKILL ? "was killed by signal 9" : "ended with 0"
      #expect(daemon.logText.contains(") \(how); "))
      #expect(daemon.end() == 0)
    }

    /// What it had and had not reported comes again.
    @Test func aMappedConsumerMapsAgain() throws {
      let daemon = try Daemon("relay:global", options: ["--hold"])
      try daemon.write("one\n")
      let consumer = try Holding("hold", daemon)
      try replace(daemon, SIGKILL)
      #expect(try consumer.end() == "\(ECONNRESET) \(ECONNRESET)\n")
      #expect(try Holding("hold", daemon).end() == "0 \(EAGAIN)\n")
      #expect(try run("cat", daemon.device("relay0")).output == "")
      #expect(try daemon.statistic("records_read") == 1)
    }

    @Test(arguments: [SIGTERM, SIGINT])
    func theEndOfTheHolderIsTheEndOfBoth(_ signal: CInt) throws {
      let daemon = try Daemon("relay:global", options: ["--hold"])
      let child = try child(daemon)
      #expect(daemon.end(signal) == 0)
      #expect(kill(child, 0) == -1 && errno == ESRCH)
      #expect(access(daemon.socket, F_OK) == -1)
      #expect(access(daemon.device("relay0"), F_OK) == -1)
      #expect(daemon.logText.contains("ending for good"))
    }

    @Test func withoutItsHolderARelaydGoesOn() throws {
      let daemon = try Daemon("relay:global", options: ["--hold"])
      let child = try child(daemon)
      #expect(daemon.end(SIGKILL) == 128 + Int(SIGKILL))
      try daemon.write("one\n")
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
      kill(child, SIGTERM)
      try eventually("it ended") { access(daemon.device("relay0"), F_OK) == -1 }
    }

    @Test func aHangupReloads() throws {
      let daemon = try Daemon(
        configuration: "[channel.one]\nglobal = true\n", options: ["--hold"])
      let before = try child(daemon)
      try daemon.configure("[channel.two]\nglobal = true\n")
      daemon.process.signal(SIGHUP)
      try eventually("it reloads") { try daemon.channels() == ["two"] }
      #expect(try child(daemon) == before)
    }

    @Test(.onceIsEnough) func aWrongConfigurationEndsTheFirstStart() throws {
      let scratch = try Scratch()
      try write("[colour]\n", to: "\(scratch.path)/relayd.toml")
      let finished = try run(
        "timeout", "60", program("relayd"), "--hold", "--config", "\(scratch.path)/relayd.toml")
      #expect(finished.status == 64)
      #expect(finished.error.contains("unknown key colour"), "\(finished.error)")
    }

    /// Puts a relayd into a directory that has one more channel.
    private func install(_ channel: String, in directory: Scratch) throws {
      let file = "\(directory.path)/relayd"
      try write(
        "#!/bin/sh\nexec '\(program("relayd"))' \"$@\" --channel \(channel):global\n",
        to: file + ".new")
      #expect(rename(file + ".new", file) == 0)
    }

    /// As a shell starts it: by a name without a slash.
    private func startThroughPath(_ directory: Scratch) throws -> Daemon {
      try Daemon(
        options: ["--hold"], in: directory,
        prefix: ["bash", "-c", "exec -a relayd \"$@\"", "bash"],
        environment: ["PATH": "\(directory.path):/usr/bin:/bin"])
    }

    @Test(.onceIsEnough) func whatThePathHasByThenIsStarted() throws {
      let scratch = try Scratch()
      try install("old", in: scratch)
      let daemon = try startThroughPath(scratch)
      #expect(try daemon.channels() == ["old"])
      try install("new", in: scratch)
      try replace(daemon, SIGKILL)
      #expect(try daemon.channels() == ["new"])
    }

    @Test(.onceIsEnough) func aProgramThatIsBeingReplacedIsWaitedFor() throws {
      let scratch = try Scratch()
      try install("old", in: scratch)
      let daemon = try startThroughPath(scratch)
      #expect(unlink("\(scratch.path)/relayd") == 0)
      kill(try child(daemon), SIGKILL)
      try eventually("it waits: \(daemon.logText)") {
        daemon.logText.contains("relayd is started again in 1 s")
      }
      #expect(daemon.logText.contains("<3>start relayd: No such file or directory; "))
      try install("new", in: scratch)
      try eventually("it is ready") {
        daemon.logText.components(separatedBy: "ready:").count == 3
      }
      #expect(try daemon.channels() == ["new"])
    }

    @Test(.onceIsEnough) func aProgramThatKeepsEndingIsWaitedFor() throws {
      let scratch = try Scratch()
      try install("old", in: scratch)
      let daemon = try startThroughPath(scratch)
      try write("#!/bin/sh\nexit 3\n", to: "\(scratch.path)/relayd.new")
      #expect(rename("\(scratch.path)/relayd.new", "\(scratch.path)/relayd") == 0)
      kill(try child(daemon), SIGKILL)
      try eventually("it waits: \(daemon.logText)") {
        daemon.logText.contains("relayd is started again in 1 s")
      }
      // The killed one may count, too.
      #expect(
        [4, 5].contains(daemon.logText.components(separatedBy: ") ended with 3;").count - 1))
      try install("new", in: scratch)
      // Need not be waited for.
      daemon.process.signal(SIGHUP)
      try eventually("it is ready") {
        daemon.logText.components(separatedBy: "ready:").count == 3
      }
      #expect(try daemon.channels() == ["new"])
    }

    @Test(.onceIsEnough) func itsOwnServiceManagerHearsOfReadinessAndOfTheRealEnd() throws {
      let manager = try NotifySocket()
      let daemon = try Daemon(
        "relay:global", options: ["--hold"], environment: ["NOTIFY_SOCKET": manager.name])
      var heard: [String] = []
      func listen() throws {
        try withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { buffer in
          while let packet = try UnixSocket.receive(
            manager.raw, into: buffer, withSender: true, dontWait: true)
          {
            #expect(packet.sender == daemon.process.pid)
            let text = String(decoding: buffer[..<packet.count], as: UTF8.self)
            heard.append(String(text.prefix { $0 != "\n" }))
          }
        }
      }
      try replace(daemon, SIGTERM)
      // What its log says is there first.
      try eventually("it said that it is ready again") {
        try listen()
        return heard.count >= 2
      }
      #expect(daemon.end() == 0)
      try listen()
      #expect(heard == ["READY=1", "READY=1", "STOPPING=1"])
    }
  }

  /// A holder of another program than relayd, which says what it is started with.
  @Suite(.onceIsEnough) struct HolderTests {
    private static let relayd = """
      #!/usr/bin/env python3
      import array, os, signal, socket

      def notify(text, *fds):
          with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
              s.connect(os.environ["NOTIFY_SOCKET"])
              rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
              s.sendmsg([text.encode()], rights if fds else [])

      def keep(name, content):
          fd = os.memfd_create("test")
          os.write(fd, content.encode())
          notify("FDSTORE=1\\nFDPOLL=0\\nFDNAME=" + name, fd)

      names = os.environ.get("LISTEN_FDNAMES", "").split(":")
      count = int(os.environ.get("LISTEN_FDS", "0"))
      if count:
          assert os.environ["LISTEN_PID"] == str(os.getpid()), os.environ
      kept = [n + "=" + os.pread(3 + i, 99, 0).decode() for i, n in zip(range(count), names)]
      def leaks(fd):
          try: target = os.readlink(f"/proc/self/fd/{fd}")
          except OSError: return False
          return int(fd) >= 3 + count and target.startswith(("socket:", "memfd:", "anon_inode:"))
      leaked = len([fd for fd in os.listdir("/proc/self/fd") if leaks(fd)])
      with open(os.environ["REPORT"], "a") as report:
          print(*sorted(kept), f"and {leaked} more;", os.environ["FDSTORE"],
                os.environ["NOTIFY_SOCKET"], file=report, flush=True)
      if count == 0:
          keep("g+a/b", "one")
          keep("b", "two")
          keep("c", "three")
          notify("FDSTOREREMOVE=1\\nFDNAME=c")
          notify("READY=1")
          os.kill(os.getpid(), signal.SIGKILL)
      if os.fork() == 0:
          keep("grandchild", "four")
          os._exit(0)
      os.wait()
      print("waits", file=open(os.environ["REPORT"], "a"))
      if signal.sigwait([signal.SIGINT, signal.SIGHUP]) == signal.SIGHUP:
          keep("b", "five")
          os.abort()
      os._exit(7)
      """

    @Test func whatIsHeldIsHandedOverAndStrangersAreNotHeard() throws {
      let scratch = try Scratch()
      let report = "\(scratch.path)/report"
      try write(HolderTests.relayd, to: "\(scratch.path)/relayd")
      let log = try outputFile("log")
      let holder = try ChildProcess(
        [
          "bash", "-c",
          // Without what other tests of this process let their children have.
          """
          for file in /proc/$$/fd/*; do
            fd=${file##*/}
            if ((fd > 2)); then eval "exec $fd>&-"; fi
          done
          ulimit -n 500
          exec -a relayd '\(program("relayd"))' --hold
          """,
        ],
        error: log.raw,
        environment: ["PATH": "\(scratch.path):\(environment("PATH")!)", "REPORT": report])
      func lines() throws -> [Substring] {
        try run("cat", report).output.split(separator: "\n")
      }
      try eventually("it was started again: \(text(of: log.raw))") {
        try lines().filter { $0 == "waits" }.count == 1
      }
      let name = try #require(try lines().first?.split(separator: " ").last)
      let stranger = try NotifySocket.connect(String(name), timeoutMilliseconds: 1000)
      for message in ["FDSTOREREMOVE=1\nFDNAME=b", "FDSTORE=1\nFDNAME=stranger"] {
        let sent = try Array(message.utf8).withUnsafeBytes {
          try UnixSocket.send(stranger.raw, $0, descriptors: [log.raw])
        }
        #expect(sent)
      }
      holder.signal(SIGHUP)
      try eventually("it was started again: \(text(of: log.raw))") {
        try lines().filter { $0 == "waits" }.count == 2
      }
      holder.signal(SIGTERM)
      #expect(holder.wait() == 7)
      let all = try lines()
      #expect(
        all == [
          "and 0 more; 468 \(name)",
          "b=two g+a/b=one and 0 more; 468 \(name)", "waits",
          "b=five g+a/b=one and 0 more; 468 \(name)", "waits",
        ], "\(text(of: log.raw))")
      #expect(text(of: log.raw).contains("was killed by signal 6; 2 descriptors are held"))
    }
  }
}

/// Writes a program, or what one reads. A child does: a file that some other child of this process
/// still has open for writing could not be started.
private func write(_ text: String, to path: String) throws {
  let finished = try run(
    "bash", "-c", "printf %s \"$TEXT\" >\"$FILE\" && chmod 755 \"$FILE\"",
    environment: ["TEXT": text, "FILE": path])
  guard finished.status == 0 else { throw Failure("write \(path): \(finished.error)") }
}
