// SPDX-License-Identifier: Apache-2.0
// Faults, with librelay in somebody else's program: what the program does itself is byte for byte
// what it does without librelay.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite(.onceIsEnough) struct ApplicationTests {
    static let channel = "relay:global,subbuf_size=4KiB,n_subbufs=64"

    private func lines(_ text: String, _ line: String) -> Int {
      text.split(separator: "\n").count { $0 == line }
    }

    @Test(arguments: 1...7)
    func standardDescriptorsAreClosed(_ mask: Int) throws {
      let daemons = try Daemons(Self.channel)
      let trace = try daemons.compare(["closed", "\(mask)"])
      #expect(trace.status == 3)
      // The last line of what was written to the ring's descriptor before is "number …".
      let read = try daemons.read()
      #expect(read.hasPrefix("one\nline 0 of many, which fill sub-buffers\n"))
      #expect(lines(read, "line 199 of many, which fill sub-buffers") == 1)
      #expect(try daemons.now.statistic("records_written") == 201)
    }

    enum Meanwhile: CaseIterable { case nothing, wakeUp, restart }

    @Test(arguments: ["detach", "fork", "child", "exit"], Meanwhile.allCases)
    func allNumbersAreReused(_ end: String, _ meanwhile: Meanwhile) throws {
      let daemons = try Daemons(
        Self.channel + (meanwhile == .wakeUp ? ",read=block" : ""), "mapped:global")
      var reader: ChildProcess?
      let output = try outputFile("output")
      let trace = try daemons.compare(
        ["reuse", end],
        rests: [
          {
            switch meanwhile {
            case .nothing: break
            case .restart: try daemons.replace()
            case .wakeUp:
              reader = try ChildProcess(["cat", daemons.now.device("relay0")], output: output.raw)
              try eventually("all is read") { lines(text(of: output.raw), "reused") == 7 }
              try eventually("the reader sleeps") {
                try run("cat", "/proc/\(reader!.pid)/stat").output.contains(") S ")
              }
            }
          }
        ])
      #expect(trace.status == 3)
      let children = end == "fork" || end == "child" ? 7 : 0
      guard meanwhile != .wakeUp else {
        try eventually("without a wake-up, too") {
          lines(text(of: output.raw), "again") == 7
            && lines(text(of: output.raw), "child") == children
        }
        reader!.signal(SIGKILL)
        _ = reader!.wait()
        return
      }
      let read = try daemons.read()
      let lost = try daemons.now.statistic("lost_restart")
      #expect(lines(read, "again") == 7 && lines(read, "child") == children, "\(read)")
      #expect(lost == (meanwhile == .restart ? 28 - lines(read, "rested") - 7 : 0))
    }

    /// A limit, and whether records arrive.
    static let limits: [(String, String, Bool)] = [
      ("as", "0", false), ("core", "0", true), ("cpu", "1", true), ("data", "0", true),
      ("fsize", "0", true), ("fsize", "1", true), ("locks", "0", true), ("memlock", "0", true),
      ("msgqueue", "0", true), ("nice", "0", true), ("nofile", "0", false),
      ("nofile", "4", false), ("nofile", "8", false), ("nofile", "64", true), ("nproc", "0", true),
      ("rss", "0", true),
      ("rtprio", "0", true), ("rttime", "0", true), ("sigpending", "0", true),
      ("stack", "0", true), ("stack", "16384", true),
    ]

    @Test(arguments: limits, ["early", "late"])
    func eachLimitIsSmall(_ limit: (name: String, value: String, arrives: Bool), _ when: String)
      throws
    {
      let daemons = try Daemons(Self.channel)
      let trace = try daemons.compare(
        ["limit", limit.name, limit.value, when], rests: [{ try daemons.replace() }])
      #expect(trace.status == 3)
      let read = try daemons.read()
      let count = lines(read, "line 199 of many, which fill sub-buffers")
      #expect(count == (limit.arrives ? 1 : 0), "\(limit) \(when)")
    }

    @Test(arguments: ["early", "late"])
    func noMemoryIsLeft(_ when: String) throws {
      let daemons = try Daemons(Self.channel, "mapped:global")
      let trace = try daemons.compare(
        ["exhausted", when], rests: [{ try daemons.replace() }])
      #expect(trace.status == 3)
    }

    @Test func childrenOfEachKind() throws {
      let daemons = try Daemons(Self.channel)
      let trace = try daemons.compare(["children"])
      #expect(trace.status == 3)
      let read = try daemons.read()
      for line in [
        "parent", "fork", "_Fork", "vfork", "clone", "clone, files", "clone, memory",
        "clone, no signal", "parent again",
      ] {
        #expect(lines(read, line) == 1, "\(line)")
      }
      #expect(try daemons.now.statistic("aborted") == 0)
    }

    @Test func chrootAndSetuid() throws {
      let daemons = try Daemons(Self.channel)
      let trace = try daemons.compare(["prisoner"], rests: [{ try daemons.replace() }])
      #expect(trace.status == 3)
      #expect(try daemons.read() == "", "it reaches no path")
    }

    enum Fate: CaseIterable { case stops, isKilled, ends, isGoneForAWhile, isHeld }

    @Test(arguments: Fate.allCases)
    func daemonComesAndGoes(_ fate: Fate) throws {
      let daemons = try Daemons(Self.channel, options: fate == .isHeld ? ["--hold"] : [])
      let rests: [() throws -> Void] =
        switch fate {
        case .stops: [{ try daemons.stop() }, { daemons.now.process.signal(SIGCONT) }]
        case .isKilled: [{ try daemons.replace() }]
        case .ends: [{ try daemons.replace(SIGTERM) }]
        case .isGoneForAWhile: [{ daemons.end(SIGKILL) }, { try daemons.start() }]
        case .isHeld:
          [{ try HeldDaemon(daemons.now).restart(SIGKILL) }]
        }
      let trace = try daemons.compare(["resting"], rests: rests)
      #expect(trace.status == 3)
      let read = try daemons.read().split(separator: "\n").count
      let lost = try daemons.now.statistic("lost_restart")
      // A child cannot attach while there is no relayd to answer, and is refused.
      let refused = fate == .stops || fate == .isGoneForAWhile ? 10 : 0
      #expect(read + lost == 3 * 201 + 10 - refused)
    }

    @Test func handlersJumpOut() throws {
      let daemons = try Daemons(Self.channel + ",mode=overwrite")
      let trace = try daemons.compare(["jumps"])
      #expect(trace.status == 3)
      // It has ended, and took nothing with it.
      try daemons.now.write("after\n")
      #expect(try daemons.read().hasSuffix("after\n"))
    }
  }
}
