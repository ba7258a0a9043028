// SPDX-License-Identifier: Apache-2.0
// The command line: what is measured, how often, and the report's frame.

import ArgumentParser
import Glibc

@main
struct RelayBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relay-bench",
    abstract: "Measures relay channels against peers in the same run.",
    discussion: """
      write: nanoseconds per record, against a bare memcpy into a ring and LTTng-UST. read: \
      throughput through relayfs, against a FUSE server that does nothing. --against: \
      nanoseconds per record through librelay.so, against another build of it. Each round \
      measures every variant once, one after the other; the report gives medians and the spread. \
      `make bench` builds the peers and says where they are ($RELAY_PEERS).

      --against is the judge of a change: slower is a row in which the median of the rounds' \
      ratios, new to old, is over \(LibraryBench.target). Chance alone has a row miss that now and \
      then: each that does is measured for as many rounds again, up to \(LibraryBench.repeats) \
      times, and judged by all its rounds.

      The rows are also written as JSON, a list of {name, value, unit, peer, peer_value, ratio, \
      better, target, rounds}. The target is a bound of the ratio where there is a peer, and else \
      of the value; what there is not is null.
      """)

  enum Part: String, ExpressibleByArgument, CaseIterable { case write, read }

  @Argument(
    help: "write, read, or both. Both if not given, unless --against is: then that alone.")
  var parts: [Part] = []
  @Option(help: "Another librelay.so, with which the one under test is compared.")
  var against: String?
  @Option(help: "The librelay.so under test; default: the one beside this program.")
  var library: String?
  @Option(help: "Rounds; each measures everything once.") var rounds = 15
  @Option(help: "Bytes of a record in the read benchmark.") var recordSize = 256
  @Flag(help: "Samples of a hundredth: shows that everything works, not how fast it is.")
  var quick = false
  @Option(
    help: """
      Where to write the rows as JSON. Default: \(RelayBench.buildDirectory)/bench.json where \
      there is a \(RelayBench.buildDirectory) here; else nowhere.
      """)
  var json: String?

  private static let buildDirectory = ".build"

  func validate() throws {
    guard rounds > 0 else { throw ValidationError("--rounds takes a number of 1 or more") }
    let limit = ReadBench.rings.map(\.subbufSize).min() ?? 0
    guard (1...limit).contains(recordSize) else {
      throw ValidationError("--record-size takes 1 to \(limit) bytes")
    }
    guard library == nil || against != nil else {
      throw ValidationError("--library is compared with something: add --against")
    }
  }

  func run() throws {
    let cpus = try Affinity.current()
    let effort = Effort(rounds: rounds, share: quick ? 0.01 : 1)
    let parts = parts.isEmpty && against == nil ? Part.allCases : parts
    say("\(cpus.count) CPUs; median (min–max) of \(rounds) rounds, variants interleaved")
    var rows: [BenchRow] = []
    if parts.contains(.write) { rows += try WriteBench(cpus: cpus, effort: effort).run() }
    if parts.contains(.read) {
      rows += try ReadBench(cpus: cpus, effort: effort, recordSize: recordSize).run()
    }
    if let against {
      let library = try library ?? Programs.sibling("librelay.so")
      rows += try LibraryBench(cpus: cpus, effort: effort, library: library, peer: against).run()
    }
    if let file = json ?? defaultJSON {
      try BenchRow.write(rows, to: file)
      say("\n\(rows.count) rows as JSON: \(file)")
    }
  }

  private var defaultJSON: String? {
    access(Self.buildDirectory, W_OK) == 0 ? "\(Self.buildDirectory)/bench.json" : nil
  }
}
