// SPDX-License-Identifier: Apache-2.0
// Several CPUs, and CPUs that come and go: in a guest that has four of them (Tests/VM/with-cpus).

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.enabled(if: environment("RELAY_TEST_CPUS") == "4")) final class CPUTests {
    init() throws { try set(online: [1, 2, 3]) }

    /// Other suites want several, too.
    deinit { try? set(online: [1, 2, 3]) }

    /// Brings exactly these up, beside CPU 0, which stays.
    private func set(online cpus: Set<Int>) throws {
      for cpu in 1...3 {
        let path = "/sys/devices/system/cpu/cpu\(cpu)/online"
        let wanted = cpus.contains(cpu) ? "1" : "0"
        guard try run("cat", path).output.first.map(String.init) != wanted else { continue }
        let finished = try run("bash", "-c", "echo \(wanted) > \(path)")
        #expect(finished.status == 0, "\(finished.error)")
      }
    }

    private func write(_ text: String, on cpu: Int, _ daemon: Daemon) throws {
      let finished = try daemon.shell("echo \(text) | taskset -c \(cpu) $BIN/relayctl write relay")
      #expect(finished.status == 0, "\(finished.error)")
    }

    private func nodes() throws -> [String] {
      try run("bash", "-c", "cd /dev; ls -d relay[0-9]*").output.split(separator: "\n").map(
        String.init)
    }

    private func content(_ cpu: Int) throws -> String { try run("cat", "/dev/relay\(cpu)").output }

    @Test func eachCPUHasItsDevice() throws {
      let daemon = try Daemon("relay")
      for cpu in 0..<4 { try write("on-\(cpu)", on: cpu, daemon) }
      for cpu in 0..<4 { #expect(try content(cpu) == "on-\(cpu)\n") }
    }

    @Test func aCPUThatComesUpGetsItsNodeAndWritersFindIt() throws {
      try set(online: [3])
      let daemon = try Daemon("relay", "all:global")
      #expect(try nodes() == ["relay0", "relay3"], "sparse numbers")
      try write("before", on: 3, daemon)
      #expect(try content(3) == "before\n")
      // Attached before the CPU comes, and moved there afterwards.
      let pipe = try Pipe()
      let writer = try ChildProcess(
        [program("relayctl"), "write", "relay"], input: pipe.read.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      try eventually("it is attached") {
        try run("cat", "/proc/\(writer.pid)/maps").output.contains("memfd:relay:relay")
      }
      try set(online: [1, 3])
      try eventually("the node is there") { try nodes() == ["relay0", "relay1", "relay3"] }
      try eventually("it is said") { daemon.logText.contains("CPU 1 came up: /dev/relay1\n") }
      #expect(try run("taskset", "-a", "-p", "-c", "1", "\(writer.pid)").status == 0)
      #expect(Glibc.write(pipe.write.raw, "after\n", 6) == 6)
      try eventually("the record is in its CPU's buffer") { try content(1) == "after\n" }
      writer.signal(SIGTERM)
      _ = writer.wait()
      #expect(access("/dev/all0", F_OK) == 0 && access("/dev/all1", F_OK) != 0, "global stays so")
    }

    @Test func aCPUThatComesUpGetsItsMemoryPrefaulted() throws {
      try set(online: [])
      let daemon = try Daemon("relay:prefault,subbuf_size=64KiB")
      func resident() throws -> Int {
        try MemoryGroupTests.resident("relay", of: daemon.process.pid)
      }
      let one = try resident()
      #expect(one > 8 * 65536 * 9 / 8)
      try set(online: [1, 3])
      try eventually("the nodes are there") { try nodes() == ["relay0", "relay1", "relay3"] }
      #expect(try resident() == 3 * one)
    }

    @Test func onRelayfsItGetsItsFile() throws {
      try set(online: [])
      let scratch = try Scratch()
      let mount = "\(scratch.path)/mount"
      let daemon = try Daemon(
        "relay", options: ["--backend", "fuse", "--mount", mount], in: scratch)
      func files() throws -> [String] { try Files.names(in: mount).sorted() }
      #expect(try files() == ["relay0"])
      try set(online: [2])
      try eventually("the file is there") { try files() == ["relay0", "relay2"] }
      try write("new", on: 2, daemon)
      #expect(try run("cat", "\(mount)/relay2").output == "new\n")
      try set(online: [])
      #expect(try files() == ["relay0", "relay2"])
    }

    @Test func onRelayfsAFileOutlivesItsCPUAndAFollowerFindsNewOnes() throws {
      try set(online: [2])
      let scratch = try Scratch()
      let mount = "\(scratch.path)/mount"
      let daemon = try Daemon(
        "relay", options: ["--backend", "fuse", "--mount", mount], in: scratch)
      try write("left", on: 2, daemon)
      try set(online: [])
      #expect(try run("cat", "\(mount)/relay2").output == "left\n")
      let reader = try Follower(daemon)
      try set(online: [1, 2])
      try eventually("the file is there") { access("\(mount)/relay1", F_OK) == 0 }
      try write("new", on: 1, daemon)
      try eventually("it arrives") { reader.output == "new\n" }
      try write("back", on: 2, daemon)
      try eventually("it arrives, too") { reader.output == "new\nback\n" }
    }

    @Test func aCPUWhoseBufferIsOverALimitIsSaid() throws {
      try set(online: [3])
      // Enough for two buffers.
      let daemon = try Daemon(configuration: "max_memory = \"10MiB\"\n[channel.relay]\n")
      try set(online: [1, 3])
      try eventually("it is said: \(daemon.logText)") {
        daemon.logText.contains("CPU 1 came up, but: channel relay: it can take ")
      }
      #expect(daemon.logText.contains(", and max_memory is 10485760\n"))
      #expect(try nodes() == ["relay0", "relay3"])
      try write("on-1", on: 1, daemon)
      #expect(try content(0) == "on-1\n", "as on any CPU without a buffer")
    }

    @Test func aCPUThatGoesLeavesItsDataAndGetsItsBufferBack() throws {
      let daemon = try Daemon("relay")
      try write("one", on: 2, daemon)
      try set(online: [1, 3])
      #expect(try content(2) == "one\n")
      try set(online: [1, 2, 3])
      try write("two", on: 2, daemon)
      #expect(try content(2) == "two\n")
      #expect(try nodes() == ["relay0", "relay1", "relay2", "relay3"])
      #expect(try daemon.statistic("records_read") == 2)
    }

    @Test(arguments: try LibraryTests.hotplug.get())
    func aLibraryChannelGetsItsBuffer(_ test: String) throws {
      let library = try Library.get()
      let program = try library.program("hotplug", Library.c, "test.c", "hotplug.c")
      try set(online: [1])
      let bringUp = "echo 1 >/sys/devices/system/cpu/cpu3/online"
      let finished = try library.start(["env", "CPU=3", "BRING_UP=\(bringUp)", program, test])
      #expect(finished.status == 0, "\(finished.error)")
    }

    @Test func aFollowingReaderFindsTheNewCPU() throws {
      try set(online: [])
      let daemon = try Daemon("relay")
      let reader = try Follower(daemon)
      try set(online: [2])
      try eventually("the node is there") { try nodes() == ["relay0", "relay2"] }
      try write("new", on: 2, daemon)
      try eventually("it arrives") { reader.output == "new\n" }
    }

    /// Writers that go on until CPUs 1 to 3 went down and came up again 100 times; then all they
    /// wrote has arrived, once.
    @Test func aHundredHotplugCyclesUnderLoadLoseNothing() throws {
      let daemon = try Daemon("relay:subbuf_size=64KiB,n_subbufs=4")
      let cycles = """
        for i in $(seq 100); do
          cpu=/sys/devices/system/cpu/cpu$((i % 3 + 1))/online
          echo 0 > $cpu && echo 1 > $cpu && cycles=$((cycles + 1))
        done; echo $cycles > \(daemon.scratch.path)/cycled
        """
      let output = try daemon.load(
        writers: 4, blocks: 2000, blockSize: 256, devices: (0..<4).map { "/dev/relay\($0)" },
        meanwhile: cycles, until: "\(daemon.scratch.path)/cycled")
      #expect(try run("cat", "\(daemon.scratch.path)/cycled").output == "100\n")
      let lines = output.split(separator: "\n")
      #expect(lines.count > 4, "several rounds: \(output)")
      for line in lines { #expect(line.hasSuffix("blocks 2000 highest 1999"), "\(line)") }
      for loss in ["lost_full", "lost_overwritten", "aborted", "records_unread"] {
        #expect(try daemon.statistic(loss) == 0, "\(loss)")
      }
      #expect(try daemon.statistic("records_read") == lines.count * 2000)
    }

    @Test func manyReadersOfEveryCPUGetEachRecordOnce() throws {
      let daemon = try Daemon("relay:subbuf_size=16KiB,n_subbufs=4,read=block")
      // Eight blocking readers a device; each read is a few whole records.
      let finished = try daemon.shell(
        """
        cd \(daemon.scratch.path)
        for cpu in 0 1 2 3; do for r in 1 2 3 4 5 6 7 8; do
          dd if=/dev/relay$cpu of=out.$cpu.$r bs=64 status=none &
        done; done
        for w in 1 2 3 4; do
          seq -f "writer $w %054.0f" 0 1999 | $BIN/relayctl write relay &
          writers="$writers $!"
        done
        wait $writers
        """)
      #expect(finished.status == 0, "\(finished.error)")
      try eventually("all is read") { try daemon.statistic("records_unread") == 0 }
      daemon.end()
      let sorted = try run(
        "bash", "-c",
        "cd \(daemon.scratch.path); cat out.* | sort | uniq -c | awk '{print $1}' | sort | uniq -c")
      #expect(sorted.output.split(separator: " ") == ["8000", "1\n"], "\(sorted.output)")
    }
  }
}
