// SPDX-License-Identifier: Apache-2.0
// A channel's devices read together: in which order, until when, and what becomes of them when
// their daemon dies.

import Glibc
import LinuxIO
import RelayControl

/// Copies a channel's devices to standard output.
final class ChannelReader {
  private var channel: ChannelDescription
  /// The only one to read.
  private let cpu: Int?
  private let follows: Bool
  private let output: RecordOutput
  private var devices: [DeviceReader] = []
  /// CPUs whose device could not be opened, which was said.
  private var refused: Set<Int> = []

  /// Reads of one device in a row while others may have something, too.
  private static let turn = 16

  init(_ channel: ChannelDescription, cpu: Int?, _ output: RecordOutput, follows: Bool) {
    self.channel = channel
    self.cpu = cpu
    self.output = output
    self.follows = follows
  }

  func open(_ cpu: Int) throws {
    devices.append(try opened(cpu, channel))
  }

  private func opened(_ cpu: Int, _ channel: ChannelDescription) throws -> DeviceReader {
    let device = try DeviceReader(channel, cpu: cpu)
    try output.begin(device)
    return device
  }

  func drain() throws { try drain(devices, turn: follows ? ChannelReader.turn : .max) }

  /// Prints what there is: one device after the other, or by time. A device that died is left for
  /// later.
  private func drain(_ devices: [DeviceReader], turn: Int) throws {
    for device in devices { device.readsLeft = turn }
    if output.showsTimes {
      while let earliest = try earliest(devices) { try output.putOne(earliest) }
    } else {
      for device in devices { while try device.fill() { try output.put(device) } }
    }
    try output.flush()
    for device in devices where device.isDead { try settle(device) }
  }

  /// The device whose next record is the oldest; nil when nothing is there any more.
  private func earliest(_ devices: [DeviceReader]) throws -> DeviceReader? {
    var earliest: DeviceReader?
    for device in devices where try device.fill() {
      // The rest of a record comes before anything else.
      if device.progress.offset > 0 { return device }
      if device.time < earliest?.time ?? .max { earliest = device }
    }
    return earliest
  }

  /// A device died. With its channel, it was closed before we saw its end; else the daemon did.
  private func settle(_ device: DeviceReader) throws {
    do throws(ControlError) {
      let found = try ControlClient().describe(channel.name)
      if found?.isClosed ?? true { return device.end() }
    } catch {}
    guard follows else {
      throw CommandFailure(
        status: EX_UNAVAILABLE, message: "relayd is gone: \(device.path) is dead")
    }
  }
}

// Following.
extension ChannelReader {
  private var isSeekingCPUs: Bool { cpu == nil && !channel.isGlobal }

  /// Goes on until the channel is closed and drained. A CPU that comes up sends no event to a
  /// client, so those are looked for from time to time.
  func follow() throws {
    let interval = 2000
    var nextLook = ContinuousClock.now
    while true {
      if devices.contains(where: \.isDead) { try recover() }
      var pollers = devices.map(\.poller)
      guard pollers.contains(where: { $0.fd >= 0 }) else { return }
      if isSeekingCPUs, ContinuousClock.now >= nextLook {
        try openNewCPUs()
        nextLook = .now + .milliseconds(interval)
        pollers = devices.map(\.poller)
      }
      let timeout = isSeekingCPUs ? CInt(interval) : -1
      guard poll(&pollers, nfds_t(pollers.count), timeout) > 0 else { continue }
      let events = zip(devices, pollers.map { CInt($0.revents) }).filter { $0.1 != 0 }
      try drain(events.map(\.0), turn: ChannelReader.turn)
      // The end, unless there was more to read.
      for (device, events) in events where events & POLLHUP != 0 && events & POLLIN == 0 {
        if !device.isDead { device.end() }
      }
    }
  }

  /// The daemon is asked only when there is a CPU that it may have a device for.
  private func openNewCPUs() throws {
    func isNew(_ cpu: Int) -> Bool { !devices.contains { $0.cpu == cpu } }
    guard try Processors.online().cpus.contains(where: isNew),
      // Without an answer there is nothing new; the devices tell if the daemon is gone.
      let found = try? ControlClient().describe(channel.name)
    else { return }
    for cpu in found.cpus where isNew(cpu) {
      do {
        try open(cpu)
      } catch let error as SystemError {
        // The next look tries again.
        if error.code != ENOENT, refused.insert(cpu).inserted { complain("\(error)") }
        continue
      }
      try drain([devices.last!], turn: ChannelReader.turn)
    }
  }

  /// Waits until a daemon has the channel again, and goes on with its devices. What they repeat is
  /// known by its number.
  private func recover() throws {
    complain("relayd is gone; waiting until channel \(channel.name) is there again")
    for device in devices { device.end() }
    var pause: CInt = 100
    var lastReason = ""
    while true {
      var reason = ""
      do {
        guard let found = try ControlClient(timeoutMilliseconds: 2000).describe(channel.name),
          !found.isClosed
        else {
          throw CommandFailure.failed(
            "relayd is there again, but channel \(channel.name) is not")
        }
        if try reopen(found) { break }
      } catch let error as ControlError {
        if case .protocolViolation = error { throw error }
        if case .notPermitted = error { reason = error.description }
      } catch let error as SystemError {
        // A node may need a moment to appear, and to get its owner.
        let isUsual = [ENOENT, ENOTCONN, ENODEV, ECONNABORTED, ENXIO].contains(error.code)
        if !isUsual { reason = error.description }
      }
      poll(nil, 0, pause)
      pause = min(2 * pause, 1000)
      // Said where it lasts.
      if pause == 1000, !reason.isEmpty, reason != lastReason {
        complain("\(reason); trying again")
        lastReason = reason
      }
    }
    try drain()
  }

  /// False: not all that are needed are there.
  private func reopen(_ found: ChannelDescription) throws -> Bool {
    let cpus = cpu.map { [$0] } ?? found.cpus
    guard !cpus.isEmpty, cpus.allSatisfy(found.cpus.contains) else { return false }
    devices = try cpus.map { try opened($0, found) }
    channel = found
    return true
  }
}
