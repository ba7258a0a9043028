// SPDX-License-Identifier: Apache-2.0
// What a daemon is to do, as plain values.

/// Which kernel interface serves the files.
public enum BackendChoice: String, Sendable, CaseIterable {
  /// CUSE when /dev/cuse opens, else relayfs.
  case auto
  /// Character devices: /dev/<channel><cpu>.
  case cuse
  /// relayfs: the same files in a FUSE mount.
  case fuse
}

/// Everything relayd is told when it starts.
public struct Configuration: Sendable {
  public var backend = BackendChoice.auto
  /// Where relayfs is mounted.
  public var mountPoint = defaultMountPoint
  public static let defaultMountPoint = "/run/relayd/relayfs"
  public var socketPath: String
  public var channels: [ChannelOptions]

  /// - Throws: `OptionError` for two channels of one name.
  public init(socketPath: String, channels: [ChannelOptions]) throws(OptionError) {
    self.socketPath = socketPath
    self.channels = channels
    for (index, channel) in channels.enumerated()
    where channels[..<index].contains(where: { $0.name == channel.name }) {
      throw OptionError("channel \(channel.name) is given twice")
    }
  }
}
