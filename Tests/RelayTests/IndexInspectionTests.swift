// SPDX-License-Identifier: Apache-2.0
// The look at a whole index: what it finds, wherever it is, and what it takes for sound.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite struct IndexInspectionTests {
  /// 2 buffers of 4 sub-buffers, each with an index of 1 MiB.
  private let channel: Channel

  init() throws {
    channel = try Channel.openShared(
      "inspected",
      try Geometry(
        subbufSize: 1 << 20, subbufCount: 4, online: CPUSet([0, 1]), possible: CPUSet([0, 1])))
  }

  /// Steps until there is something else to say.
  private func finish(_ inspection: inout IndexInspection) -> IndexInspection.Result {
    while true {
      let result = inspection.step()
      if result != .unfinished { return result }
    }
  }

  private func damage(
    owners: Set<UInt16> = [], confirming: Set<UInt16> = []
  ) -> IndexInspection.Result {
    var inspection = IndexInspection(channel, owners: owners)
    var result = finish(&inspection)
    while result == .suspect {
      result = inspection.confirm(owners: confirming)
      if result == .unfinished { result = finish(&inspection) }
    }
    return result
  }

  private static let wrong = IndexInspection.Result.damaged("its index holds what no writer wrote")

  @Test func emptyIndexIsSoundAndTakesNoMemory() {
    #expect(damage() == .sound)
    // The states are in the first pages.
    #expect(channel.residentBytes <= 2 * 4096)
  }

  @Test func fullIndexIsSound() throws {
    let producer = try SharedTests.attach(channel)
    for cpu in 0..<2 {
      for _ in 0..<150_000 {
        guard producer.buffer(cpu: cpu).append(8) else { break }
      }
    }
    #expect(damage() == .sound)
  }

  /// In pages that nobody has touched, and at the ends of what is read at once.
  @Test(arguments: [0, 1, 8191, 8192, 100_000, -1], [0, 3, 4, 7])
  func damageIsFoundWhereverItIs(_ entry: Int, _ place: Int) {
    let (buffer, subbuf) = (channel.buffer(cpu: place / 4), place % 4)
    let entry = entry < 0 ? buffer.layout.entryCount - 1 : entry
    (buffer.index(subbuf) + entry).set(7 << 61)
    #expect(damage() == Self.wrong)
    (buffer.index(subbuf) + entry).set(0)
    #expect(damage() == .sound)
  }

  /// Not of a process that attaches while the index is looked at.
  @Test func recordOfANewWriterIsNoDamage() throws {
    let producer = try SharedTests.attach(channel, owner: 9)
    let buffer = producer.buffer(cpu: 1)
    switch buffer.reserve(
      8, owner: 9, wakeFD: WakeTarget(descriptor: -1), NoTestPoints.self)
    {
    case .reserved(let record):
      #expect(damage(owners: [9]) == .sound)
      #expect(damage(confirming: [9]) == .sound)
      #expect(damage(confirming: [8]) == Self.wrong)
      record.commit()
      #expect(damage() == .sound)
    case .stopped: Issue.record("nothing was reserved")
    }
  }

  /// Each of which costs whoever confirms it a turn.
  @Test func manySuspectsAreDamage() {
    let index = channel.buffer(cpu: 0).index(0)
    for i in 0..<2000 { (index + i).set(7 << 61) }
    var inspection = IndexInspection(channel, owners: [])
    var confirmed = 0
    while true {
      guard finish(&inspection) == .suspect else {
        Issue.record("there is one more")
        return
      }
      // It becomes right before it is confirmed.
      (index + confirmed).set(0)
      confirmed += 1
      let result = inspection.confirm(owners: [])
      guard result == .unfinished else {
        #expect(result == .damaged("its index changes while it is checked"))
        break
      }
    }
    #expect(confirmed == 1001)
  }
}

extension SharedWord {
  // Releasing: as a writer's commit.
  fileprivate func set(_ value: UInt64) { pointee.store(value, ordering: .releasing) }
}

extension ChannelBuffer {
  /// Writes one record; false: refused.
  fileprivate func append(_ length: Int) -> Bool {
    switch reserve(length, owner: 5, wakeFD: WakeTarget(descriptor: -1), NoTestPoints.self) {
    case .reserved(let reservation):
      reservation.commit()
      return true
    case .stopped: return false
    }
  }
}
