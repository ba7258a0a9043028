// SPDX-License-Identifier: Apache-2.0
// A channel whose opener died: another one goes on with its memory where the readers were.

import CRelayIoctl
import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite(.serialized) struct AdoptTests {
  private let channel: Channel
  private let producer: Channel

  init() throws {
    channel = try Channel.openShared(
      "adopted",
      Geometry(
        subbufSize: 16, subbufCount: 4, mode: .overwrite, isGlobal: true, online: CPUSet([0]),
        possible: CPUSet([0])))
    producer = try SharedTests.attach(channel)
  }

  private var buffer: ChannelBuffer { channel.buffers[0] }

  /// A reader that is never taken down properly, as in a process that is killed.
  private func mortal(_ channel: Channel) -> Reader {
    let reader = Reader(channel, channel.buffers[0])
    _ = Unmanaged.passRetained(reader)
    return reader
  }

  private func adopt() throws -> (channel: Channel, reader: Reader) {
    let files = channel.descriptors!
    let adopted = try Channel.adopt(
      channel.name, opener: SharedTests.copy(channel.openerDescriptor!),
      ring: SharedTests.copy(files.ring), bell: SharedTests.copyBell(channel))
    return (adopted, try Reader(adopting: adopted, adopted.buffers[0]))
  }

  @Test func readingGoesOnWhereItStopped() throws {
    let before = mortal(channel)
    for text in ["abcdef", "ghi", "jkl"] { #expect(producer.write(text) == .written) }
    #expect(before.read(4) == "abcd", "a record that is cut")
    var (adopted, reader) = try adopt()
    #expect(adopted.geometry == channel.geometry)
    #expect(reader.read(1) == "e")
    (adopted, reader) = try adopt()
    #expect(producer.write("mno") == .written)
    #expect(reader.drain() == "fghijklmno")
    (_, reader) = try adopt()
    #expect(reader.drain() == "")
    let s = reader.statistics()
    #expect(s.recordsRead == 4 && s.bytesRead == 15 && s.recordsWritten == 4)
  }

  /// The numbers of one loss that is read alone: by a restart, and before that one.
  private func toldLoss(_ reader: Reader, isSaved: Bool) -> [UInt64] {
    withUnsafeTemporaryAllocation(byteCount: 256, alignment: 8) { bytes in
      let count = reader.claimFrames(into: bytes)
      guard count == 88 else { return [] }
      let loss = bytes.loadUnaligned(fromByteOffset: 40, as: relay_loss.self)
      if isSaved { reader.consume() }
      return [loss.restart, loss.restart_before]
    }
  }

  @Test func lossThatWasToldAloneIsNotToldAgain() throws {
    let before = mortal(channel)
    channel.countLostByRestart(3, cpu: 0)
    #expect(toldLoss(before, isSaved: true) == [3, 0])
    let reader = try adopt().reader
    #expect(!reader.hasFrames)
    channel.countLostByRestart(1, cpu: 0)
    #expect(toldLoss(reader, isSaved: true) == [1, 3])
  }

  @Test func lossIsKnownAgainWhereItsTellerWasKilled() throws {
    channel.countLostByRestart(3, cpu: 0)
    #expect(toldLoss(mortal(channel), isSaved: false) == [3, 0])
    channel.countLostByRestart(2, cpu: 0)
    #expect(toldLoss(try adopt().reader, isSaved: true) == [5, 0])
  }

  @Test func aLongRecordGoesOnInTheMiddle() throws {
    let channel = try Channel.openShared(
      "long",
      Geometry(
        subbufSize: 256, subbufCount: 2, mode: .overwrite, isGlobal: true, hasTimestamps: true,
        online: CPUSet([0]), possible: CPUSet([0])))
    let producer = try SharedTests.attach(channel)
    func adopt() throws -> Reader {
      let files = channel.descriptors!
      let adopted = try Channel.adopt(
        channel.name, opener: SharedTests.copy(channel.openerDescriptor!),
        ring: SharedTests.copy(files.ring), bell: SharedTests.copyBell(channel))
      return try Reader(adopting: adopted, adopted.buffers[0])
    }
    let text = String(repeating: "0123456789", count: 12)
    #expect(producer.write("a") == .written)
    #expect(producer.write(text) == .written)
    let before = mortal(channel)
    #expect(before.frames(72) == [.record(0, "a")])
    #expect(before.frames(72) == [.record(1, String(text.prefix(32)), of: 120)])
    let time = before.restRecord.time
    #expect(time > 0)
    // What was replied and not consumed yet when the daemon died.
    let again = before.frames(72, isDelivered: false)
    for _ in 0..<9 { #expect(producer.write(text) == .written) }
    var reader = try adopt()
    #expect(reader.restRecord.time == time)
    #expect(reader.frames(72) == again)
    #expect(again == [.record(1, String(text.dropFirst(32).prefix(32)), offset: 32, of: 120)])
    reader = try adopt()
    #expect(
      reader.frames().prefix(2) == [
        .record(1, String(text.suffix(56)), offset: 64, of: 120), .lost(before: 7, overwritten: 5),
      ])
  }

  @Test func whatWasNotConsumedComesAgain() throws {
    let before = mortal(channel)
    for text in ["abc", "def"] { #expect(producer.write(text) == .written) }
    let claim = before.claim(limit: 100)
    #expect(claim.byteCount == 6 && buffer.loadState(0).pins == 1)
    let (_, reader) = try adopt()
    #expect(buffer.loadState(0).pins == 0)
    #expect(reader.drain() == "abcdef")
  }

  @Test func whatIsLostMeanwhileIsCounted() throws {
    let before = mortal(channel)
    #expect(producer.write("0123456789abcdef") == .written)
    #expect(before.drain() == "0123456789abcdef")
    for _ in 0..<9 { #expect(producer.write("0123456789abcdef") == .written) }
    let (_, reader) = try adopt()
    let claim = reader.claim(limit: 16)
    #expect(claim.lostBefore.overwritten == 5)
    reader.consume()
    #expect(reader.drain().count == 3 * 16)
    #expect(reader.statistics().lostOverwritten == 5)
  }

  @Test func aFlushThatWasCutShortIsFinished() throws {
    for point in TestPoint.allCases {
      let channel = try Channel.openShared("flushed", channel.geometry)
      let producer = try SharedTests.attach(channel)
      #expect(producer.write("abc") == .written)
      Steps.handler = { $0 != point }
      var patience = Patience()
      _ = channel.buffers[0].switchSubbuf(
        from: channel.buffers[0].loadCurrent(), owner: Channel.openerOwner, wakeFD: -1, &patience,
        Steps.self)
      Steps.handler = nil
      let files = channel.descriptors!
      let adopted = try Channel.adopt(
        "flushed", opener: SharedTests.copy(channel.openerDescriptor!),
        ring: SharedTests.copy(files.ring), bell: SharedTests.copyBell(channel))
      let reader = try Reader(adopting: adopted, adopted.buffers[0])
      for i in 0..<40 { #expect(producer.write("0123456789") == .written, "\(point) \(i)") }
      #expect(reader.drain().hasSuffix("0123456789"))
      for subbuf in 0..<4 {
        #expect(adopted.buffers[0].loadState(subbuf).phase != .claimed, "\(point)")
      }
    }
  }

  @Test func aWriteOfTheOpenersThatWasCutShortIsDiscarded() throws {
    // Into an unused buffer, beside another record, and by a switch.
    for before in [[], ["abc"], ["0123456789"]] {
      for point in TestPoint.allCases {
        let channel = try Channel.openShared("written", channel.geometry)
        let producer = try SharedTests.attach(channel)
        for text in before { #expect(producer.write(text) == .written) }
        var isReached = false
        Steps.handler = {
          isReached = isReached || $0 == point
          return !isReached
        }
        let result = Array("defghijkl".utf8).withUnsafeBytes {
          channel.write($0, into: channel.buffers[0], Steps.self)
        }
        Steps.handler = nil
        let isWritten = !isReached || point == .committed
        #expect((result == .written) == isWritten, "\(point)")
        let files = channel.descriptors!
        let adopted = try Channel.adopt(
          "written", opener: SharedTests.copy(channel.openerDescriptor!),
          ring: SharedTests.copy(files.ring), bell: SharedTests.copyBell(channel))
        let reader = try Reader(adopting: adopted, adopted.buffers[0])
        #expect(producer.write("after") == .written)
        #expect(reader.drain() == before.joined() + (isWritten ? "defghijkl" : "") + "after")
        let isDiscarded = isReached && (point == .reserved || point == .hinted)
        #expect(reader.statistics().aborted == (isDiscarded ? 1 : 0), "\(point)")
      }
    }
  }

  @Test func aClosedChannelStaysClosed() throws {
    #expect(producer.write("abc") == .written)
    channel.close()
    let (adopted, reader) = try adopt()
    #expect(producer.write("def") == .closed)
    #expect(reader.drain() == "abc" && reader.isDrained)
    #expect(adopted.addBuffer(cpu: 1) == nil)
  }

  @Test func aResetIsRemembered() throws {
    let before = mortal(channel)
    #expect(producer.write("abc") == .written)
    before.reset()
    let (_, reader) = try adopt()
    #expect(producer.write("def") == .written)
    #expect(reader.drain() == "def")
    #expect(reader.statistics().recordsWritten == 1)
  }

  @Test func theBacklogsMarkIsKept() throws {
    let before = mortal(channel)
    for _ in 0..<3 { #expect(producer.write("0123456789abcdef") == .written) }
    #expect(before.drain().count == 48)
    var reader = try adopt().reader
    #expect(reader.statistics().backlogMax == 2)
    #expect(producer.write("0123456789abcdef") == .written)
    #expect(reader.drain().count == 16)
    reader = try adopt().reader
    #expect(reader.statistics().backlogMax == 2)
    // What grows while nobody reads is seen by who comes next.
    for _ in 0..<9 { #expect(producer.write("0123456789abcdef") == .written) }
    reader = try adopt().reader
    #expect(reader.statistics().backlogMax == 4)
    reader.reset()
    reader = try adopt().reader
    #expect(reader.statistics().backlogMax == 0)
  }

  /// As a release stored it that did not know the mark.
  @Test func withoutAStoredMarkItStartsAtWhatWaits() throws {
    let before = mortal(channel)
    for _ in 0..<3 { #expect(producer.write("0123456789abcdef") == .written) }
    #expect(before.read(16).count == 16 && before.read(4).count == 4)
    var values = try #require(before.store?.latest)
    #expect(values[.backlogMax] == 2)
    values[.backlogMax] = 0
    before.store?.save(values, generation: before.generation + 1)
    let reader = try adopt().reader
    #expect(reader.statistics().backlogMax == 1)
    #expect(reader.drain().count == 28)
  }

  /// Each save goes to the copy that is not the newest: one that is cut short costs nothing.
  @Test func aSaveThatWasCutShortIsNotThere() throws {
    let before = mortal(channel)
    for text in ["abc", "def", "ghi"] {
      #expect(producer.write(text) == .written)
      #expect(before.drain() == text)
    }
    // The newest copy is invalid first, then wrong.
    let store = before.store!
    let newest = ReaderStore.copyWords * Int(before.generation & 1)
    store.word(newest).pointee.store(0, ordering: .relaxed)
    #expect(try adopt().reader.drain() == "ghi")
  }

  @Test func damagedStateIsRefused() throws {
    let before = mortal(channel)
    for text in ["abc", "def"] {
      #expect(producer.write(text) == .written)
      #expect(before.drain() == text)
    }
    let store = before.store!
    let newest = ReaderStore.copyWords * Int(before.generation & 1)
    let other = ReaderStore.copyWords - newest
    store.word(newest + 2).pointee.store(77, ordering: .relaxed)
    #expect(try adopt().reader.drain() == "def", "the other copy is whole")
    store.word(newest + 2).pointee.store(77, ordering: .relaxed)
    store.word(other + 2).pointee.store(77, ordering: .relaxed)
    #expect(throws: ChannelError.untrusted("its reader's position is damaged")) {
      _ = try adopt().reader
    }
    for (index, value) in [
      (0, 0), (0, 99), (1, 4), (2, 1 << 30), (3, 17), (7, 17), (8, 17), (8, 1), (31, 17),
      (33, 5),
    ] {
      var values = ReaderStore.Values(repeating: 0)
      values[0] = 1
      values[index] = UInt64(value)
      store.save(values, generation: 2)
      store.save(values, generation: 3)
      #expect(throws: ChannelError.untrusted("its reader's position is not in the channel")) {
        _ = try adopt().reader
      }
    }
  }

  @Test func wrongFilesAreRefused() throws {
    let files = channel.descriptors!
    func adopt(_ reason: String, opener: CInt, ring: CInt) {
      #expect(throws: ChannelError.untrusted(reason)) {
        _ = try Channel.adopt(
          "x", opener: SharedTests.copy(opener), ring: SharedTests.copy(ring),
          bell: SharedTests.copyBell(channel))
      }
    }
    let empty = try MemoryFile.create(name: "x", count: 1 << 20)
    let opener = channel.openerDescriptor!
    adopt(
      "the geometry file of channel x is not sealed, or too short", opener: empty.raw,
      ring: files.ring)
    adopt(
      "the ring file of channel x is not sealed, or has the wrong length", opener: opener,
      ring: empty.raw)
    adopt(
      "the ring file of channel x is not sealed, or has the wrong length", opener: opener,
      ring: opener)
    try MemoryFile.seal(empty.raw, [.shrink, .grow])
    let page = try Mapping.shared(
      empty.raw, count: 4096, writable: true, inheritedByChildren: false)
    #expect(throws: ChannelError.self, "no geometry") {
      _ = try Channel.adopt(
        "x", opener: SharedTests.copy(empty.raw), ring: SharedTests.copy(files.ring),
        bell: SharedTests.copyBell(channel))
    }
    channel.geometry.store(to: page.base)
    adopt(
      "the geometry file of channel x has the wrong length", opener: empty.raw, ring: files.ring)
  }

  @Test func producersCannotWriteWhatTheOpenerKeeps() throws {
    let fd = channel.descriptors!.geometry
    #expect(throws: SystemError.self) {
      _ = try Mapping.shared(fd, count: 4096, writable: true, inheritedByChildren: false)
    }
    var status = stat()
    #expect(fstat(fd, &status) == 0 && status.st_mode & 0o777 == 0o600)
  }
}
