// SPDX-License-Identifier: Apache-2.0
// Going on with the channels that the relayd before left in the store. What cannot be gone on with
// is said by name, and its writers are sent to what comes instead.

internal import DeviceHost
internal import Relay
internal import RelayControl

extension ChannelTable {
  /// The channel as it was left, with its readers where they were; nil, and said why, where that
  /// cannot be.
  func adopt(
    _ left: KeptState.Left, _ options: ChannelOptions, _ origin: ServedChannel.Origin,
    _ identity: Identity
  ) -> ServedChannel? {
    let channel = left.channel
    if let reason = left.obstacle ?? obstacle(channel, options) {
      log(.warning, kept.refusal(options.name, reason))
      return nil
    }
    do throws(ChannelError) {
      return try ServedChannel(
        adopting: channel, options, origin, identity,
        pathPrefix: host.pathPrefix + options.name)
    } catch {
      log(.warning, kept.refusal(options.name, "\(error)"))
      return nil
    }
  }

  /// Whether the newest of these can be adopted under these options.
  func canAdopt(_ left: [KeptState.Left], _ options: ChannelOptions) -> Bool {
    guard let newest = left.first else { return false }
    return (newest.obstacle ?? obstacle(newest.channel, options)) == nil
  }

  private func obstacle(_ channel: Channel, _ options: ChannelOptions) -> String? {
    let geometry = channel.geometry
    if channel.isEnded || channel.isClosedNow { return "it was closed" }
    if channel.isRetired { return "its writers were sent elsewhere" }
    if geometry.subbufSize != options.subbufSize {
      return "its subbuf_size was \(geometry.subbufSize), and now is \(options.subbufSize)"
    }
    if geometry.subbufCount != options.subbufCount {
      return "its n_subbufs was \(geometry.subbufCount), and now is \(options.subbufCount)"
    }
    if geometry.mode != options.mode {
      return "its mode was \(geometry.mode.rawValue), and now is \(options.mode.rawValue)"
    }
    if geometry.isGlobal != options.isGlobal {
      return "its global was \(geometry.isGlobal), and now is \(options.isGlobal)"
    }
    if geometry.hasTimestamps != options.hasTimestamps {
      return "its timestamps was \(geometry.hasTimestamps), and now is \(options.hasTimestamps)"
    }
    return nil
  }

  /// Sends the writers of memory that is not gone on with to the channel that comes instead.
  func retire(_ channel: Channel, into successor: Channel) {
    let lost = channel.retire(into: successor)
    if lost > 0 {
      log(.warning, "channel \(channel.name): \(lost) unread records are lost by this restart")
    }
  }

  /// Opens the channels that were created at run time; what is left then is of channels that are
  /// not configured any more, which end unless `keepsConfigured`.
  func adoptRest(keepsConfigured: Bool) {
    for name in kept.channelNames {
      openAsItWas(name, kept.takeChannel(name), keepsConfigured: keepsConfigured)
    }
  }

  /// Opens a channel with the options it had. What cannot be gone on with ends, and is logged.
  func openAsItWas(_ name: String, _ left: [KeptState.Left], keepsConfigured: Bool) {
    guard let newest = left.first else { return }
    do {
      guard let (options, origin) = ChannelNotes(newest.channel)?.load(name: name) else {
        throw OptionError("what it was is damaged")
      }
      guard keepsConfigured || origin != .configured else {
        throw OptionError("it is not configured any more")
      }
      try open(options, origin, Identity(options), left: left)
    } catch {
      log(.warning, kept.refusal(name, "\(error)"))
      let lost = left.reduce(0) { $0 &+ ($1.channel.isRetired ? 0 : $1.channel.unreadForGood) }
      if lost > 0 { log(.warning, "channel \(name): \(lost) unread records are lost with it") }
      for left in left {
        left.channel.end()
        kept.drop(left.channel)
      }
    }
  }

  /// A process that attached to the relayd before, and not to this one, has ended.
  func forget(owner: UInt16) {
    for served in channels where served.silent.remove(owner) != nil {
      if served.isAbandoned { onAbandoned(served) }
    }
  }
}
