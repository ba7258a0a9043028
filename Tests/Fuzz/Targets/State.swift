// SPDX-License-Identifier: Apache-2.0
// A channel that another process left, with any of it damaged: adopting it refuses or works, and
// what works stays within its memory.

internal import Glibc
internal import LinuxIO
internal import Relay

func runState(_ bytes: UnsafeRawBufferPointer) throws(Finding) {
  var script = Script(bytes)
  let left: Left
  // No input can make this fail: the machine has no memory or descriptors left.
  do { left = try Left(&script) } catch { fatalError("no channel to fuzz: \(error)") }
  for _ in 0..<64 where !script.isOver { left.damage(&script) }
  let start = threadMilliseconds()
  try adopt(left)
  let milliseconds = threadMilliseconds() - start
  // Patience is 100 ms, for each of the few things that need it.
  guard milliseconds < 2000 else { throw Finding("it took \(milliseconds) ms") }
}

/// What its opener left: a channel with records read, begun to be read, and unread.
private struct Left {
  let channel: Channel
  let producer: Channel
  let reader: Reader

  init(_ script: inout Script) throws {
    let choice = script.byte()
    channel = try Channel.openShared(
      "fuzz",
      Geometry(
        subbufSize: [8, 24, 700, 5000][choice & 3], subbufCount: [2, 3, 4, 70][choice >> 2 & 3],
        entryCount: nil, mode: choice >> 6 & 1 == 0 ? .discard : .overwrite, isGlobal: true))
    let files = channel.descriptors!
    producer = try Channel.attach(
      "fuzz", geometry: copy(files.geometry), ring: copy(files.ring), wake: copy(files.wake),
      owner: 5)
    reader = Reader(channel, channel.buffers[0])
    let writer = producer.writer()
    for i in 0..<(script.byte() % 40) { writer.write(String(repeating: "x", count: i % 9)) }
    _ = reader.claim(limit: script.byte())
    if script.byte() % 2 == 0, reader.hasClaim { reader.consume() }
    writer.write("behind")
  }

  func damage(_ script: inout Script) {
    let operation = script.byte() % 8
    let value = script.byte() % 4 == 0 ? script.word() : UInt64(script.byte())
    switch operation {
    // A position of which the checksum is right.
    case 0...2:
      guard let store = reader.store else { return }
      var values = store.latest ?? ReaderStore.Values(repeating: 0)
      values[script.byte() % ReaderStore.words] = value
      store.save(values, generation: UInt64(script.byte()) + 1)
    case 3, 4: put(value, channel.openerDescriptor!, script.short() & 0x3ff8)
    default: put(value, channel.descriptors!.ring, script.short() & 0x7ff8)
    }
  }

  private func put(_ value: UInt64, _ file: CInt, _ offset: Int) {
    withUnsafeBytes(of: value) { _ = pwrite(file, $0.baseAddress, 8, off_t(offset)) }
  }
}

private func copy(_ fd: CInt) -> FileDescriptor {
  FileDescriptor(owning: fcntl(fd, F_DUPFD_CLOEXEC, 0))
}

private func adopt(_ left: Left) throws(Finding) {
  let channel: Channel
  let reader: Reader
  do {
    let files = left.channel.descriptors!
    channel = try Channel.adopt(
      "fuzz", opener: copy(left.channel.openerDescriptor!), ring: copy(files.ring),
      bell: Doorbell(listener: copy(left.channel.wakeDescriptor), button: copy(files.wake)))
    for owner: UInt16 in 4...6 { channel.sweep(owner: owner) }
    reader = try Reader(adopting: channel, channel.buffers[0])
  } catch { return }
  let writer = left.producer.writer()
  for _ in 0..<100 {
    writer.write("on")
    let claim = reader.claim(limit: 1000)
    guard claim.byteCount > 0 else { break }
    var sum = 0
    // What is not mapped traps here.
    for vector in claim.vectors {
      for byte in UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len) {
        sum &+= Int(byte)
      }
    }
    guard sum >= 0 else { throw Finding("no sum") }
    reader.consume()
  }
  _ = reader.statistics()
  guard let next = try? Channel.openShared("fuzz", left.channel.geometry) else { return }
  channel.retire(into: next)
}
