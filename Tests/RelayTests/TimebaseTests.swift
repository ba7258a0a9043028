// SPDX-License-Identifier: Apache-2.0
// From ticks to nanoseconds, by clocks that the tests wind.

import Testing

@testable import Relay

/// A counter of 2.5 GHz, and a clock that is steered and read with an error.
private final class Clocks {
  private(set) var ticks: UInt64 = 1_000_000_000
  private var nanoseconds = 5e9
  /// Nanoseconds per tick.
  var slope = 0.4
  /// Nanoseconds by which a reading of the clock can be too late.
  var error = 0
  private var random: UInt64 = 88_172_645_463_325_252

  /// xorshift64: the same numbers in each run.
  func number(below bound: UInt64) -> UInt64 {
    random ^= random << 13
    random ^= random >> 7
    random ^= random << 17
    return random % bound
  }

  func pass(_ ticks: UInt64) {
    self.ticks += ticks
    nanoseconds += Double(ticks) * slope
  }

  var now: UInt64 { UInt64(nanoseconds) }

  func sample() -> ClockSample {
    let late = error > 0 ? number(below: UInt64(error)) : 0
    return ClockSample(ticks: ticks, nanoseconds: now + late)
  }
}

extension Timebase {
  fileprivate mutating func time(of ticks: UInt64) -> UInt64 { segment(of: ticks).time(of: ticks) }
}

@Suite struct TimebaseTests {
  private let clocks = Clocks()

  private func timebase() -> Timebase {
    let clocks = clocks
    return Timebase { clocks.sample() }
  }

  @Test func ticksAreToldWithinAMicrosecond() {
    clocks.error = 100
    var timebase = timebase()
    timebase.begin(at: clocks.sample())
    var past: [(ticks: UInt64, nanoseconds: UInt64)] = []
    for _ in 0..<20_000 {
      clocks.pass(1 + clocks.number(below: 10_000))
      past.append((clocks.ticks, clocks.now))
      let written = past[past.count - 1 - Int(clocks.number(below: UInt64(past.count)))]
      let told = Int64(timebase.time(of: written.ticks))
      #expect(abs(told - Int64(written.nanoseconds)) < 1000)
    }
  }

  @Test func theOrderOfTicksIsTheOrderOfTimesWheneverTheyAreAsked() {
    clocks.error = 200
    var timebase = timebase()
    timebase.begin(at: clocks.sample())
    var told: [UInt64: UInt64] = [:]
    for _ in 0..<50_000 {
      // From some nanoseconds to a tenth of a second, and steered harder than anybody does.
      clocks.slope = 0.4 * (0.99 + Double(clocks.number(below: 21)) / 1000)
      clocks.pass(1 + clocks.number(below: 1 << clocks.number(below: 28)))
      let age = clocks.number(below: 1 << clocks.number(below: 32))
      let ticks = max(clocks.ticks - min(age, 1 << 30), 1_000_000_000)
      told[ticks] = timebase.time(of: ticks)
      #expect(timebase.time(of: ticks) == told[ticks])
      if timebase.segments.count > Timebase.limit - 2 { break }
    }
    #expect(told.count > 5000 && timebase.segments.count > 1000)
    let times = told.sorted { $0.key < $1.key }.map(\.value)
    #expect(zip(times, times.dropFirst()).allSatisfy { $0 <= $1 })
  }

  @Test func whatWasWrittenBeforeTheProcessBeganIsTold() {
    let base = clocks.sample()
    clocks.pass(100)
    let (ticks, nanoseconds) = (clocks.ticks, clocks.now)
    clocks.pass(10_000_000_000)
    var timebase = timebase()
    timebase.begin(at: clocks.sample())
    clocks.pass(1000)
    _ = timebase.time(of: clocks.ticks)
    // A channel that is adopted only now.
    timebase.begin(at: base)
    #expect(abs(Int64(timebase.time(of: ticks)) - Int64(nanoseconds)) <= 1)
    #expect(timebase.time(of: base.ticks) == base.nanoseconds)
  }

  @Test func whatIsRememberedIsBounded() {
    var timebase = timebase()
    for _ in 0..<3 * Timebase.limit {
      clocks.pass(50_000_000)
      #expect(abs(Int64(timebase.time(of: clocks.ticks)) - Int64(clocks.now)) <= 1)
      #expect(timebase.segments.count <= Timebase.limit)
    }
    let starts = timebase.segments.map(\.start)
    #expect(zip(timebase.segments, starts.dropFirst()).allSatisfy { $0.end == $1 })
    #expect(abs(Int64(timebase.time(of: 2_000_000_000)) - 5_400_000_000) < 10)
  }

  @Test(arguments: [
    ClockSample(ticks: 0, nanoseconds: 0), ClockSample(ticks: .max, nanoseconds: .max),
    ClockSample(ticks: 0, nanoseconds: .max), ClockSample(ticks: .max, nanoseconds: 0),
    ClockSample(ticks: 999_999_999, nanoseconds: 1),
  ])
  func anyBaseAndAnyTicksGiveSomeTime(_ base: ClockSample) {
    for begins in [true, false] {
      var timebase = timebase()
      if begins { timebase.begin(at: base) }
      for ticks in [0, 1, clocks.ticks, clocks.ticks + 1, .max] {
        // Not beyond where the line ends.
        #expect(timebase.time(of: ticks) <= clocks.now + 10_000_000)
      }
      if !begins { timebase.begin(at: base) }
      clocks.pass(100_000_000)
      #expect(timebase.time(of: clocks.ticks) == clocks.now)
      #expect(timebase.time(of: 0) <= timebase.time(of: clocks.ticks))
    }
  }
}
