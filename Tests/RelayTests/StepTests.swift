// SPDX-License-Identifier: Apache-2.0
// A writer stopped between any two steps, resumed or killed there, while others write and read:
// nothing is lost, doubled, torn or blocked but the record it was writing.

import Synchronization
import Testing

@testable import Relay

@Suite(.serialized) struct StepTests {
  struct Case: Sendable, CustomStringConvertible {
    let point: TestPoint
    let mode: ChannelMode
    let isKilled: Bool
    /// Records before the stopped one: decides how far from a switch it is.
    let before: Int
    /// Records the others write meanwhile.
    let meanwhile: Int
    var description: String {
      "\(point) \(mode) killed:\(isKilled) before:\(before) meanwhile:\(meanwhile)"
    }
  }

  static let cases: [Case] = {
    var cases: [Case] = []
    for point in TestPoint.allCases {
      for mode in ChannelMode.allCases {
        for isKilled in [false, true] {
          for before in [0, 1, 2, 4] {
            for meanwhile in [0, 1, 2, 5, 9, 30] {
              cases.append(
                Case(
                  point: point, mode: mode, isKilled: isKilled, before: before,
                  meanwhile: meanwhile))
            }
          }
        }
      }
    }
    return cases
  }()

  @Test func aStoppedWriterCostsAtMostItsOwnRecord() throws {
    var reached: Set<TestPoint> = []
    for c in StepTests.cases { if try check(c) { reached.insert(c.point) } }
    // gaveBack needs a lost race for `current`: the next test.
    #expect(reached == Set(TestPoint.allCases).subtracting([.gaveBack]))
  }

  /// Records are one letter each: lower case from others, "X" from the stopped writer.
  private func check(_ c: Case) throws -> Bool {
    let channel = try makeChannel(subbufSize: 2, subbufCount: 5, mode: c.mode)
    let reader = Reader(channel)
    let buffer = channel.buffer
    var written = ""
    var output = ""
    var isHit = false

    func others(_ count: Int) {
      for _ in 0..<count {
        let letter = String(UnicodeScalar(UInt8(97 + written.count % 26)))
        let result = buffer.writeStepped(letter, owner: 2)
        if result == true {
          written += letter
        } else {
          #expect(c.mode == .discard && result == false, "\(c)")
        }
        if c.mode == .discard { output += reader.drain() }
      }
    }
    others(c.before)
    Steps.handler = { point in
      guard point == c.point, !isHit else { return true }
      isHit = true
      others(c.meanwhile)
      return !c.isKilled
    }
    let result = buffer.writeStepped("X", owner: 1)
    Steps.handler = nil
    #expect((result == nil) == (c.isKilled && isHit), "\(c)")
    if result == nil {
      channel.sweep(owner: 1)
    }
    others(3)
    output += reader.drain()
    let s = reader.statistics()
    let others = output.filter { $0 != "X" }
    let gone = Int(s.lostOverwritten)
    if c.mode == .discard {
      #expect(others == written, "\(c)")
      #expect(gone == 0, "\(c)")
    } else {
      #expect(isSubsequence(others, of: written), "\(c)")
      #expect(output.count + gone == Int(s.recordsWritten), "\(c)")
    }
    let own = Int(s.recordsWritten) - written.count
    #expect(own == (result == true ? 1 : own == 1 && c.point == .committed ? 1 : 0), "\(c)")
    #expect(s.recordsUnread == 0, "\(c)")
    #expect(s.corrupt == 0, "\(c)")
    // A fresh writer gets through everything once more.
    for _ in 0..<20 {
      #expect(channel.write("z") == .written, "\(c)")
      #expect(reader.drain() == "z", "\(c)")
    }
    return isHit
  }

  private func isSubsequence(_ part: String, of whole: String) -> Bool {
    var rest = Substring(whole)
    for letter in part {
      guard let i = rest.firstIndex(of: letter) else { return false }
      rest = rest[rest.index(after: i)...]
    }
    return true
  }

  @Test(arguments: ChannelMode.allCases, [false, true])
  func aLostRaceForCurrentGivesTheClaimBack(_ mode: ChannelMode, _ isKilled: Bool) throws {
    let channel = try makeChannel(subbufSize: 2, subbufCount: 4, mode: mode)
    let reader = Reader(channel)
    #expect(channel.buffer.writeStepped("ab", owner: 2) == true)
    var points: [TestPoint] = []
    Steps.handler = { point in
      points.append(point)
      if point == .claimed, points.filter({ $0 == .claimed }).count == 1 {
        #expect(channel.buffer.writeStepped("cd", owner: 2) == true)
      }
      if point == .gaveBack {
        #expect(channel.buffer.loadState(1) == SubbufState(.free, seq: 2))
      }
      return !(isKilled && point == .gaveBack)
    }
    let result = channel.buffer.writeStepped("XX", owner: 1)
    Steps.handler = nil
    #expect(points.contains(.gaveBack))
    #expect(result == (isKilled ? nil : true))
    #expect(reader.drain() == (isKilled ? "abcd" : "abcdXX"))
    for _ in 0..<20 { #expect(channel.write("yz") == .written && reader.drain() == "yz") }
  }

  @Test func whatAStoppedWriterChoseDoesNotComeAgain() throws {
    let channel = try makeChannel(subbufSize: 2, subbufCount: 2)
    let reader = Reader(channel)
    let buffer = channel.buffer
    // A writer is about to claim sub-buffer 0, for the first seq, and stops.
    let seen = buffer.loadState(0)
    #expect(buffer.writeStepped("ab", owner: 2) == true)
    #expect(buffer.writeStepped("cd", owner: 2) == true)
    #expect(reader.drain() == "abcd")
    Steps.handler = { $0 != .claimed }
    #expect(buffer.writeStepped("XX", owner: 3) == nil)
    Steps.handler = nil
    channel.sweep(owner: 3)
    #expect(!buffer.exchangeState(0, seen, SubbufState(.claimed, seq: 1, owner: 1)))
  }

  @Test func aSwitchWakesAWriterThatFoundNothingFree() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 2)
    let buffer = channel.buffer
    func wishes() -> UInt64 { buffer.spaceWaiters.pointee.load(ordering: .relaxed) }
    #expect(channel.write("abcd") == .written)
    let record: StaticString = "gh"
    var waiter: Thread<WriteResult>?
    Steps.handler = { point in
      guard point == .claimed else { return true }
      // The only free sub-buffer is claimed, and not current yet.
      waiter = Thread {
        channel.writer().write(
          UnsafeRawBufferPointer(start: record.utf8Start, count: 2), waitingMilliseconds: 60_000)
      }
      while wishes() == 0 {}
      return true
    }
    #expect(buffer.writeStepped("ef", owner: 2) == true)
    Steps.handler = nil
    #expect(wishes() == 0)
    #expect(waiter?.join() == .written)
    #expect(["abcdefgh", "abcdghef"].contains(Reader(channel).drain()))
  }

  @Test func theLapComingRoundClearsOldEntries() throws {
    let channel = try makeChannel(subbufSize: 2, subbufCount: 2)
    let buffer = channel.buffer
    // As if 2^35 - 2 sub-buffers had passed: the next laps look like the first ones.
    let seq = UInt64(1) << Entry.lapBits - 2
    channel.write("ab")
    channel.write("cd")
    let reader = Reader(channel)
    #expect(reader.drain() == "abcd")
    buffer.stateWord(0).pointee.store(SubbufState(.free, seq: 1).raw, ordering: .relaxed)
    buffer.stateWord(1).pointee.store(SubbufState(.open, seq: seq).raw, ordering: .relaxed)
    buffer.currentWord.pointee.store(Current(seq: seq, subbuf: 1).raw, ordering: .relaxed)
    reader.position = Reader.Position(seq: seq, subbuf: 1)
    for i in 0..<50 {
      let record = String(i + 10)
      #expect(channel.write(record) == .written)
      #expect(reader.drain() == record)
    }
  }
}
