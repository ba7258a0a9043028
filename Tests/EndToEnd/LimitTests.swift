// SPDX-License-Identifier: Apache-2.0
// Every limit: what is over it is refused by name, and what is within goes on.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct LimitTests {
    @Test(.onceIsEnough) func channels() throws {
      let daemon = try Daemon(configuration: "max_channels = 2\n[channel.a]\nglobal = true\n")
      try daemon.require("create", "b", "--keep")
      let finished = try daemon.relayctl("create", "c")
      #expect(finished.status == 1)
      #expect(
        finished.error == "relayctl: channel c: max_channels is 2, and as many are open already\n")
      try daemon.require("close", "b")
      try daemon.require("create", "c")
    }

    @Test(
      .onceIsEnough,
      arguments: [
        (
          "max_producers = 1\n[channel.a]",
          "relayctl: max_producers is 1, and as many processes write already\n"
        ),
        (
          "[channel.a]\nmax_producers = 1",
          "relayctl: channel a: its max_producers is 1, and as many processes write into it "
            + "already\n"
        ),
      ])
    func producers(_ configuration: String, _ refusal: String) throws {
      let daemon = try Daemon(configuration: configuration)
      let pipe = try Pipe()
      let writer = try daemon.startWriter("a", pipe)
      let finished = try daemon.relayctl("write", "a")
      #expect(finished.status == 1)
      #expect(finished.error == refusal)
      // Not the end of the connection counts, but of the process.
      writer.signal(SIGKILL)
      _ = writer.wait()
      try eventually("its death is seen") { try daemon.relayctl("write", "a").status == 0 }
    }

    @Test(.onceIsEnough) func producersOfOneUser() throws {
      let daemon = try Daemon(
        configuration: "max_producers_per_user = 1\n[channel.a]\nglobal = true\nwriters = 4242\n")
      chmod(daemon.scratch.path, 0o755)
      func user(_ uid: Int) -> [String] {
        ["setpriv", "--reuid=\(uid)", "--regid=4242", "--clear-groups"]
      }
      let pipe = try Pipe()
      let writer = try ChildProcess(
        user(4001) + [program("relayctl"), "write", "a"], input: pipe.read.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      try eventually("it is attached") {
        try run("cat", "/proc/\(writer.pid)/maps").output.contains("memfd:relay:a")
      }
      let finished = try daemon.relayctl(["write", "a"], prefix: user(4001))
      #expect(finished.status == 1)
      #expect(
        finished.error == "relayctl: max_producers_per_user is 1, and as many processes of user "
          + "4001 write already\n")
      #expect(try daemon.relayctl(["write", "a"], prefix: user(4002)).status == 0)
      for _ in 0..<2 { #expect(try daemon.relayctl("write", "a").status == 0, "root") }
      writer.signal(SIGKILL)
      _ = writer.wait()
      try eventually("its death is seen") {
        try daemon.relayctl(["write", "a"], prefix: user(4001)).status == 0
      }
    }

    @Test func readers() throws {
      let daemon = try Daemon(
        configuration: "max_readers = 2\n[channel.a]\nglobal = true\n[channel.b]\nglobal = true\n")
      func refusals() -> Int {
        daemon.logText.components(separatedBy: "2 files are open already").count - 1
      }
      for _ in 1...2 {
        let first = try FileDescriptor.open(daemon.device("a0"), O_RDONLY)
        let second = try FileDescriptor.open(daemon.device("b0"), O_RDONLY)
        for _ in 0..<20 {
          #expect(open(daemon.device("a0"), O_RDONLY) == -1 && errno == EMFILE)
        }
        #expect((1...10).contains(refusals()), "in bounds: \(daemon.logText)")
        #expect(daemon.logText.contains("(max_readers)"))
        close(first.take())
        #expect(try run("cat", daemon.device("a0")).status == 0)
        close(second.take())
      }
    }

    @Test(.onceIsEnough) func memory() throws {
      let daemon = try Daemon(configuration: "max_memory = \"10MiB\"\n[channel.a]\nglobal = true\n")
      try daemon.require("create", "b", "--global", "--keep")
      let finished = try daemon.relayctl("create", "c", "--global")
      #expect(finished.status == 1)
      let reason =
        /channel c: it can take \d+ bytes, the other channels \d+, and max_memory is 10485760/
      #expect(finished.error.contains(reason), "\(finished.error)")
      // What is closed and still being read counts.
      do {
        let device = try FileDescriptor.open(daemon.device("b0"), O_RDONLY)
        try daemon.require("close", "b")
        #expect(try daemon.relayctl("create", "c", "--global").error.contains("max_memory"))
        #expect(device.raw >= 0)
      }
      try eventually("there is room") {
        try daemon.relayctl("create", "c", "--global").status == 0
      }
    }

    @Test(.onceIsEnough) func memoryOfTheConfiguredChannels() throws {
      let scratch = try Scratch()
      try run(
        "bash", "-c",
        "printf 'max_memory = \"1MiB\"\n[channel.a]\nglobal = true\n' > '\(scratch.path)/c.toml'")
      let finished = try run(
        program("relayd"), "--config", "\(scratch.path)/c.toml", "--backend", "fuse")
      #expect(finished.status == 64)
      #expect(finished.error.contains("c.toml:1: the channels can take "), "\(finished.error)")
      #expect(finished.error.contains("max_memory is 1048576; make them smaller, or raise it"))
    }

    @Test(.onceIsEnough) func memoryOfItsControlGroup() throws {
      guard let group = ControlGroup(bytes: 64 << 20) else { return }
      let daemon = try Daemon("relay:global", prefix: group.prefix)
      let finished = try daemon.relayctl("create", "big", "--subbuf-size", "32MiB", "--global")
      #expect(finished.status == 1)
      #expect(
        finished.error.contains("the control group's limit is \(64 << 20)"), "\(finished.error)")
      try daemon.require("create", "small", "--global")
      daemon.end()
    }

    @Test func descriptors() throws {
      let daemon = try Daemon("relay:global", prefix: ["prlimit", "--nofile=80"])
      var refusal: Finished?
      for i in 0..<20 where refusal == nil {
        let finished = try daemon.relayctl("create", "c\(i)_", "--global", "--keep")
        if finished.status != 0 { refusal = finished }
      }
      #expect(
        refusal?.error.contains(
          "its descriptors are too many: relayd may have 80, and keeps 32 for clients") == true,
        "\(refusal?.error ?? "none")")
      // Which are still there.
      try daemon.write("one\n")
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
    }

    @Test(.onceIsEnough) func descriptorsOfTheConfiguredChannels() throws {
      let scratch = try Scratch()
      mkdir("\(scratch.path)/mount", 0o755)
      let channels = (0..<100).flatMap { ["--channel", "c\($0)_:global"] }
      let finished = try run(
        ["prlimit", "--nofile=200", program("relayd")]
          + Daemon.arguments("\(scratch.path)/control", "\(scratch.path)/mount") + channels)
      #expect(finished.status == 1)
      #expect(finished.error.contains("raise that limit (LimitNOFILE= of its unit, or ulimit -n)"))
    }
  }
}
