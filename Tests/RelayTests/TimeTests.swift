// SPDX-License-Identifier: Apache-2.0
// Channels whose records carry their time, by each clock that this machine has.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite struct TimeTests {
  static let clocks: [RecordClock] = RecordClock.best == .tsc ? [.tsc, .monotonic] : [.monotonic]

  static func geometry(
    _ clock: RecordClock?, subbufSize: Int = 64, subbufCount: Int = 4, cpus: [Int] = [0],
    mode: ChannelMode = .discard
  ) throws -> Geometry {
    try Geometry(
      subbufSize: subbufSize, subbufCount: subbufCount, entryCount: nil, mode: mode,
      isGlobal: cpus.count == 1, clock: clock, cpus: cpus, slotCount: cpus.count)
  }

  /// CLOCK_MONOTONIC, give or take what the conversion may be wrong by.
  private static func now(_ allowance: Int = 0) -> UInt64 {
    UInt64(Int(ClockSample(of: .monotonic).nanoseconds) + allowance)
  }

  private static let allowance = 20_000

  @Test(arguments: clocks) func aTimeIsThatOfTheWrite(_ clock: RecordClock) throws {
    let channel = try Channel.open("test", TimeTests.geometry(clock))
    let reader = Reader(channel)
    for _ in 0..<20 {
      let before = TimeTests.now(-TimeTests.allowance)
      channel.write("abc")
      let after = TimeTests.now(TimeTests.allowance)
      let record = try #require(reader.record())
      #expect((before...after).contains(record.info.time))
      #expect(record.text == "abc")
    }
  }

  @Test func withoutTimestampsThereIsNoTimeAndNoPlaceForIt() throws {
    let geometry = try TimeTests.geometry(nil)
    #expect(!geometry.hasTimestamps && geometry.timeOffset == geometry.payloadOffset)
    let channel = try Channel.open("test", geometry)
    channel.write("abc")
    #expect(Reader(channel).record()?.info.time == 0)
  }

  @Test(arguments: clocks) func timeNeverRunsBackwardsWithinABuffer(_ clock: RecordClock) throws {
    let channel = try Channel.open(
      "test", TimeTests.geometry(clock, subbufSize: 4096, subbufCount: 200))
    let threads = (0..<4).map { _ in
      Thread { for _ in 0..<20_000 { channel.write("01234567") } }
    }
    for thread in threads { thread.join() }
    let buffer = channel.buffer
    // As they stand in the memory: a reader would hide it.
    var times: [UInt64] = []
    for subbuf in 0..<200 {
      for i in 0..<512 where buffer.loadEntry(buffer.index(subbuf), i).tag == .committed {
        times.append(buffer.time(subbuf, i))
      }
    }
    #expect(times.count == 80_000)
    #expect(zip(times, times.dropFirst()).allSatisfy { $0 <= $1 })
    #expect(times[0] > 0 && Set(times).count > 40_000)
  }

  private func write(_ number: UInt32, into buffer: ChannelBuffer) {
    guard
      case .reserved(let reservation) = buffer.reserve(
        4, owner: 1, wakeFD: -1, NoTestPoints.self)
    else { return }
    reservation.bytes.storeBytes(of: number, as: UInt32.self)
    reservation.commit()
  }

  @Test(arguments: clocks) func mergingByTimeGivesTheOrderThatALockGave(
    _ clock: RecordClock
  ) throws {
    let channel = try Channel.open(
      "test",
      TimeTests.geometry(clock, subbufSize: 1 << 16, subbufCount: 16, cpus: [0, 1]))
    let counter = Mutex(UInt32(0))
    let count: UInt32 = 30_000
    let threads = (0..<4).map { i in
      Thread {
        // Whatever CPU this runs on.
        let buffer = channel.buffers[i % 2]
        while true {
          let isOver = counter.withLock { number in
            guard number < count else { return true }
            write(number, into: buffer)
            number += 1
            return false
          }
          if isOver { return }
        }
      }
    }
    // Read meanwhile, each buffer at other moments than the others.
    var all: [(time: UInt64, number: UInt32)] = []
    let readers = channel.buffers.map { Reader(channel, $0) }
    while all.count < Int(count) {
      for reader in readers {
        while let record = reader.record() {
          all.append((record.info.time, record.bytes.loadLittleEndian()))
        }
      }
    }
    for thread in threads { thread.join() }
    all.sort { $0.time < $1.time }
    #expect(all.map(\.number) == Array(0..<count))
  }

  @Test(arguments: clocks, [UInt64(0), 1, 1 << 40, 1 << 63, .max])
  func whateverStandsInTheMemoryIsToldAsATimeThatIsOver(
    _ clock: RecordClock, _ value: UInt64
  ) throws {
    let channel = try Channel.open("test", TimeTests.geometry(clock))
    let reader = Reader(channel)
    var last: UInt64 = 0
    for i in 0..<6 {
      channel.write("0123456789")
      let time = channel.buffer.index(i / 6) + channel.buffer.layout.timeDistance + i
      if i % 2 == 1 { time.pointee.store(value, ordering: .relaxed) }
      let told = try #require(reader.record()).info.time
      #expect(told >= last && told <= TimeTests.now(TimeTests.allowance))
      last = told
    }
  }

  @Test(arguments: clocks) func whatIsGivenBackGetsTheSameTimeAgain(_ clock: RecordClock) throws {
    let channel = try Channel.open("test", TimeTests.geometry(clock))
    let reader = Reader(channel)
    for _ in 0..<3 { channel.write("ab") }
    #expect(reader.claim(limit: 100).byteCount == 6)
    let times = (0..<3).map { reader.recordTime(subbuf: 0, entry: $0) }
    reader.giveBack()
    #expect(times == times.sorted())
    #expect((0..<3).map { _ in reader.record()?.info.time } == times)
  }

  @Test(arguments: clocks) func theRestOfARecordHasItsTime(_ clock: RecordClock) throws {
    let channel = try Channel.open("test", TimeTests.geometry(clock))
    let reader = Reader(channel)
    channel.write("abcd")
    #expect(reader.claim(limit: 4).byteCount == 4)
    let time = reader.recordTime(subbuf: 0, entry: 0)
    reader.giveBack()
    #expect(reader.read(2) == "ab")
    let record = try #require(reader.record())
    #expect(record.text == "cd" && record.info.time == time && time > 0)
  }

  @Test(arguments: clocks) func channelsWithCallbacksHaveTimes(_ clock: RecordClock) throws {
    let channel = try Channel.open("test", TimeTests.geometry(clock, mode: .overwrite))
    let before = TimeTests.now(-TimeTests.allowance)
    let calling = CallbackBuffer(channel, channel.buffer) { _, _, _ in true }
    calling.begin()
    switch calling.reserve(3) {
    case .reserved(let reservation): reservation.commit()
    case .refused: Issue.record("refused")
    }
    let time = try #require(Reader(channel).record()).info.time
    #expect((before...TimeTests.now(TimeTests.allowance)).contains(time))
  }

  @Test(arguments: clocks) func whoAdoptsAChannelTellsItsTimes(_ clock: RecordClock) throws {
    let before = TimeTests.now(-TimeTests.allowance)
    let channel = try Channel.openShared("test", TimeTests.geometry(clock))
    let producer = try SharedTests.attach(channel)
    #expect(producer.geometry == channel.geometry && producer.geometry.clock == clock)
    producer.write("abc")
    let after = TimeTests.now(TimeTests.allowance)
    let files = channel.descriptors!
    let adopted = try Channel.adopt(
      "test", opener: SharedTests.copy(channel.openerDescriptor!),
      ring: SharedTests.copy(files.ring), bell: SharedTests.copyBell(channel))
    #expect(adopted.geometry.clock == clock)
    let time = try #require(Reader(adopted).record()).info.time
    #expect((before...after).contains(time))
    // As another process would, which knows nothing but what the page says.
    let base = LiveWords(page: adopted.page.base).clockBase
    #expect((before...after).contains(base.nanoseconds))
    guard clock == .tsc else { return }
    var timebase = Timebase()
    timebase.begin(at: base)
    let value = adopted.buffer.time(0, 0)
    #expect((before...after).contains(timebase.segment(of: value).time(of: value)))
  }

  @Test func clocksThatNobodyKnowsAreRefused() throws {
    let page = try Mapping.anonymous(count: Geometry.fileBytes)
    try TimeTests.geometry(.tsc).store(to: page.base)
    #expect(try Geometry(copyingUntrusted: page.base).clock == .tsc)
    // RELAY_ABI_GLOBAL, and TSC without TIMESTAMPS; or a flag of tomorrow.
    for flags in [2 | 8, 2 | 4 | 16] as [UInt32] {
      page.base.storeBytes(of: flags, toByteOffset: 12, as: UInt32.self)
      #expect(throws: GeometryError(description: "a damaged geometry")) {
        try Geometry(copyingUntrusted: page.base)
      }
    }
  }
}

extension [UInt8] {
  fileprivate func loadLittleEndian() -> UInt32 { reversed().reduce(0) { $0 << 8 | UInt32($1) } }
}
