// SPDX-License-Identifier: Apache-2.0
// Nanoseconds per record written through librelay.so, against another build of it: the judge of
// "not slower". Two runs of one benchmark differ by more than a change does, so that both libraries
// are measured in one run, each beside the other, and only the ratios of a round are compared.
//
// Both are loaded into this process rather than into one child each: the same loop calls them, on
// the same CPU, with nothing but a function's return between the end of one sample and the start of
// the next, where a hand-off between processes would add a sleep, a wake-up and a cold cache. They
// do not disturb each other: librelay has no threads, exports nothing but relay_*, and has its own
// Swift runtime inside. What is left are differences of place, which are evened out:
//   - each library is loaded twice, once before and once behind both copies of the other: at some
//     addresses the same code is 3 % slower than at others;
//   - own channels are opened anew in each round, twice, so that each library has each place in the
//     order once: one mapping of the four may cost half as much again as the others, by its pages;
//   - both libraries attach to the same daemon channel, so that they write to the same memory;
//   - a pass takes the median of many slices of a millisecond or less, of each copy in turn: a
//     drift of the machine's speed cancels, and a slice in which something else ran does not count;
//   - a library's number in a round is its best of the four: what disturbs only ever adds time;
//   - a row that misses its target is measured again, and judged by all its rounds.
// That it judges two copies of one library alike, and finds a slower one, is shown by
// Tests/Bench/smoke.

import LinuxIO

struct LibraryBench {
  static let subbufSize = WriteBench.subbufSize
  static let subbufCount = WriteBench.subbufCount
  static let recordSizes = WriteBench.recordSizes
  /// Records of a pass through each copy, and the most of a slice.
  static let recordCount = 250_000
  static let sliceCount = 50_000
  /// New over old: more is slower.
  static let target = 1.02
  /// How often a row that misses is measured again, for all rounds each time.
  static let repeats = 3

  let cpus: [Int]
  let effort: Effort
  /// The library that is judged, and the one it is compared with.
  let library: String
  let peer: String

  enum Home: String, CaseIterable { case own, daemon }
  enum Mode: String, CaseIterable { case overwrite, discard }
  enum Call: String, CaseIterable {
    case write
    case reserve = "reserve+commit"
    case timed = "write with time"

    var hasTimestamps: Bool { self == .timed }
  }

  /// One line of the report.
  private struct Case {
    let home: Home
    let mode: Mode
    let call: Call
    let bytes: Int
    var new = Samples()
    var old = Samples()

    /// Of each round, new to old.
    var ratios: Samples { new.ratios(to: old) }
    var isMissed: Bool { ratios.median > LibraryBench.target }

    var name: String { "librelay \(home) \(mode) \(call.rawValue) \(bytes) B" }
    var flags: UInt32 {
      (mode == .overwrite ? LoadedLibrary.Flag.overwrite : 0)
        | (call.hasTimestamps ? LoadedLibrary.Flag.timestamps : 0)
    }
    /// The daemon's channel of this kind.
    var channel: String { "\(mode)\(call.hasTimestamps ? "-times" : "")" }

    static let all = Home.allCases.flatMap { home in
      Mode.allCases.flatMap { mode in
        Call.allCases.flatMap { call in
          LibraryBench.recordSizes.map { Case(home: home, mode: mode, call: call, bytes: $0) }
        }
      }
    }
  }

  func run() throws -> [BenchRow] {
    say(
      """

      librelay.so, ns per record: \(library)
      against \(peer);
      one writer, \(Self.subbufCount) × \(Self.subbufSize >> 10) KiB per CPU
      """)
    let scratch = try Scratch()
    let copies = try [library, peer, peer, library].enumerated().map { index, path in
      try LoadedLibrary(path, copiedTo: "\(scratch.path)/\(index).so")
    }
    var cases = Case.all
    defer { try? Affinity.set(cpus) }
    // The daemon's threads take no time from the writer where there is another CPU.
    try Affinity.set([cpus[cpus.count > 1 ? 1 : 0]])
    let daemon = try BenchDaemon(
      scratch, channels: Self.channels.map(\.option),
      files: Self.channels.map { "\($0.name)\(cpus[0])" })
    try Affinity.set([cpus[0]])
    func measureRound(_ round: Int, of indices: [Int]) throws {
      for index in indices {
        let (newTime, oldTime) = try measure(cases[index], round, copies, daemon)
        guard round > 0 else { continue }
        cases[index].new.add(newTime)
        cases[index].old.add(oldTime)
      }
    }
    for round in effort.warmAndCounted { try measureRound(round, of: Array(cases.indices)) }
    for _ in 0..<Self.repeats {
      let missed = cases.indices.filter { cases[$0].isMissed }
      guard !missed.isEmpty else { break }
      say("  measured again, because they miss the target: \(missed.count) rows")
      for round in effort.counted { try measureRound(round, of: missed) }
    }
    return report(cases)
  }

  private static var channels: [(name: String, option: String)] {
    Mode.allCases.flatMap { mode in
      let sizes = "subbuf_size=\(subbufSize >> 10)KiB,n_subbufs=\(subbufCount),mode=\(mode)"
      return [
        ("\(mode)", "\(mode):\(sizes)"), ("\(mode)-times", "\(mode)-times:\(sizes),timestamps"),
      ]
    }
  }

  /// Nanoseconds per record in both libraries, from one round.
  private func measure(
    _ it: Case, _ round: Int, _ copies: [LoadedLibrary], _ daemon: BenchDaemon
  ) throws -> (new: Double, old: Double) {
    // By turns, the new library is at both ends of the order, or inside.
    let passes = try [0, 1].map { turn in
      try measure(
        it, (round + turn) % 2 == 0 ? [0, 1, 2, 3] : [1, 0, 3, 2], copies, daemon)
    }
    func best(_ indices: [Int]) -> Double {
      passes.flatMap { pass in indices.map { pass[$0] } }.min() ?? 0
    }
    return (best([0, 3]), best([1, 2]))
  }

  /// Nanoseconds per record in each copy. They are opened, and measured at first, in this order.
  private func measure(
    _ it: Case, _ order: [Int], _ copies: [LoadedLibrary], _ daemon: BenchDaemon
  ) throws -> [Double] {
    func open(_ library: LoadedLibrary) throws -> LoadedLibrary.Channel {
      switch it.home {
      case .own:
        try library.open(
          subbufSize: Self.subbufSize, subbufCount: Self.subbufCount, flags: it.flags)
      case .daemon: try library.attach(socket: daemon.socket, channel: it.channel)
      }
    }
    var channels: [Int: LoadedLibrary.Channel] = [:]
    defer { for (index, channel) in channels { copies[index].detach(channel) } }
    for index in order { channels[index] = try open(copies[index]) }
    func take(_ index: Int, _ record: UnsafeRawBufferPointer, _ count: Int) throws -> Double {
      guard let channel = channels[index] else { return 0 }
      return try time(it, copies[index], channel, record, count: count)
    }
    return try withRecord(it.bytes) { record in
      // Twice: then all memory was touched.
      let warm = effort.count(Self.fillCount(it.bytes))
      for index in order + order { _ = try take(index, record, warm) }
      let count = effort.count(Self.recordCount)
      let slice = min(count, Self.sliceCount, Self.fillCount(it.bytes))
      var times = copies.map { _ in Samples() }
      for turn in 0..<count / slice {
        for index in turn % 2 == 0 ? order : order.reversed() {
          times[index].add(try take(index, record, slice))
        }
      }
      return times.map(\.median)
    }
  }

  /// Records that fill a channel buffer but for a quarter, so that none is refused.
  private static func fillCount(_ bytes: Int) -> Int {
    subbufSize / bytes * (subbufCount * 3 / 4)
  }

  /// Nanoseconds per record of `count`. A channel that refuses when it is full is emptied before
  /// that, which is not timed.
  private func time(
    _ it: Case, _ library: LoadedLibrary, _ channel: LoadedLibrary.Channel,
    _ record: UnsafeRawBufferPointer, count: Int
  ) throws -> Double {
    if it.mode == .discard { try library.reset(channel) }
    let start = nowNanoseconds()
    let refused =
      it.call == .reserve
      ? library.reserve(count, record, channel) : library.write(count, record, channel)
    let elapsed = nowNanoseconds() - start
    guard refused == 0 else { throw BenchFailure("\(it.name): \(refused) records refused") }
    return Double(elapsed) / Double(count)
  }

  private func withRecord<Result>(
    _ bytes: Int, _ body: (UnsafeRawBufferPointer) throws -> Result
  ) rethrows -> Result {
    let record = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 64)
    record.initializeMemory(as: UInt8.self, repeating: 0x72)
    defer { record.deallocate() }
    return try body(UnsafeRawBufferPointer(record))
  }

  private func report(_ cases: [Case]) -> [BenchRow] {
    var table = Table([
      "channel", "mode", "call", "bytes", "new", "old", "new/old", "rounds", "target",
    ])
    var rows: [BenchRow] = []
    for it in cases {
      let row = BenchRow(
        name: it.name, value: it.new.median, unit: "ns",
        peer: .init(name: peer, value: it.old.median, ratio: it.ratios.median), better: .lower,
        target: Self.target, rounds: it.new.values.count)
      table.add([
        "\(it.home)", "\(it.mode)", it.call.rawValue, "\(it.bytes)", it.new.summary(1),
        it.old.summary(1), it.ratios.summary(3), "\(row.rounds)", row.verdict,
      ])
      rows.append(row)
    }
    table.show()
    let all = Samples(values: rows.compactMap { $0.peer?.ratio })
    let slower = rows.filter { $0.isMet == false }.count
    say("  ratios: \(all.summary(3)); \(slower) of \(rows.count) rows are slower")
    return rows
  }
}
