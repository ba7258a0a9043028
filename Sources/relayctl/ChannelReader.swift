// SPDX-License-Identifier: Apache-2.0
// A channel's devices read together: in which order, and until when. How they are followed is in
// Following.swift.

import Glibc
import LinuxIO
import RelayControl

/// What `relayctl read` was asked for.
struct ReadOptions {
  /// The only one to read.
  var cpu: Int?
  var follows = false
  /// The CPUs' records become one stream, ordered by time.
  var merges = false
  /// How long a record waits for earlier ones while following, in milliseconds.
  var window = 0
  /// How often a device is read that does not tell of a few records, in milliseconds.
  var interval = 0
  /// How long, in milliseconds, to wait for a relayd that is gone; nil: as long as it takes.
  var patience: Int?
  var output = OutputOptions()
  /// The program was started with SIGPIPE's default action, and writes to standard output.
  var diesOfBrokenPipe = false
}

/// Copies a channel's devices to the output.
final class ChannelReader {
  var channel: ChannelDescription
  let options: ReadOptions
  let output: RecordOutput
  private var ending: Ending?
  var devices: [DeviceReader] = []
  /// CPUs whose device could not be opened, which was said.
  var refused: Set<Int> = []

  /// Reads of one device in a row while others may have something, too.
  static let turn = 16
  /// Records in a row while something else may be to be done.
  private static let mergeTurn = 4096

  init(_ channel: ChannelDescription, _ options: ReadOptions, _ output: RecordOutput) {
    self.channel = channel
    self.options = options
    self.output = output
  }

  func open(_ cpu: Int) throws { devices.append(try opened(cpu, channel)) }

  func opened(_ cpu: Int, _ channel: ChannelDescription) throws -> DeviceReader {
    let device = try DeviceReader(channel, cpu: cpu)
    try output.begin(device)
    return device
  }

  /// Reads until the end, or as long as it may.
  func read() throws {
    for device in devices { try output.open(for: device) }
    let ending = try Ending()
    self.ending = ending
    output.ending = ending
    var failure: (any Error)?
    do {
      if options.follows { try follow(ending) } else { try drain() }
      try printHeld()
    } catch {
      failure = error
      // What was read is nowhere else any more: it is written where that is possible, or counted.
      while let held = try? earliest(devices, reads: false) { try? output.putOne(held.device) }
    }
    do { try output.finish() } catch { failure = failure ?? error }
    output.sayAccount(of: channel.name)
    try end(ending, failure)
  }

  /// Says what went wrong, and what of that which was read was not written.
  private func end(_ ending: Ending, _ failure: (any Error)?) throws {
    guard output.unwritten.isEmpty else {
      let lost = output.text(ofUnwritten: channel.name)
      if ending.isForced {
        complain("ended by \(ending.reason) before \(lost) were written; they are lost")
        Ending.die(of: ending.signalNumber)
      }
      throw CommandFailure.failed("\(failure!); \(lost) were not written and are lost")
    }
    if let failure {
      // Nothing was lost, so this may end as quietly as any program whose output nobody takes.
      if let broken = failure as? StreamError, broken.code == EPIPE, options.diesOfBrokenPipe {
        Ending.die(of: SIGPIPE)
      }
      throw failure
    }
    try ending.dieIfAsked("what was not read stays in channel \(channel.name)")
  }

  /// Reads all there is.
  private func drain() throws {
    if options.merges {
      while try merge(devices, window: nil) == 0 {}
    } else {
      try copy(devices, turn: .max)
    }
    try output.flush()
    for device in devices where device.isDead { try settle(device) }
  }

  /// Prints what the devices have, one after the other.
  func copy(_ devices: [DeviceReader], turn: Int) throws {
    for device in devices {
      device.readsLeft = turn
      while try fill(device) { try output.put(device) }
    }
  }

  /// Reads if nothing is left of the last read; a signal ends that where a record does. False:
  /// there is nothing now, or it is another device's turn. Whatever is read is consumed, so what
  /// was read before is written first, and the output must take something.
  private func fill(_ device: DeviceReader) throws -> Bool {
    if device.holdsRecords { return true }
    if ending?.isAsked == true { device.readsLeft = 0 }
    guard device.mayRead else { return false }
    noteHeld()
    try output.flush()
    if device.progress.offset == 0, try device.output?.file.awaitRoom(ending) == false {
      device.readsLeft = 0
      return false
    }
    noteHeld()
    return try device.fill(ending)
  }

  private func noteHeld() {
    let held = devices.lazy.filter(\.holdsRecords).map(\.held).reduce(output.pending, +)
    ending?.note(held: held)
  }

  /// Prints what the devices have, by time. A record for which another device may yet have an
  /// earlier one waits until it is `window` nanoseconds old; nil: none waits.
  /// - Returns: nanoseconds until there is something to do again; nil: not before more comes.
  func merge(_ devices: [DeviceReader], window: UInt64?) throws -> UInt64? {
    // What is read after this was there at this time, or came later.
    let now = ChannelReader.now()
    var mayWait = window != nil
    var hasLooked = false
    for device in devices { device.readsLeft = .max }
    for _ in 0..<ChannelReader.mergeTurn {
      guard let next = try earliest(devices) else { return nil }
      let due = next.device.time &+ (window ?? 0)
      if mayWait, !next.isCertain, due > now {
        // Order is not worth a loss.
        if !hasLooked { mayWait = !devices.contains { $0.holdsRecords && $0.isHalfFull } }
        hasLooked = true
        if mayWait { return due - now }
      }
      try output.putOne(next.device)
    }
    return 0
  }

  /// The device whose next record is the oldest of those that were read, and whether no other one
  /// can have an older one; nil when nothing is there any more.
  private func earliest(
    _ devices: [DeviceReader], reads: Bool = true
  ) throws -> (device: DeviceReader, isCertain: Bool)? {
    var earliest: DeviceReader?
    var isCertain = true
    for device in devices {
      guard try reads ? fill(device) : device.holdsRecords else {
        if device.isOpen, !device.isClosing { isCertain = false }
        continue
      }
      // The rest of a record comes before anything else.
      if device.progress.offset > 0 { return (device, true) }
      if earliest.map({ device.time < $0.time }) ?? true { earliest = device }
    }
    return earliest.map { ($0, isCertain) }
  }

  /// Prints what was read and waits for others.
  func printHeld() throws {
    for device in devices { device.readsLeft = 0 }
    while let held = try earliest(devices) { try output.putOne(held.device) }
    try output.flush()
  }

  /// The records' clock, in nanoseconds.
  private static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  /// A device died. With its channel, it was closed before we saw its end; else the daemon did, as
  /// it may have told before.
  func settle(_ device: DeviceReader) throws {
    if options.follows, device.endsWithDaemon { return }
    do throws(ControlError) {
      let found = try ControlClient().describe(channel.name)
      if found?.isClosed ?? true { return device.end() }
    } catch {}
    guard options.follows else {
      throw CommandFailure(
        status: EX_UNAVAILABLE, message: "relayd is gone: \(device.path) is dead")
    }
  }
}
