// SPDX-License-Identifier: Apache-2.0
// The configuration taken again while relayd runs: by SIGHUP and by relayctl reload.

internal import DeviceHost
internal import LinuxIO
internal import Logging
internal import Relay
internal import RelayControl

extension Daemon {
  /// Makes the channels what the configuration says now. Returns, and logs, what could not be done.
  func reload() -> [String] {
    let complaints = changeChannels()
    for complaint in complaints { logger.error("\(complaint)") }
    if complaints.isEmpty, !refused.isEmpty { logger.notice("the configuration is in force") }
    refused = complaints
    ServiceManager.notify("STATUS=\(status)")
    return complaints
  }

  private func changeChannels() -> [String] {
    let new: Configuration
    do throws(ConfigurationError) {
      new = try sources.load(requiresMainFile: hadMainFile, checksPaths: false)
    } catch {
      return error.complaints.map { "\($0); nothing was changed" }
    }
    ServiceManager.notifyReloading()
    defer { ServiceManager.notify("READY=1") }
    var complaints = fixedSettings(new)
    closeVanished(new)
    for options in new.channels {
      do {
        try openOrCompare(options)
      } catch {
        complaints.append("\(error)")
      }
    }
    complaints += table.serveMissing()
    hadMainFile = sources.hasMainFile
    var settings = configuration
    settings.limits = new.limits
    kept.keep(KeptSettings(settings, hadMainFile: hadMainFile))
    return complaints
  }

  /// What cannot change while relayd runs is refused by name; the rest holds from now on.
  private func fixedSettings(_ new: Configuration) -> [String] {
    let fixed = [
      ("backend", new.backend.rawValue, configuration.backend.rawValue),
      ("mount", new.mountPoint, configuration.mountPoint),
      ("socket", new.socketPath, configuration.socketPath),
      ("create_group", new.createGroup ?? "none", configuration.createGroup ?? "none"),
    ]
    table.limits = new.limits
    host.readerShare = new.limits.readerShare
    producers.limit = new.limits.producers
    producers.limitPerUser = new.limits.producersPerUser
    server?.limits = new.limits.connections
    return fixed.filter { $0.1 != $0.2 }.map { key, wanted, now in
      "\(key) stays \(now) until relayd is restarted (and would then be \(wanted))"
    }
  }

  private func closeVanished(_ new: Configuration) {
    let names = Set(new.channels.map(\.name))
    for served in table.channels
    where served.origin == .configured && !names.contains(served.channel.name) {
      logger.notice("channel \(served.channel.name) is not configured any more: closed")
      table.close(served)
    }
  }

  private func openOrCompare(_ options: ChannelOptions) throws {
    guard let served = table[options.name] else {
      try open(options)
      logger.notice("\(summary(table[options.name]!))")
      return
    }
    guard served.origin == .configured else {
      throw DaemonError(
        description: "channel \(options.name): exists already, created at run time; close it first")
    }
    let changed = options.differences(from: served.options)
    guard !changed.isEmpty else { return }
    throw DaemonError(
      description: """
        channel \(options.name): \(changed.joined(separator: ", ")) cannot change while it is \
        open; it stays as it was
        """)
  }
}
