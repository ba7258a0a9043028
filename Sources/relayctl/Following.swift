// SPDX-License-Identifier: Apache-2.0
// Devices that are read as data comes: when each is looked at, CPUs that come up, and what becomes
// of a reader whose daemon dies or is stopped.

import Glibc
import LinuxIO
import RelayControl

extension ChannelReader {
  private var isSeekingCPUs: Bool { options.cpu == nil && !channel.isGlobal }
  /// A CPU that comes up sends no event to a client, so those are looked for from time to time.
  private static let lookInterval = 2000
  /// While records wait, their buffers may fill up.
  private static let roomInterval = 25
  /// Its devices say nothing of a sub-buffer that is not full, so they are read from time to time.
  private var isSilent: Bool { channel.wakeup == "subbuffer" }

  /// Everything was read that a daemon which ends in order had left.
  private var isOutlived: Bool {
    devices.contains(where: \.endsWithDaemon)
      && !devices.contains { $0.isOpen || $0.holdsRecords }
  }

  /// Goes on until somebody closes the channel and it is drained, or a signal comes.
  func follow(_ ending: Ending) throws {
    var nextLook = ContinuousClock.now
    var nextRead = ContinuousClock.now + .milliseconds(options.interval)
    var pause = try pass(devices)
    while !ending.isAsked {
      if devices.contains(where: \.isDead) || isOutlived {
        try recover(ending)
        pause = try pass(devices)
      }
      guard devices.contains(where: { $0.isOpen || $0.holdsRecords }) else { return }
      if isSeekingCPUs, ContinuousClock.now >= nextLook {
        try openNewCPUs()
        nextLook = .now + .milliseconds(ChannelReader.lookInterval)
      }
      let asked = devices.map(\.poller)
      var pollers = asked + [ending.poller, output.poller]
      let limits = [
        pause, isSeekingCPUs ? milliseconds(until: nextLook) : nil,
        isSilent ? milliseconds(until: nextRead) : nil,
      ].compactMap(\.self)
      guard poll(&pollers, nfds_t(pollers.count), limits.min().map { CInt($0) } ?? -1) >= 0 else {
        continue
      }
      try output.check(pollers[asked.count + 1])
      let told = zip(devices, pollers).map { (device: $0, poller: $1) }.filter {
        $0.poller.revents != 0
      }
      for (device, poller) in told where CInt(poller.revents) & (POLLHUP | POLLERR) != 0 {
        device.noteClosing()
      }
      let isTime = isSilent && ContinuousClock.now >= nextRead
      if isTime { nextRead = .now + .milliseconds(options.interval) }
      pause = try pass(isTime ? devices : told.map(\.device))
      for (device, poller) in told where poller.events != 0 { end(device, CInt(poller.revents)) }
    }
  }

  /// Rounded up.
  private func milliseconds(until time: ContinuousClock.Instant) -> Int {
    let left = time - .now
    return left <= .zero ? 0 : Int(left / .milliseconds(1)) + 1
  }

  /// The end, unless there was more to read.
  private func end(_ device: DeviceReader, _ events: CInt) {
    guard events & POLLHUP != 0, events & POLLIN == 0 else { return }
    if !device.isDead, !device.holdsRecords { device.end() }
  }

  /// Prints what there is; where CPUs are merged, all have to be asked. A device that died is left
  /// for later.
  /// - Returns: after how many milliseconds to come again; nil: when a device tells.
  private func pass(_ ready: [DeviceReader]) throws -> Int? {
    var pause: UInt64?
    if options.merges {
      let isClosing = devices.contains(where: \.isClosing)
      pause = try merge(devices, window: isClosing ? nil : UInt64(options.window) * 1_000_000)
    } else {
      try copy(ready, turn: ChannelReader.turn)
    }
    try output.flush()
    for device in devices where device.isDead { try settle(device) }
    return pause.map { min(Int(($0 + 999_999) / 1_000_000), ChannelReader.roomInterval) }
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
      try output.open(for: devices.last!)
    }
  }

  /// Waits until a daemon has the channel again, and goes on with its devices. What they repeat is
  /// known by its number.
  private func recover(_ ending: Ending) throws {
    complain("relayd is gone; waiting until channel \(channel.name) is there again")
    for device in devices { device.end() }
    try printHeld()
    var pause: CInt = 100
    var lastReason = ""
    var absent: ContinuousClock.Instant?
    while !ending.isAsked {
      var reason = ""
      do {
        guard let found = try ControlClient(timeoutMilliseconds: 2000).describe(channel.name),
          !found.isClosed
        else {
          throw CommandFailure.failed(
            "relayd is there again, but channel \(channel.name) is not")
        }
        absent = nil
        if try reopen(found) { break }
      } catch let error as ControlError {
        if case .protocolViolation = error { throw error }
        // One that is there and does not answer was not stopped for good.
        if case .noDaemon(let path) = error {
          try checkPatience(since: absent ?? .now, path)
          absent = absent ?? .now
        } else {
          absent = nil
        }
        if case .notPermitted = error { reason = error.description }
      } catch let error as SystemError {
        // A node may need a moment to appear, and to get its owner.
        let isUsual = [ENOENT, ENOTCONN, ENODEV, ECONNABORTED, ENXIO].contains(error.code)
        if !isUsual { reason = error.description }
      }
      ending.pause(milliseconds: pause)
      pause = min(2 * pause, 1000)
      // Said where it lasts.
      if pause == 1000, !reason.isEmpty, reason != lastReason {
        complain("\(reason); trying again")
        lastReason = reason
      }
    }
  }

  private func checkPatience(since start: ContinuousClock.Instant, _ path: String) throws {
    guard let patience = options.patience, .now - start >= .milliseconds(patience) else { return }
    throw CommandFailure(
      status: EX_UNAVAILABLE,
      message: """
        relayd was stopped for good: nobody has served \(path) for \(TimeSpan.format(patience)) \
        (--wait); what was not read of channel \(channel.name) may be kept for the next relayd: \
        read it again once there is one
        """)
  }

  /// False: not all that are needed are there.
  private func reopen(_ found: ChannelDescription) throws -> Bool {
    let cpus = options.cpu.map { [$0] } ?? found.cpus
    guard !cpus.isEmpty, cpus.allSatisfy(found.cpus.contains) else { return false }
    // The rest of a record comes before anything else.
    devices = try cpus.map { try opened($0, found) }.sorted {
      $0.progress.offset > $1.progress.offset
    }
    channel = found
    // CPUs may have come up meanwhile.
    for device in devices { try output.open(for: device) }
    return true
  }
}
