// SPDX-License-Identifier: Apache-2.0
// Channels in this process's own memory, with relay's callbacks, in Swift. Tests/Clients has what
// they do in C, through the same code.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite struct OwnChannelTests {
  /// What callbacks were told.
  final class Notes: Sendable {
    private let lines = Mutex<[String]>([])
    var all: [String] { lines.withLock { $0 } }
    func add(_ line: String) { lines.withLock { $0.append(line) } }
    func take() -> [String] {
      lines.withLock { lines in
        defer { lines = [] }
        return lines
      }
    }
  }

  private let notes = Notes()

  private func open(
    _ name: String? = nil, size: Int = 8, count: Int = 3, mode: ChannelMode = .discard,
    isGlobal: Bool = true, _ configure: (inout OwnChannel.Callbacks) -> Void = { _ in }
  ) throws -> OwnChannel {
    var callbacks = OwnChannel.Callbacks()
    configure(&callbacks)
    return try OwnChannel(
      name, subbufSize: size, subbufCount: count, mode: mode, isGlobal: isGlobal,
      callbacks: callbacks)
  }

  private func drain(_ buffer: OwnBuffer) throws -> String {
    var all = ""
    var bytes = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = try bytes.withUnsafeMutableBytes { try buffer.read(into: $0) }
      if count == 0 { return all }
      all += String(decoding: bytes[..<count], as: UTF8.self)
    }
  }

  @Test func subbufStartIsAskedOnceForEachSubbufferAndHasAHeader() throws {
    let channel = try open(size: 8, count: 4) { [notes] in
      $0.subbufStart = { buffer, subbuf, previous, padding in
        notes.add("\(previous == nil ? "first" : "next") \(padding)")
        previous?[0] = UInt8(ascii: "0") + UInt8(padding)
        buffer.reserveHeader(1)
        subbuf[0] = UInt8(ascii: "?")
        return true
      }
    }
    let buffer = channel.buffers[0]
    #expect(try channel.write("abcde") == .written)
    #expect(try drain(buffer) == "", "the header may still be written")
    #expect(try channel.write("fgh") == .written)
    #expect(try drain(buffer) == "2abcde")
    #expect(try channel.write("123456789") == .tooBig)
    try channel.flush()
    #expect(try drain(buffer) == "4fgh")
    try channel.flush()
    try channel.reset()
    #expect(notes.all == ["first 0", "next 2", "next 4", "first 0"])
    #expect(try buffer.statistics().lostTooBig == 0)
  }

  @Test func theCallbackDecidesWhetherToOverwrite() throws {
    let goesOn = Mutex(true)
    let box = Box(goesOn)
    let channel = try open(size: 2, count: 3) {
      $0.subbufStart = { buffer, _, _, _ in box.value.withLock { $0 } || !buffer.isFull }
    }
    for i in 0..<6 { #expect(try channel.write("\(i)\(i)") == .written) }
    #expect(try drain(channel.buffers[0]) == "334455")
    box.value.withLock { $0 = false }
    for _ in 0..<2 { #expect(try channel.write("ab") == .written) }
    #expect(try channel.write("cd") == .full)
    let text = "ef"
    let waited = try text.utf8.span.bytes.withUnsafeBytes { (bytes) throws(SystemError) in
      try channel.write(bytes, waitingMilliseconds: 20)
    }
    #expect(waited == .full)
    let counts = try channel.buffers[0].statistics()
    #expect(counts.lostFull == 1 && counts.lostOverwritten == 3)
  }

  @Test func insideTheCallbackTheBufferIsNotToBeHad() throws {
    let open = Box(Mutex<OwnChannel?>(nil))
    let channel = try self.open(size: 2) { [notes] in
      $0.subbufStart = { buffer, _, previous, _ in
        guard previous != nil, let channel = open.value.withLock({ $0 }) else { return true }
        func note(_ body: () throws(SystemError) -> Void) {
          do throws(SystemError) { try body() } catch { notes.add("\(error.code)") }
        }
        note { () throws(SystemError) in _ = try channel.write("x") }
        note { () throws(SystemError) in _ = try buffer.statistics() }
        note { () throws(SystemError) in _ = try buffer.map() }
        note { () throws(SystemError) in try channel.close() }
        return true
      }
    }
    open.value.withLock { $0 = channel }
    defer { open.value.withLock { $0 = nil } }
    for _ in 0..<2 { #expect(try channel.write("ab") == .written) }
    #expect(notes.all == [String](repeating: "\(EDEADLK)", count: 4))
  }

  private func filed(_ callbacks: inout OwnChannel.Callbacks, makesGlobal: Bool = false) {
    callbacks.createBufFile = { [notes] (name, _) throws(SystemError) in
      notes.add("+\(name)")
      return makesGlobal
    }
    callbacks.removeBufFile = { [notes] name, _ in notes.add("-\(name)") }
  }

  @Test func filesComeWithTheNameAndGoWithTheClose() throws {
    let channel = try open(isGlobal: false) { filed(&$0) }
    #expect(notes.take() == [])
    try channel.write("early")
    try channel.lateSetupFiles("trace")
    let names = channel.buffers.map { "trace\($0.cpu)" }
    #expect(notes.take() == names.map { "+\($0)" })
    #expect(throws: SystemError.self) { try channel.lateSetupFiles("again") }
    try channel.close()
    #expect(notes.take() == names.map { "-\($0)" })
    #expect(try channel.write("late") == .closed)
    #expect(try channel.buffers.map(drain).joined() == "early")
  }

  @Test func aFileThatCannotBeMadeUndoesEverything() throws {
    let error = SystemError(code: EROFS, operation: "make a file")
    #expect(throws: ChannelError.system(error)) {
      try open("trace") { $0.createBufFile = { (_, _) throws(SystemError) in throw error } }
    }
  }

  @Test func theFirstFileCanMakeTheChannelGlobalAndALateOneCannot() throws {
    let channel = try open("trace", isGlobal: false) { filed(&$0, makesGlobal: true) }
    #expect(channel.buffers.count == 1 && channel.geometry.isGlobal)
    #expect(notes.take() == ["+trace0"])
    try channel.close()
    #expect(notes.take() == ["-trace0"])
    let late = try open(isGlobal: false) { filed(&$0, makesGlobal: true) }
    #expect(throws: SystemError.self) { try late.lateSetupFiles("trace") }
    #expect(notes.take() == ["+trace0", "-trace0"])
  }

  @Test func sizesThatCannotBeAreNamed() {
    #expect(throws: ChannelError.self) { try open(size: 0) }
    do {
      _ = try open(count: 1)
      Issue.record("one sub-buffer is too few")
    } catch { #expect("\(error)".contains("2")) }
  }

  @Test func aMappedBufferIsReadWhereItLies() throws {
    let channel = try open(size: 16, count: 4) { [notes] in
      $0.bufMapped = { _ in notes.add("mapped") }
      $0.bufUnmapped = { _ in notes.add("unmapped") }
    }
    let buffer = channel.buffers[0]
    do {
      let mapping = try buffer.map()
      try channel.write("0123456789")
      #expect(try mapping.next() == nil)
      try channel.flush()
      let part = try #require(try mapping.next())
      #expect(part.lent.padding == 6 && part.lent.isLast)
      #expect(part.bytes.map { String(decoding: $0, as: UTF8.self) } == ["0123456789"])
      #expect(throws: SystemError.self) { try drain(buffer) }
      #expect(throws: SystemError.self) { try mapping.consumed(2) }
      try mapping.consumed(1)
      try channel.close()
      #expect(try mapping.next() == nil && mapping.isAtEnd)
    }
    #expect(notes.all == ["mapped", "unmapped"])
    #expect(try buffer.statistics().recordsRead == 1)
  }

  @Test func whoWaitsIsTold() throws {
    let channel = try open()
    let buffer = channel.buffers[0]
    var ask = pollfd(fd: try buffer.wakeDescriptor(), events: Int16(POLLIN), revents: 0)
    #expect(poll(&ask, 1, 0) == 0)
    #expect(try buffer.events() == 0 && buffer.isEmpty && !buffer.isFull)
    try channel.write("one")
    #expect(poll(&ask, 1, 0) == 1)
    #expect(try buffer.events() == POLLIN | POLLRDNORM)
    #expect(try drain(buffer) == "one")
    #expect(poll(&ask, 1, 0) == 0)
    try channel.close()
    #expect(try buffer.events() == POLLHUP)
  }

  /// A mapped consumer of whole sub-buffers waits for the record that holds the next one back.
  @Test(arguments: [false, true]) func aLateCommitIsTold(_ isClosed: Bool) throws {
    let channel = try open(size: 4, count: 4)
    let buffer = channel.buffers[0]
    let mapping = try buffer.map()
    guard case .reserved(let reservation) = try channel.reserve(2) else {
      Issue.record("there is room")
      return
    }
    try channel.write("ab")
    if isClosed { try channel.close() } else { try channel.write("cd") }
    var ask = pollfd(fd: try mapping.wakeDescriptor(), events: Int16(POLLIN), revents: 0)
    #expect(try mapping.next() == nil)
    #expect(poll(&ask, 1, 0) == 0)
    reservation.bytes.copyBytes(from: "xy".utf8)
    reservation.commit()
    #expect(poll(&ask, 1, 0) == 1)
    let part = try #require(try mapping.next())
    #expect(part.bytes.map { String(decoding: $0, as: UTF8.self) } == ["xyab"])
  }

  @Test func whoOutlivesTheChannelSignalsNothingElse() throws {
    let writer: Writer
    var number: CInt
    do {
      let channel = try open()
      number = try channel.buffers[0].wakeDescriptor()
      writer = channel.writer()
    }
    let other = try MemoryFile.create(name: "other", count: 0)
    // The lowest free number.
    #expect(other.raw != number)
    writer.write("one")
    #expect(try MemoryFile.count(of: other.raw) == 0)
    _ = consume writer
  }

  /// Names are read while they change.
  @Test func errorsAreSaidWhileTheChannelIsNamedAndClosed() throws {
    for _ in 0..<200 {
      let channel = try open { $0.createBufFile = { (_, _) throws(SystemError) in false } }
      let buffer = channel.buffers[0]
      let mapping = try buffer.map()
      let reading = Thread {
        for _ in 0..<20 {
          do { _ = try self.drain(buffer) } catch { _ = "\(error)" }
        }
      }
      try channel.lateSetupFiles("a name that is too long for a small string ")
      try channel.close()
      reading.join()
      _ = consume mapping
    }
  }

  @Test func subbuffersAreLeftAndConsumedByHand() throws {
    let channel = try open(size: 4, count: 4)
    let buffer = channel.buffers[0]
    for text in ["ab", "cd", "ef"] {
      try channel.write(text)
      #expect(try buffer.switchSubbuf() == .flushed)
    }
    try buffer.consumeSubbufs(2)
    #expect(try drain(buffer) == "ef")
    let counts = try buffer.statistics()
    #expect(counts.subbufsProduced == 3 && counts.padding == 6 && counts.recordsRead == 3)
  }
}

/// For closures that are sent.
final class Box<Value: ~Copyable & Sendable>: Sendable {
  let value: Value
  init(_ value: consuming Value) { self.value = value }
}
