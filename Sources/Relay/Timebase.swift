// SPDX-License-Identifier: Apache-2.0
// From the time stamp counter to CLOCK_MONOTONIC: one function for the whole process, so that what
// comes from different buffers can be merged. Which times are believed is in RecordTime.swift.

internal import CRelayABI
internal import Synchronization

/// What two clocks said in the same moment.
struct ClockSample: Equatable {
  /// Of the records' clock.
  var ticks: UInt64
  /// Of CLOCK_MONOTONIC.
  var nanoseconds: UInt64

  init(ticks: UInt64, nanoseconds: UInt64) {
    self.ticks = ticks
    self.nanoseconds = nanoseconds
  }

  /// Now. The best of a few: an interruption between the two readings makes them differ.
  init(of clock: RecordClock) {
    guard clock == .tsc else {
      let now = crelay_monotonic()
      self.init(ticks: now, nanoseconds: now)
      return
    }
    self.init(ticks: 0, nanoseconds: 0)
    var best = UInt64.max
    for _ in 0..<5 {
      let before = relay_tsc()
      let now = crelay_monotonic()
      let took = relay_tsc() &- before
      guard took < best else { continue }
      best = took
      self = ClockSample(ticks: before &+ took / 2, nanoseconds: now)
    }
  }
}

/// A growing line of segments from ticks to nanoseconds, which never falls.
///
/// What was said of a tick once is said of it for as long as it is remembered: between two records
/// of any two buffers, the order of their ticks is the order of their times. So the line cannot be
/// laid through the newest sample whenever there is one: beyond its last sample it goes on straight
/// for a bounded stretch, is extended only at the end of that, and meets the next sample then.
struct Timebase {
  /// One piece of the line: ticks `start ..< end`.
  struct Segment: Equatable {
    var start: UInt64 = 0
    var end: UInt64 = 0
    /// At `start`, in nanoseconds.
    var time: UInt64 = 0
    /// Nanoseconds per tick.
    var slope = 0.0

    func contains(_ ticks: UInt64) -> Bool { ticks >= start && ticks < end }

    /// Ticks beyond its ends are taken for those.
    func time(of ticks: UInt64) -> UInt64 {
      let distance = min(max(ticks, start), end) - start
      // Rounding keeps the order; the bound is for samples that nobody took.
      return time &+ UInt64(min(Double(distance) * slope, Timebase.longest))
    }
  }

  /// Nearly 300 years.
  private static let longest = 0x1p63
  /// How far the line goes straight on, once it is as long, in nanoseconds. CLOCK_MONOTONIC is
  /// steered meanwhile: by 500 ppm, as hard as NTP does, that is five microseconds.
  private static let stretch: UInt64 = 10_000_000
  /// Segments remembered: over a minute of reading without a pause, and any length of time with
  /// pauses. Of two older ones each, one is made then.
  static let limit = 16384

  private(set) var segments: [Segment] = []
  private var sample = { ClockSample(of: .tsc) }
  /// The sample that slopes are taken from.
  private var anchor = ClockSample(ticks: 0, nanoseconds: 0)

  init() {}

  /// - Parameter sample: stands in for the clocks.
  init(sample: @escaping () -> ClockSample) { self.sample = sample }

  /// Makes the line begin no later than `base`, if it can be believed.
  mutating func begin(at base: ClockSample) {
    guard let first = segments.first else {
      let now = sample()
      let isPast = base.ticks < now.ticks && base.nanoseconds < now.nanoseconds
      let start = isPast ? base : now
      anchor = start
      // Nothing is known of the slope yet: the first record makes it known.
      segments.append(Segment(start: start.ticks, end: start.ticks, time: start.nanoseconds))
      return
    }
    guard base.ticks < first.start, base.nanoseconds < first.time else { return }
    let ticks = Double(first.start - base.ticks)
    let slope = Double(first.time - base.nanoseconds) / ticks
    segments.insert(
      Segment(start: base.ticks, end: first.start, time: base.nanoseconds, slope: slope), at: 0)
  }

  /// The piece of the line that a tick is on; the first one for those before it, the last one for
  /// those that have not come yet.
  mutating func segment(of ticks: UInt64) -> Segment {
    if segments.isEmpty { begin(at: sample()) }
    if ticks >= segments.last!.end { extend() }
    // The last one that starts at it or before.
    var low = 0
    var high = segments.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if segments[middle].start <= ticks { low = middle } else { high = middle }
    }
    return segments[low]
  }

  /// From the end of the line to now, and a stretch beyond.
  private mutating func extend() {
    let last = segments.last!
    let now = sample()
    guard now.ticks > last.end else { return }
    let start = last.time(of: last.end)
    let end = max(start, now.nanoseconds)
    let slope = Double(end - start) / Double(now.ticks - last.end)
    let past = Segment(start: last.end, end: now.ticks, time: start, slope: slope)
    // From far enough away to be exact.
    let distance = now.ticks &- anchor.ticks
    let elapsed = now.nanoseconds.less(anchor.nanoseconds)
    let ahead = distance > 0 ? Double(elapsed) / Double(distance) : 0
    // No further than what the slope is known from, so that its error does not grow.
    let length = elapsed < Timebase.stretch ? distance : UInt64(Double(Timebase.stretch) / ahead)
    if elapsed >= Timebase.stretch { anchor = now }
    segments.append(past)
    segments.append(
      Segment(
        start: now.ticks, end: now.ticks &+ length, time: past.time(of: now.ticks), slope: ahead))
    if segments.count > Timebase.limit { thin() }
  }

  /// Makes one segment out of each two of the older half.
  private mutating func thin() {
    let half = segments.count / 4 * 2
    let merged = stride(from: 0, to: half, by: 2).map { i in
      var both = segments[i]
      both.end = segments[i + 1].end
      let end = segments[i + 1].time(of: both.end)
      let length = both.end - both.start
      both.slope = length > 0 ? Double(end - both.time) / Double(length) : 0
      return both
    }
    segments.replaceSubrange(..<half, with: merged)
  }

  /// The one of this process.
  static let shared = Mutex(Timebase())
}
