// SPDX-License-Identifier: Apache-2.0
// The resource limits of relayd's own process: under each of them, however small, it says what it
// cannot do and why, or it works.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct ProcessLimitTests {
    /// A relayd under a limit, with its log in a pipe: a file could be too long.
    private struct Limited {
      var isReady = false
      var status = -1
      var log = ""
      /// What was created, and what it met.
      var refusals: [String] = []
    }

    /// Starts it, creates channels of 4 KiB to 512 MiB, reads what is written, and ends it.
    private func run(
      under limit: String, channel: String = "relay:global,subbuf_size=4096,n_subbufs=2",
      as user: [String] = []
    ) throws -> Limited {
      let scratch = try Scratch()
      mkdir("\(scratch.path)/mount", 0o755)
      chmod(scratch.path, 0o777)
      chown("\(scratch.path)/mount", user.isEmpty ? 0 : 65534, 0)
      let socket = "\(scratch.path)/control"
      let log = try Pipe()
      let arguments =
        [program("relayd")] + Daemon.arguments(socket, "\(scratch.path)/mount")
        + ["--channel", channel]
      let child = try ChildProcess(
        user + ["bash", "-c", "ulimit \(limit) && exec \"$@\"", "bash"] + arguments,
        error: log.write.raw)
      var limited = Limited()
      _ = fcntl(log.read.raw, F_SETFL, O_NONBLOCK)
      func hear() {
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = Glibc.read(log.read.raw, &bytes, bytes.count)
        limited.log += String(decoding: bytes[..<max(0, count)], as: UTF8.self)
      }
      var info = siginfo_t()
      try eventually("it is ready, or has ended: \(limited.log)") {
        hear()
        info = siginfo_t()
        return limited.log.contains("ready: ")
          || waitid(P_PID, id_t(child.pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0
            && info.si_signo != 0
      }
      limited.isReady = limited.log.contains("ready: ")
      if limited.isReady {
        let environment = ["RELAY_SOCKET": socket, "BIN": OneAtATime.binaries]
        for (number, size) in ["4096", "1MiB", "32MiB"].enumerated() {
          let finished = try OneAtATime.run(
            "\(program("relayctl"))", "create", "made\(number)_", "--global", "--keep",
            "--subbuf-size", size, "--n-subbufs", "16", environment: environment)
          if finished.status != 0 { limited.refusals.append(finished.error) }
        }
        let file = "\(scratch.path)/mount/relay0"
        let echo = try OneAtATime.run(
          "bash", "-c", "echo hello | $BIN/relayctl write relay && timeout 20 cat \(file)",
          environment: environment)
        #expect(echo.output == "hello\n", "\(limit): \(echo.error)\(limited.log)")
        child.signal(SIGTERM)
      }
      limited.status = child.wait()
      hear()
      umount2("\(scratch.path)/mount", CInt(MNT_DETACH))
      return limited
    }

    @Test(arguments: [
      ("-f 0", "ulimit -f"), ("-f 1", "ulimit -f"), ("-f 300", "ulimit -f"), ("-n 4", "ulimit -n"),
      ("-n 9", "ulimit -n"), ("-n 14", "ulimit -n"), ("-n 34", "ulimit -n"),
      ("-s 64", "ulimit -s"), ("-s 300", "ulimit -s"), ("-v 60000", "ulimit -v"),
      ("-d 30000", "ulimit -d"),
    ])
    func aLimitThatLeavesTooLittleIsNamed(_ limit: String, _ name: String) throws {
      let limited = try run(under: limit)
      #expect(!limited.isReady)
      #expect(limited.status == 1, "\(limited.log)")
      #expect(limited.log.hasPrefix("<2>") && limited.log.contains(name), "\(limited.log)")
    }

    /// What it cannot do is refused by name; the rest goes on.
    @Test(arguments: [
      ("-f 500", 2, "ulimit -f"), ("-f 5000", 2, "ulimit -f"), ("-v 400000", 1, "ulimit -v"),
      ("-n 80", 1, "ulimit -n"), ("-n 100", 0, "ulimit -n"),
    ])
    func whatALimitForbidsIsRefused(_ limit: String, _ count: Int, _ name: String) throws {
      let limited = try run(under: limit)
      #expect(limited.isReady && limited.status == 0, "\(limited.log)")
      #expect(limited.refusals.count == count, "\(limited.refusals)")
      for (number, refusal) in limited.refusals.reversed().enumerated() {
        #expect(refusal.hasPrefix("relayctl: channel made\(2 - number)_: "), "\(refusal)")
        #expect(refusal.contains(name), "\(refusal)")
      }
    }

    @Test(arguments: ["-l 0", "-c 0", "-i 0", "-q 0", "-e 0", "-r 0", "-x 0", "-m 0", "-s 1000"])
    func otherLimitsForbidNothing(_ limit: String) throws {
      let limited = try run(under: limit)
      #expect(limited.isReady && limited.status == 0, "\(limited.log)")
      #expect(limited.refusals.isEmpty, "\(limited.refusals)")
    }

    @Test(arguments: ["-u 0", "-u 1", "-u 2"]) func tooFewProcesses(_ limit: String) throws {
      let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
      let limited = try run(under: limit, as: user)
      #expect(!limited.isReady && limited.status == 1, "\(limited.log)")
      #expect(limited.log.contains("ulimit -u"), "\(limited.log)")
    }

    /// The kernel sends a signal a second before the end; without one nobody would know.
    @Test func aLimitOfProcessorTimeIsSaidAndLivedWith() throws {
      let daemon = try Daemon(
        "relay:global", prefix: ["bash", "-c", "ulimit -t 3 && exec \"$@\"", "bash"])
      #expect(
        daemon.logText.contains("relayd may use 3 s of processor time (ulimit -t, LimitCPU=)"))
      daemon.process.signal(SIGXCPU)
      let said =
        "used the processor time that its limit allows (ulimit -t, LimitCPU=); at 3 s the "
        + "kernel kills it"
      try eventually("it says so: \(daemon.logText)") { daemon.logText.contains(said) }
      daemon.process.signal(SIGXFSZ)
      try daemon.write("alive\n")
      #expect(try OneAtATime.run("cat", daemon.device("relay0")).output == "alive\n")
      #expect(daemon.end() == 0)
    }
  }

  fileprivate static var binaries: String { environment("RELAY_BIN")! }

  @discardableResult
  fileprivate static func run(
    _ arguments: String..., environment: [String: String] = [:]
  ) throws -> Finished {
    try EndToEnd.run(arguments, environment: environment)
  }
}
