// SPDX-License-Identifier: Apache-2.0
// Channels that clients create. One that is prefaulted is there only once it has its memory; until
// then its name, and its part of every limit, are taken.
//
// 1. A creation ends in the same way whether its client waits for it or has gone away.
// 2. Until it ends the channel is in no list, and nobody can attach to it or close it; a relayd
//    that ends leaves nothing of it.

internal import LinuxIO
internal import Relay
internal import RelayControl

extension ChannelTable {
  /// Opens a new channel and serves it. `.later`: `then` is called once it is there, or with the
  /// reason why it cannot be; nothing is left of it then.
  func create(
    _ options: ChannelOptions, _ origin: ServedChannel.Origin, _ identity: Identity,
    then: @escaping (ControlRefusal?) -> Void
  ) throws(ControlRefusal) -> Completion {
    try checkName(options.name)
    let served = try openNew(options, origin, identity)
    guard options.isPrefaulted else {
      try begin(served)
      return .now
    }
    opening.append(served)
    prefault(served.channel, BackgroundWork.Turn(of: origin.creator)) { [unowned self] refusal in
      opening.removeAll { $0 === served }
      then(refusal ?? begun(served))
      if self[options.name] !== served { release(served.channel) }
    }
    return .later
  }

  /// Why a channel that has its memory cannot be served; nil: it is.
  private func begun(_ served: ServedChannel) -> ControlRefusal? {
    do throws(ControlRefusal) {
      try begin(served)
    } catch { return error }
    // Those that came up meanwhile.
    if let online = try? Processors.online() { addCPUs(online) }
    return nil
  }
}
