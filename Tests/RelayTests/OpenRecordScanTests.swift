// SPDX-License-Identifier: Apache-2.0
// Looks for open records that the budget ends inside a sub-buffer: none is missed, none is counted
// twice, and none of another lap is among them.

import LinuxIO
import Testing

@testable import Relay

@Suite struct OpenRecordScanTests {
  private static let leaver: UInt16 = 5
  private static let other: UInt16 = 6
  private static let budget = 100

  private let channel: Channel
  private var buffer: ChannelBuffer { channel.buffers[0] }

  init() throws {
    channel = try Channel.openShared(
      "scan",
      Geometry(
        subbufSize: 64 << 10, subbufCount: 4, isGlobal: true, online: CPUSet([0]),
        possible: CPUSet([0])))
  }

  /// A record of 16 bytes; one of `leaver` is left open.
  private func write(_ owner: UInt16) throws {
    switch buffer.reserve(
      16, owner: owner, wakeFD: WakeTarget(descriptor: -1), NoTestPoints.self)
    {
    case .reserved(let reservation): if owner != Self.leaver { reservation.commit() }
    case .stopped(let stop): throw SystemError(code: 1, operation: "reserve: \(stop)")
    }
  }

  /// Every third record of one sub-buffer is left open.
  private func fill(_ count: Int) throws {
    for i in 0..<count { try write(i % 3 == 1 ? Self.leaver : Self.other) }
  }

  /// What one look takes.
  private func look(_ scan: OpenRecordScan, _ budget: Int = OpenRecordScanTests.budget) -> Int {
    var left = budget
    scan.look(budget: &left)
    return budget - left
  }

  @Test func lookEndsAtTheBudgetAndTheNextGoesOnThere() throws {
    try fill(1000)
    let whole = OpenRecordScan(channel)
    _ = look(whole, 1 << 20)
    let expected = [Self.leaver: [0: HeldSubbufs(records: 333, subbufs: 1)]]
    #expect(whole.held == expected)
    let scan = OpenRecordScan(channel)
    var looks = 0
    while scan.held.isEmpty, looks < 100 {
      #expect(look(scan) <= Self.budget + 8)
      looks += 1
    }
    #expect((10...12).contains(looks))
    #expect(scan.held == expected)
    #expect(scan.oldest(of: Self.leaver) == whole.oldest(of: Self.leaver))
    // However often it goes on, and starts anew.
    for _ in 0..<50 {
      #expect(look(scan) <= Self.budget + 8)
      #expect(scan.held == expected)
    }
  }

  @Test func recordsThatComeMeanwhileAreFound() throws {
    try fill(300)
    let scan = OpenRecordScan(channel)
    _ = look(scan)
    try fill(300)
    for _ in 0..<10 { _ = look(scan) }
    #expect(scan.held == [Self.leaver: [0: HeldSubbufs(records: 200, subbufs: 1)]])
  }

  @Test func partOfAnEarlierLapIsDropped() throws {
    for _ in 0..<1000 { try write(Self.other) }
    let scan = OpenRecordScan(channel)
    _ = look(scan)
    // Round to the same sub-buffer, in which another process leaves one record open.
    let reader = Reader(channel, buffer)
    let seq = buffer.loadCurrent().seq
    while buffer.loadCurrent().seq < seq + 4 {
      try write(Self.other)
      _ = reader.drain()
    }
    try write(Self.leaver)
    for _ in 0..<200 { _ = look(scan) }
    #expect(scan.held == [Self.leaver: [0: HeldSubbufs(records: 1, subbufs: 1)]])
  }

  @Test func recordsThatAreEndedAreGoneAfterTheNextLap() throws {
    try fill(1000)
    let scan = OpenRecordScan(channel)
    while scan.held.isEmpty { _ = look(scan) }
    #expect(channel.sweep(owner: Self.leaver) == 333)
    for _ in 0..<50 { _ = look(scan) }
    #expect(scan.held.isEmpty)
  }
}
