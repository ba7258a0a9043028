// SPDX-License-Identifier: Apache-2.0
// Messages to bytes and back, and bytes that are no message.

import Relay
import Testing

@testable import RelayControl

private let requests: [Request] = [
  .attach(channel: "relay"), .attach(channel: String(repeating: "x", count: 255)),
  .attach(channel: "spur-größe"), .list(index: 0), .list(index: Int(UInt32.max)),
  .damaged(index: 7),
  .stat(channel: "relay", bufferIndex: 7), .flush(channel: "relay"),
  .reset(channel: "relay"),
  .create(channel: "relay", options: "", keep: false),
  .create(channel: "net/rx", options: "subbuf_size=4KiB,n_subbufs=4,global", keep: true),
  .create(
    channel: String(repeating: "x", count: ControlLimits.nameBytes),
    options: String(repeating: "o", count: ControlLimits.optionsBytes), keep: true),
  .close(channel: "relay"), .reload, .map(channel: "relay", cpu: 0, unfinished: true),
  .next(channel: "relay", cpu: 7), .unmap(channel: "relay", cpu: 8191),
  .consumed(channel: "relay", cpu: 0, count: Int(UInt32.max)),
  .token(channel: "relay"), .redeem, .producer(serial: 0, index: 0),
  .producer(serial: Int(UInt32.max), index: 7), .reader(serial: 0), .reader(serial: .max),
  .evict(serial: .max),
]

private let replies: [Reply] = [
  .attached(owner: 0), .attached(owner: .max), .channel(someChannels[0]),
  .channel(someChannels[1]), .statistics(someStatistics), .done, .end, .mapped,
  .subbuf(someLent), .subbuf(LentSubbuf()), .producer(someProducers[0]),
  .producer(someProducers[1]), .producer(someProducers[2]), .reader(someReaders[0]),
  .reader(someReaders[1]),
  .refused(ControlRefusal(code: 2, message: "no channel relay")),
  .refused(ControlRefusal(code: .max, message: "")),
  .refused(ControlRefusal(code: 22, message: "relay: mode changed\nflight: global changed")),
]

@Suite struct WireTests {
  @Test(arguments: requests) func aRequestSurvives(request: Request) throws {
    let bytes = try request.encoded()
    #expect(try Request(decoding: bytes.span.bytes) == request)
  }

  @Test(arguments: replies) func aReplySurvives(reply: Reply) throws {
    let bytes = try reply.encoded()
    #expect(try Reply(decoding: bytes.span.bytes) == reply)
  }

  @Test func theBytesAreThoseOfTheDocumentation() throws {
    #expect(
      try Request.stat(channel: "ab", bufferIndex: 0x0102).encoded() == [
        4, 3, 0, 0, 8, 0, 0, 0, 2, 0, 97, 98, 2, 1, 0, 0,
      ])
    #expect(
      try Request.create(channel: "ab", options: "c", keep: true).encoded() == [
        4, 6, 0, 0, 8, 0, 0, 0, 2, 0, 97, 98, 1, 0, 99, 1,
      ])
    #expect(try Request.close(channel: "a").encoded() == [4, 7, 0, 0, 3, 0, 0, 0, 1, 0, 97])
    #expect(try Request.reload.encoded() == [4, 8, 0, 0, 0, 0, 0, 0])
    #expect(
      try Request.map(channel: "a", cpu: 0x0102, unfinished: true).encoded() == [
        4, 9, 0, 0, 8, 0, 0, 0, 1, 0, 97, 2, 1, 0, 0, 1,
      ])
    #expect(
      try Request.consumed(channel: "a", cpu: 1, count: 2).encoded() == [
        4, 11, 0, 0, 11, 0, 0, 0, 1, 0, 97, 1, 0, 0, 0, 2, 0, 0, 0,
      ])
    #expect(try Reply.attached(owner: 0x0201).encoded() == [4, 128, 0, 0, 2, 0, 0, 0, 1, 2])
    #expect(
      try Request.producer(serial: 0x0102, index: 3).encoded() == [
        4, 13, 0, 0, 8, 0, 0, 0, 2, 1, 0, 0, 3, 0, 0, 0,
      ])
    #expect(try Request.token(channel: "a").encoded() == [4, 14, 0, 0, 3, 0, 0, 0, 1, 0, 97])
    #expect(
      try Request.evict(serial: 0x0102).encoded() == [
        4, 17, 0, 0, 8, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0,
      ])
    #expect(try Request.redeem.encoded() == [4, 15, 0, 0, 0, 0, 0, 0])
    #expect(try Reply.end.encoded() == [4, 132, 0, 0, 0, 0, 0, 0])
  }

  @Test func theLargestDescriptionFitsAPacket() throws {
    var channel = someChannels[0]
    channel.name = String(repeating: "n", count: ControlLimits.nameBytes)
    channel.frontEnd = channel.name
    channel.pathPrefix = String(repeating: "p", count: ControlLimits.pathBytes)
    channel.cpus = Array(0..<ControlLimits.cpus)
    channel.readMode = channel.name
    channel.wakeup = channel.name
    let bytes = try Reply.channel(channel).encoded()
    #expect(bytes.count <= ControlLimits.packetBytes)
    #expect(try Reply(decoding: bytes.span.bytes) == .channel(channel))
  }

  @Test func theLargestProducerFitsAPacket() throws {
    var producer = someProducers[1]
    producer.command = String(repeating: "c", count: ControlLimits.commandBytes)
    producer.channel = String(repeating: "n", count: ControlLimits.nameBytes)
    producer.held = (0..<ControlLimits.heldBuffers).map {
      .init(cpu: $0, records: Int(UInt32.max), subbufs: 65_536)
    }
    let bytes = try Reply.producer(producer).encoded()
    #expect(bytes.count <= ControlLimits.packetBytes)
    #expect(try Reply(decoding: bytes.span.bytes) == .producer(producer))
    producer.held.append(producer.held[0])
    #expect(throws: WireError.tooLong) { try Reply.producer(producer).encoded() }
  }

  @Test func whatIsOverItsLimitIsNotEncoded() {
    for name in [String(repeating: "n", count: 256), "", "a\n", "\u{7f}", "a\u{9b}", "\u{202e}a"] {
      #expect(throws: WireError.unusableName) { try Request.attach(channel: name).encoded() }
    }
    #expect(throws: WireError.tooLong) { try Request.list(index: -1).encoded() }
    let options = String(repeating: "o", count: ControlLimits.optionsBytes + 1)
    #expect(throws: WireError.tooLong) {
      try Request.create(channel: "relay", options: options, keep: false).encoded()
    }
    var lent = someLent
    lent.pieces.append(LentSubbuf.Piece(offset: 200, length: 1))
    #expect(throws: WireError.tooLong) { try Reply.subbuf(lent).encoded() }
    var channel = someChannels[0]
    channel.cpus = [ControlLimits.cpus]
    #expect(throws: WireError.tooLong) { try Reply.channel(channel).encoded() }
  }

  @Test func refusalsAreShownAsTheyAre() throws {
    let refusal = ControlRefusal(code: 1, message: "a\u{9B}1m\nb\u{2067}")
    let bytes = try Reply.refused(refusal).encoded()
    let shown = ControlRefusal(code: 1, message: "a\\u009B1m\nb\\u2067")
    #expect(try Reply(decoding: bytes.span.bytes) == .refused(shown))
  }

  @Test func aLongRefusalIsCutAtACharacter() throws {
    let message = "x" + String(repeating: "é", count: 2000)
    let bytes = try Reply.refused(ControlRefusal(code: 1, message: message)).encoded()
    let expected = ControlRefusal(code: 1, message: "x" + String(repeating: "é", count: 1499))
    #expect(try Reply(decoding: bytes.span.bytes) == .refused(expected))
  }

  @Test(arguments: requests) func aCutOrLongerRequestIsMalformed(request: Request) throws {
    let bytes = try request.encoded()
    for count in 0..<bytes.count {
      let part = Array(bytes[..<count])
      #expect(throws: WireError.malformed) { try Request(decoding: part.span.bytes) }
    }
    let longer = bytes + [0]
    #expect(throws: WireError.malformed) { try Request(decoding: longer.span.bytes) }
  }

  @Test(arguments: replies) func aReplyCutInItsBodyIsMalformed(reply: Reply) throws {
    let bytes = try reply.encoded()
    for count in 8..<bytes.count {
      // The header tells the truth about the length, so that the fields themselves are cut.
      var part = Array(bytes[..<count])
      part[4] = UInt8((count - 8) & 255)
      part[5] = UInt8((count - 8) >> 8)
      #expect(throws: WireError.malformed) { try Reply(decoding: part.span.bytes) }
    }
  }

  @Test(
    arguments: [
      ([1, 1, 0, 0, 0, 0, 0, 0], WireError.unknownVersion(1)),
      ([5, 1, 0, 0, 0, 0, 0, 0], .unknownVersion(5)),
      ([4, 99, 0, 0, 0, 0, 0, 0], .unknownType(99)),
      // A reply is no request.
      ([4, 131, 0, 0, 0, 0, 0, 0], .unknownType(131)),
      ([4, 2, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0], .malformed),
      // An empty name, a control character, broken UTF-8, a length beyond the packet.
      ([4, 1, 0, 0, 2, 0, 0, 0, 0, 0], .malformed),
      ([4, 1, 0, 0, 3, 0, 0, 0, 1, 0, 10], .malformed),
      ([4, 1, 0, 0, 3, 0, 0, 0, 1, 0, 0xff], .malformed),
      ([4, 1, 0, 0, 3, 0, 0, 0, 255, 0, 97], .malformed),
      // create: an empty name, a control character in the options, a keep that is neither.
      ([4, 6, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0], .malformed),
      ([4, 6, 0, 0, 7, 0, 0, 0, 1, 0, 97, 1, 0, 27, 0], .malformed),
      ([4, 6, 0, 0, 6, 0, 0, 0, 1, 0, 97, 0, 0, 2], .malformed),
      // close without a name, reload with something.
      ([4, 7, 0, 0, 0, 0, 0, 0], .malformed),
      ([4, 8, 0, 0, 1, 0, 0, 0, 0], .malformed),
      // token without a name, redeem with one.
      ([4, 14, 0, 0, 0, 0, 0, 0], .malformed),
      ([4, 15, 0, 0, 3, 0, 0, 0, 1, 0, 97], .malformed),
    ] as [([UInt8], WireError)])
  func whatIsNoRequestSaysWhy(bytes: [UInt8], error: WireError) {
    #expect(throws: error) { try Request(decoding: bytes.span.bytes) }
  }

  @Test func optionsBeyondTheirLimitAreMalformed() {
    // The packet is long enough for them: only the limit is broken.
    let count = ControlLimits.optionsBytes + 1
    let body: [UInt8] =
      [1, 0, 97, UInt8(count & 255), UInt8(count >> 8)]
      + [UInt8](repeating: 111, count: count) + [0]
    let header: [UInt8] = [4, 6, 0, 0, UInt8(body.count & 255), UInt8(body.count >> 8), 0, 0]
    let bytes = header + body
    #expect(throws: WireError.malformed) { try Request(decoding: bytes.span.bytes) }
  }

  @Test func anotherReleaseIsNamed() {
    let description = "\(WireError.unknownVersion(1))"
    #expect(description.hasPrefix("control protocol version 1 instead of 4"))
  }

  @Test func aRefusalWithoutACodeIsMalformed() {
    let bytes: [UInt8] = [4, 255, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    #expect(throws: WireError.malformed) { try Reply(decoding: bytes.span.bytes) }
  }

  @Test(arguments: 1...4) func randomBytesNeverCrashTheDecoder(seed: UInt64) throws {
    var generator = SeededGenerator(state: seed)
    var decoded = 0
    for _ in 0..<5_000 {
      let bytes = generator.packet(limit: 64)
      // What decodes must encode to what decodes to the same.
      if let request = try? Request(decoding: bytes.span.bytes) {
        decoded += 1
        let again = try request.encoded()
        #expect(try Request(decoding: again.span.bytes) == request)
      }
      if let reply = try? Reply(decoding: bytes.span.bytes) {
        decoded += 1
        let again = try reply.encoded()
        #expect(try Reply(decoding: again.span.bytes) == reply)
      }
    }
    #expect(decoded > 0, "the generator should reach past the header at times")
  }

  @Test func randomChangesOfRealMessagesNeverCrashTheDecoder() throws {
    var generator = SeededGenerator(state: 5)
    for original in try requests.map({ try $0.encoded() }) + replies.map({ try $0.encoded() }) {
      for _ in 0..<500 {
        var bytes = original
        bytes[Int.random(in: 0..<bytes.count, using: &generator)] =
          UInt8.random(in: 0...255, using: &generator)
        _ = try? Request(decoding: bytes.span.bytes)
        _ = try? Reply(decoding: bytes.span.bytes)
      }
    }
  }
}
