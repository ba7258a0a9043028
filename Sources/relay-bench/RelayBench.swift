// SPDX-License-Identifier: Apache-2.0
// The command line: what is measured, how often, and the report's frame.

import ArgumentParser

@main
struct RelayBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "relay-bench",
    abstract: "Measures relay channels against peers in the same run.",
    discussion: """
      Writing: nanoseconds per record, against a bare memcpy into a ring and LTTng-UST. Reading: \
      throughput through relayfs, against a FUSE server that does nothing. Each round measures \
      every variant once, one after the other; the report gives medians and the spread. \
      `make bench` builds the peers and says where they are ($RELAY_PEERS).
      """)

  enum Part: String, ExpressibleByArgument, CaseIterable { case write, read }

  @Argument(help: "write or read; both if not given.") var part: Part?
  @Option(help: "Rounds; each measures everything once.") var rounds = 15
  @Option(help: "Bytes of a record in the read benchmark.") var recordSize = 256

  func validate() throws {
    guard rounds > 0 else { throw ValidationError("--rounds takes a number of 1 or more") }
    let limit = ReadBench.rings.map(\.subbufSize).min() ?? 0
    guard (1...limit).contains(recordSize) else {
      throw ValidationError("--record-size takes 1 to \(limit) bytes")
    }
  }

  func run() throws {
    let cpus = try Affinity.current()
    say("\(cpus.count) CPUs; median (min–max) of \(rounds) rounds, variants interleaved")
    if part != .read { try WriteBench(cpus: cpus, rounds: rounds).run() }
    if part != .write { try ReadBench(cpus: cpus, rounds: rounds, recordSize: recordSize).run() }
  }
}
