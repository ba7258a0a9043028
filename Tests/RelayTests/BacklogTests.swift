// SPDX-License-Identifier: Apache-2.0
// The backlog high-water mark: the most sub-buffers that waited for their reader at one moment.

import Testing

@testable import Relay

@Suite struct BacklogTests {
  private func fill(_ channel: Channel, _ count: Int) {
    for _ in 0..<count { #expect(channel.write("abcd") == .written) }
  }

  @Test func theMostThatWaitedIsNotedBeforeItIsRead() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 8)
    let reader = Reader(channel)
    #expect(reader.statistics().backlogMax == 0)
    fill(channel, 1)
    #expect(reader.statistics().backlogMax == 0, "writers are still in it")
    // Nobody asks while five wait: only the reader can have noted it.
    fill(channel, 5)
    #expect(reader.drain().count == 24)
    #expect(reader.statistics().backlogMax == 5)
    for _ in 0..<10 {
      fill(channel, 3)
      #expect(reader.drain().count == 12)
    }
    #expect(reader.statistics().backlogMax == 5, "what was read in between does not add up")
    fill(channel, 7)
    #expect(reader.statistics().backlogMax == 7, "what waits now counts, too")
    #expect(channel.write("e") == .full && reader.statistics().backlogMax == 8)
  }

  @Test(arguments: [1, 2, 3, 4, 5, 7, 100])
  func howItIsReadMakesNoDifference(_ limit: Int) throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 8)
    let reader = Reader(channel)
    fill(channel, 6)
    #expect(reader.drain(limit).count == 24)
    #expect(reader.statistics().backlogMax == 5)
    fill(channel, 4)
    #expect(reader.drain(limit).count == 16)
    #expect(reader.statistics().backlogMax == 5)
    fill(channel, 7)
    #expect(reader.drain(limit).count == 28)
    #expect(reader.statistics().backlogMax == 7)
  }

  @Test func readingRecordsNotesItToo() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 8)
    let reader = Reader(channel)
    fill(channel, 5)
    var bytes = [UInt8](repeating: 0, count: 4)
    for _ in 0..<5 {
      guard case .record = bytes.withUnsafeMutableBytes({ reader.readRecord(into: $0) }) else {
        Issue.record("no record")
        return
      }
    }
    fill(channel, 2)
    #expect(reader.statistics().backlogMax == 4)
  }

  @Test func aSubbufferIsPassedByTheReadThatGoesOnBehindIt() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 8)
    let reader = Reader(channel)
    for text in ["ab", "cd", "ef", "gh"] { channel.write(text) }
    #expect(reader.read(2) == "ab")
    fill(channel, 1)
    #expect(reader.read(2) == "cd")
    #expect(reader.statistics().backlogMax == 2)
    #expect(reader.read(2) == "ef")
    fill(channel, 1)
    #expect(reader.statistics().backlogMax == 2)
    fill(channel, 1)
    #expect(reader.statistics().backlogMax == 3)
  }

  @Test func aFullBufferIsItsOwnMark() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3)
    let reader = Reader(channel)
    fill(channel, 3)
    #expect(reader.statistics().backlogMax == 2, "there was room in the last one")
    #expect(channel.write("e") == .full)
    #expect(channel.buffer.isFull && reader.statistics().backlogMax == 3)
    #expect(reader.read(8) == "abcdabcd")
    #expect(reader.drain() == "abcd")
    fill(channel, 1)
    #expect(reader.statistics().backlogMax == 3)
  }

  @Test func overwritingLeavesItAtWhatTheBufferHas() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3, mode: .overwrite)
    let reader = Reader(channel)
    fill(channel, 3)
    #expect(reader.statistics().backlogMax == 2 && !channel.buffer.hasFreeSubbuf)
    fill(channel, 20)
    #expect(reader.drain().count == 12)
    let s = reader.statistics()
    #expect(s.backlogMax == 3 && s.lostOverwritten == 20)
    reader.reset()
    fill(channel, 2)
    #expect(reader.drain().count == 8)
    #expect(reader.statistics().backlogMax == 1, "what was overwritten does not come again")
  }

  @Test func aResetForgetsIt() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 3)
    let reader = Reader(channel)
    for count in [3, 2, 1] {
      fill(channel, count)
      if count == 3 { #expect(channel.write("e") == .full) }
      #expect(reader.statistics().backlogMax == [0, 0, 1, 3][count])
      reader.reset()
      #expect(reader.statistics() == Statistics())
    }
  }

  /// It stays the current one while stopped writers hold the others.
  @Test func aResetForgetsItWhereThereIsNoOtherSubbuffer() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 2)
    let reader = Reader(channel)
    guard case .reserved(let reservation) = channel.writer().reserve(4) else {
      Issue.record("no space")
      return
    }
    fill(channel, 1)
    reader.reset()
    #expect(reader.statistics().backlogMax == 0)
    reservation.commit()
    #expect(reader.drain() == "", "what was reset")
    #expect(reader.statistics().backlogMax == 0)
    fill(channel, 1)
    #expect(reader.drain() == "abcd")
  }

  @Test func whatIsLentWaitsUntilItIsTakenBack() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 8)
    let reader = Reader(channel)
    fill(channel, 4)
    for _ in 0..<3 { #expect(reader.lend(unfinished: false) != nil) }
    fill(channel, 2)
    reader.takeBack(consumed: 3)
    fill(channel, 1)
    #expect(reader.statistics().backlogMax == 5)
  }

  @Test func consumingUnreadSubbuffersNotesIt() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 8)
    let reader = Reader(channel)
    fill(channel, 5)
    reader.consumeSubbufs(4)
    fill(channel, 1)
    let s = reader.statistics()
    #expect(s.backlogMax == 4 && s.subbufsConsumed == 4)
  }

  @Test func peekingPassesNothing() throws {
    let channel = try makeChannel(subbufSize: 4, subbufCount: 8)
    let reader = Reader(channel)
    let peeker = reader.peeker()
    for count in 1...4 {
      fill(channel, 1)
      #expect(peeker.drain().count == 4)
      #expect(reader.statistics().backlogMax == UInt64(count - 1))
    }
  }

  @Test func aCloseLeavesTheLastSubbufferToTheReader() throws {
    for isReadBefore in [false, true] {
      let channel = try makeChannel(subbufSize: 4)
      let reader = Reader(channel)
      #expect(channel.write("ab") == .written)
      if isReadBefore { #expect(reader.drain() == "ab") }
      channel.close()
      #expect(reader.drain() == (isReadBefore ? "" : "ab"))
      #expect(reader.isDrained && reader.statistics().backlogMax == (isReadBefore ? 0 : 1))
    }
  }

  @Test func readingWithEverySubbufferPassedAtOnceMissesNothing() throws {
    // More than a claim passes in one go.
    let channel = try makeChannel(subbufSize: 4, subbufCount: 200)
    let reader = Reader(channel)
    fill(channel, 200)
    #expect(channel.write("e") == .full)
    #expect(reader.drain().count == 800)
    #expect(reader.statistics().backlogMax == 200)
  }
}
