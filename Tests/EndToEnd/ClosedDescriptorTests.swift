// SPDX-License-Identifier: Apache-2.0
// relayd and relayctl, started with closed standard descriptors: 0, 1 and 2 never become a socket,
// a device or shared memory, and what needs one of them says that it is closed.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct ClosedDescriptorTests {
    /// All but none.
    static let combinations: [[Int]] = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]

    private func closing(_ closed: [Int]) -> String {
      closed.map { $0 == 0 ? "<&-" : "\($0)>&-" }.joined(separator: " ")
    }

    /// What a process's standard descriptors are.
    private func standard(_ pid: Int32) throws -> [String] {
      try (0...2).map { number in
        String(try run("readlink", "/proc/\(pid)/fd/\(number)").output.dropLast())
      }
    }

    private func expectPlaceHolders(_ pid: Int32, _ closed: [Int]) throws {
      let standard = try standard(pid)
      for number in closed { #expect(standard[number] == "/dev/null", "\(standard)") }
      for name in standard {
        #expect(!name.contains("socket:") && !name.contains("fuse") && !name.contains("anon"))
      }
    }

    @Test(arguments: combinations, [false, true])
    func daemonServes(_ closed: [Int], _ holds: Bool) throws {
      let scratch = try Scratch()
      mkdir("\(scratch.path)/mount", 0o755)
      let arguments = Daemon.arguments("\(scratch.path)/control", "\(scratch.path)/mount")
      let options = arguments + ["--channel", "relay:global"] + (holds ? ["--hold"] : [])
      let null = try FileDescriptor.open("/dev/null", O_RDWR)
      let daemon = try ChildProcess(
        [
          "bash", "-c", "exec \"$@\" \(closing(closed))", "bash", program("relayd"),
        ] + options, input: null.raw, output: null.raw, error: null.raw)
      defer { umount2("\(scratch.path)/mount", CInt(MNT_DETACH)) }
      let environment = ["RELAY_SOCKET": "\(scratch.path)/control"]
      let relayctl = program("relayctl")
      try eventually("it serves") {
        try run(relayctl, "list", environment: environment).status == 0
      }
      var processes = [daemon.pid]
      if holds {
        let pid = daemon.pid
        let children = try run("cat", "/proc/\(pid)/task/\(pid)/children").output
        processes += children.split(separator: " ").compactMap { Int32($0) }
        #expect(processes.count == 2)
      }
      for pid in processes { try expectPlaceHolders(pid, closed) }
      let copied = try run(
        ["bash", "-c", "seq 1000 | \(relayctl) write relay && \(relayctl) read relay"],
        environment: environment)
      #expect(copied.output == (1...1000).map { "\($0)\n" }.joined() && copied.error == "")
      daemon.signal(SIGTERM)
      #expect(daemon.wait() == 0)
    }

    @Test(arguments: combinations)
    func relayctlSaysWhatIsClosedAndHarmsNothing(_ closed: [Int]) throws {
      let daemon = try Daemon("relay:global")
      let redirections = closing(closed)
      func expect(_ command: String, needs number: Int, _ name: String) throws {
        let finished = try daemon.shell(command)
        #expect(finished.status == (closed.contains(number) ? 1 : 0), "\(command)")
        let says = closed.contains(number) && !closed.contains(2)
        #expect(finished.error == (says ? "relayctl: \(name) is closed\n" : ""))
      }
      try expect("$BIN/relayctl list \(redirections)", needs: 1, "standard output")
      try expect("$BIN/relayctl stat --json \(redirections)", needs: 1, "standard output")
      try expect(
        "echo one | { $BIN/relayctl write relay \(redirections); }", needs: 0, "standard input")
      try expect("$BIN/relayctl read relay \(redirections)", needs: 1, "standard output")
      try expect("$BIN/relayctl flush relay \(redirections)", needs: 3, "")
      // What is there is what was written and not read.
      let isThere = !closed.contains(0) && closed.contains(1)
      #expect(try daemon.relayctl("read", "relay").output == (isThere ? "one\n" : ""))
    }

    @Test(arguments: combinations)
    func followersDescriptorsAreNotTheStandardOnes(_ closed: [Int]) throws {
      let daemon = try Daemon("relay:global")
      let file = "\(daemon.scratch.path)/f"
      let follower = try ChildProcess(
        [
          "bash", "-c", "exec \"$@\" \(closing(closed))", "bash", program("relayctl"), "read",
          "relay", "--follow", "--output", file,
        ], environment: ["RELAY_SOCKET": daemon.socket])
      try daemon.write("one\n")
      try eventually("it arrives") { try run("cat", file).output == "one\n" }
      try expectPlaceHolders(follower.pid, closed)
      follower.signal(SIGTERM)
      #expect(follower.wait() == 128 + Int(SIGTERM))
      #expect(try run("cat", file).output == "one\n")
    }
  }
}
