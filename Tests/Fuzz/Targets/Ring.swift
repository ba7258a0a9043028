// SPDX-License-Identifier: Apache-2.0
// A shared channel under every operation of the daemon and of a producer, in the order that the
// bytes say, while a hostile producer writes into the memory between them.

internal import CRelayIoctl
internal import Glibc
internal import LinuxIO
internal import Relay

func runRing(_ bytes: UnsafeRawBufferPointer) throws(Finding) {
  var script = Script(bytes)
  var run = try RingRun(&script)
  for _ in 0..<1000 where !script.isOver { try run.step(&script) }
}

private struct RingRun: ~Copyable {
  let daemon: Channel
  let reader: Reader
  var peeker: Reader
  let producer: Channel
  let writer: Writer
  let hostile: HostileProcess
  var reservation: Reservation?
  /// Nothing was damaged so far, and so nothing may be found damaged.
  var isHonest = true
  /// Of the last record that was read, in nanoseconds.
  private var lastTime: UInt64 = 0
  private let sink = UnsafeMutableRawPointer.allocate(byteCount: 1 << 16, alignment: 16)

  private static let owner: UInt16 = 5

  init(_ script: inout Script) throws(Finding) {
    let choice = script.byte()
    let entryCounts = [nil, 2, 3, 9]
    let clocks: [RecordClock?] = [nil, .monotonic, .tsc, nil]
    do {
      let geometry = try Geometry(
        subbufSize: [8, 24, 1, 700][choice & 3], subbufCount: [2, 3, 4, 70][choice >> 2 & 3],
        entryCount: entryCounts[choice >> 4 & 3],
        mode: choice >> 6 & 1 == 0 ? .discard : .overwrite, isGlobal: true,
        clock: clocks[choice >> 2 & 3])
      daemon = try Channel.openShared("fuzz", geometry)
      reader = Reader(daemon, daemon.buffers[0])
      if choice >> 7 == 1 { reader.stallTimeout = 0 }
      peeker = reader.peeker()
      let files = daemon.descriptors!
      producer = try Channel.attach(
        "fuzz", geometry: FileDescriptor(owning: fcntl(files.geometry, F_DUPFD_CLOEXEC, 0)),
        ring: FileDescriptor(owning: fcntl(files.ring, F_DUPFD_CLOEXEC, 0)),
        wake: FileDescriptor(owning: fcntl(files.wake, F_DUPFD_CLOEXEC, 0)), owner: RingRun.owner)
      writer = producer.writer()
      hostile = HostileProcess(daemon, entryCount: geometry.entryCount)
    } catch { fatalError("no channel to fuzz: \(error)") }
  }

  deinit { sink.deallocate() }

  mutating func step(_ script: inout Script) throws(Finding) {
    let operation = script.byte() % 32
    let start = threadMilliseconds()
    switch operation {
    case 0...5: try write(&script)
    case 6...8: try reserve(&script)
    case 9: reservation.take()?.commit()
    case 10: reservation.take()?.cancel()
    case 11...12: try claim(script.byte() % 8 == 0 ? peeker : reader, &script)
    case 13: try claimFrames(script.byte() % 8 == 0 ? peeker : reader, &script)
    case 14: try readRecord(&script)
    case 15: _ = reader.statistics()
    case 16: reader.reset()
    case 17: try look(&script)
    case 18: _ = daemon.flush()
    case 19: _ = producer.flush()
    case 20: sweep(&script)
    case 21: if script.byte() % 4 == 0 { daemon.close() }
    default: damage(&script)
    }
    let milliseconds = threadMilliseconds() - start
    // Patience is 100 ms.
    guard milliseconds < 1000 else {
      throw Finding("operation \(operation) took \(milliseconds) ms")
    }
    guard !isHonest || !reader.isCorrupt && reader.statistics().corrupt == 0 else {
      throw Finding("operation \(operation) found damage where there is none")
    }
  }

  private mutating func damage(_ script: inout Script) {
    isHonest = false
    hostile.harm(&script)
  }

  // MARK: Writing

  private func write(_ script: inout Script) throws(Finding) {
    let record = UnsafeRawBufferPointer(
      start: sink, count: script.byte() % (daemon.geometry.subbufSize + 2))
    let result = writer.write(record)
    guard !isHonest || result != .corrupt else { throw Finding("an honest write is corrupt") }
  }

  /// One at a time; another one is left to the sweep.
  private mutating func reserve(_ script: inout Script) throws(Finding) {
    let length = script.byte() % (daemon.geometry.subbufSize + 1)
    switch writer.reserve(length) {
    case .refused(let result):
      guard !isHonest || result != .corrupt else { throw Finding("an honest reserve is corrupt") }
    case .reserved(let new):
      let bytes = UnsafeRawBufferPointer(new.bytes)
      guard bytes.count == length, RingRun.contains(producer, bytes) else {
        throw Finding("\(length) bytes reserved outside the payload")
      }
      memset(new.bytes.baseAddress!, 0x55, length)
      reservation = .some(new)
    }
  }

  /// After its producer's death, which takes the reservations with it; or, in hostile hands, of
  /// anybody.
  private mutating func sweep(_ script: inout Script) {
    let owner = UInt16(script.byte() % 8)
    if owner == RingRun.owner, script.byte() % 4 != 0 { reservation = nil }
    if reservation != nil { isHonest = false }
    daemon.sweep(owner: owner)
  }

  // MARK: Reading

  private mutating func claim(_ reader: Reader, _ script: inout Script) throws(Finding) {
    let claim = reader.claim(limit: script.byte() % 4 == 0 ? script.short() : 1 << 16)
    guard claim.byteCount > 0 else { return }
    var count = 0
    for vector in claim.vectors {
      let bytes = UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len)
      guard RingRun.contains(daemon, bytes) || RingRun.contains(reader.rest, bytes) else {
        throw Finding("\(bytes.count) bytes claimed outside the payload")
      }
      count += bytes.count
      // What is not mapped traps here.
      memcpy(sink, bytes.baseAddress!, min(bytes.count, 1 << 16))
    }
    guard count == claim.byteCount else { throw Finding("\(claim.byteCount) bytes are \(count)") }
    // What the memory becomes while the kernel copies.
    let damages = script.byte()
    if damages % 4 == 3 { damage(&script) }
    if damages >> 7 == 0 { reader.consume() } else { reader.giveBack() }
  }

  private mutating func claimFrames(
    _ reader: Reader, _ script: inout Script
  ) throws(Finding) {
    let size = [Reader.smallestFrames, 101, 1000, 1 << 16][script.byte() % 4]
    let count = reader.claimFrames(into: UnsafeMutableRawBufferPointer(start: sink, count: size))
    guard count > 0 else { return }
    guard count <= size, count % 8 == 0 else { throw Finding("\(count) bytes of frames") }
    var at = 0
    while at < count {
      let frame = sink.load(fromByteOffset: at, as: relay_frame.self)
      let (offset, length) = (Int(frame.offset), Int(frame.length))
      at += (Int(frame.size) + length + 7) / 8 * 8
      guard at <= count, frame.type == RELAY_FRAME_LOST || offset + length <= frame.record_length,
        Int(frame.record_length) <= daemon.geometry.subbufSize
      else { throw Finding("\(length) bytes from \(offset) of \(frame.record_length) in a frame") }
    }
    let damages = script.byte()
    if damages % 4 == 3 { damage(&script) }
    if damages >> 7 == 0 { reader.consume() } else { reader.giveBack() }
  }

  private mutating func readRecord(_ script: inout Script) throws(Finding) {
    let target = UnsafeMutableRawBufferPointer(start: sink, count: script.byte() * 4)
    guard case .record(let info) = reader.readRecord(into: target) else { return }
    guard info.byteCount <= target.count else { throw Finding("a record beyond its target") }
    guard info.time >= lastTime else { throw Finding("a record from before the previous one") }
    lastTime = info.time
    // By what the counter's line may be ahead.
    guard info.time <= RingRun.monotonic() + 1_000_000 else { throw Finding("a future record") }
  }

  private static func monotonic() -> UInt64 {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
  }

  private mutating func look(_ script: inout Script) throws(Finding) {
    switch script.byte() % 9 {
    case 0: _ = reader.hasData
    case 1: _ = reader.hasFinishedSubbuf
    case 2: _ = reader.isDrained
    case 3: if !reader.arm() { reader.disarm() }
    case 4: _ = reader.hasFrames
    case 5: reader.keepsEmptyRecords.toggle()
    case 6: peeker = reader.peeker()
    case 7: _ = peeker.hasData
    default: _ = reader.arm(.subbuffer)
    }
  }

  // MARK: Bounds

  private static func contains(_ channel: Channel, _ bytes: UnsafeRawBufferPointer) -> Bool {
    let size = channel.geometry.subbufSize * channel.geometry.subbufCount
    let payload = UnsafeMutableRawBufferPointer(start: channel.buffers[0].payload(0), count: size)
    return contains(payload, bytes)
  }

  private static func contains(
    _ whole: UnsafeMutableRawBufferPointer, _ part: UnsafeRawBufferPointer
  ) -> Bool {
    guard let start = whole.baseAddress, let first = part.baseAddress else { return false }
    return first >= start && first + part.count <= start + whole.count
  }
}
