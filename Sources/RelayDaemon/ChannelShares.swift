// SPDX-License-Identifier: Apache-2.0
// What channels may take of what all of them share: their number, memory and descriptors. Channels
// that users have created count to the shares of these users; those of the configuration and of
// root to the whole only.

internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

extension ChannelTable {
  /// All that take memory: also those being created, and those closed that are still being read.
  private var all: [ServedChannel] { channels + opening + closing }

  /// Those of some users.
  private func channels(
    of isMeant: (UInt32) -> Bool
  ) -> [ServedChannel] {
    all.filter { $0.creator.map(isMeant) ?? false }
  }

  private func channelsOfOthers() -> [ServedChannel] { channels { !Share.isPrivileged($0) } }

  func checkCount(_ name: String, _ origin: ServedChannel.Origin) throws(ControlRefusal) {
    let (share, uid) = (limits.channelShare, origin.creator ?? 0)
    let shortage = share.shortage(
      uid, user: channels { $0 == uid }.count, others: channelsOfOthers().count,
      all: channels.count + opening.count)
    switch shortage {
    case nil: return
    case .ofUser:
      throw refusal(
        name, EDQUOT,
        "max_channels_per_user is \(share.ofUser), and user \(uid) has as many; close one first")
    case .ofOthers:
      throw refusal(
        name, ENOSPC,
        "max_channels is \(share.whole), of which users other than root may have "
          + "\(share.ofOthers), and they have as many")
    case .whole:
      throw refusal(
        name, ENOSPC, "max_channels is \(share.whole), and as many are open already")
    }
  }

  /// Whether a channel may come to take so many more bytes.
  func checkMemory(
    _ name: String, _ origin: ServedChannel.Origin, additional: Int
  ) throws(ControlRefusal) {
    func bytes(_ channels: [ServedChannel]) -> Int {
      channels.reduce(0) { $0 + $1.worstCaseBytes }
    }
    let limit = MemoryLimit.current(configured: limits.memory)
    let (share, uid) = (Share(of: limit.bytes, perUser: limits.memoryPerUser), origin.creator ?? 0)
    let user = bytes(channels { $0 == uid })
    let (others, all) = (bytes(channelsOfOthers()), bytes(self.all))
    let shortage = share.shortage(
      uid, asksFor: additional, user: user, others: others, all: all)
    let begin = "it can take \(additional) bytes, "
    switch shortage {
    case nil: return
    case .ofUser:
      throw refusal(
        name, EDQUOT,
        begin + "the other channels of user \(uid) \(user), and max_memory_per_user is "
          + "\(share.ofUser)")
    case .ofOthers:
      throw refusal(
        name, ENOMEM,
        begin + "the other channels of users other than root \(others), and these may have "
          + "\(share.ofOthers): \(limit.source) \(limit.bytes)")
    case .whole:
      throw refusal(
        name, ENOMEM, begin + "the other channels \(all), and \(limit.source) \(limit.bytes)")
    }
  }

  /// Descriptors below this number may be channels'.
  func descriptors(for origin: ServedChannel.Origin, of limit: Int) -> Int {
    let share = Share(of: max(1, limit - DescriptorLimit.spare), perUser: nil)
    return origin.isPrivileged ? share.whole : share.ofOthers
  }
}
