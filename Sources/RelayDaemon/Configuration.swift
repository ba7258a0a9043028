// SPDX-License-Identifier: Apache-2.0
// What a daemon is to do, as plain values, and the checks that need all of them together.

internal import LinuxIO
internal import Relay
internal import RelayControl

/// Which kernel interface serves the files.
public enum BackendChoice: String, Sendable, CaseIterable {
  /// CUSE when /dev/cuse opens, else relayfs.
  case auto
  /// Character devices: /dev/<channel><cpu>.
  case cuse
  /// relayfs: the same files in a FUSE mount.
  case fuse
}

/// What a daemon takes on at most.
public struct Limits: Equatable, Sendable {
  public var channels = 1024
  /// Those of one user but root and the daemon's own; nil: a quarter.
  public var channelsPerUser: Int?
  /// Processes that attached and live, over all channels.
  public var producers = 4096
  /// Those of one user but root and the daemon's own.
  public var producersPerUser = 1024
  /// Files open and buffers mapped at one time, over all channels.
  public var readers = 4096
  /// Those of one user, as above.
  public var readersPerUser: Int?
  /// Bytes that all channels can touch together; nil: what the machine has.
  public var memory: Int?
  /// Those of the channels that one user has created, as above.
  public var memoryPerUser: Int?

  public init() {}

  var channelShare: Share { Share(of: channels, perUser: channelsPerUser) }
  var readerShare: Share { Share(of: readers, perUser: readersPerUser) }

  /// Each producer keeps a connection for each of its channels; beside them there is room for who
  /// only asks.
  var connections: ControlServer.Limits {
    var limits = ControlServer.Limits()
    // Channels and the handles of producers need descriptors, too.
    let most = DescriptorLimit.current / 2
    limits.descriptors = DescriptorLimit.current - DescriptorLimit.reserve
    limits.connections = min(limits.connections + producers, most)
    limits.connectionsOfOthers = min(limits.connectionsOfOthers + producers, most / 8 * 7)
    limits.connectionsPerUser = min(
      limits.connectionsPerUser + min(producers, producersPerUser), most / 2)
    return limits
  }
}

/// Everything relayd is told when it starts.
public struct Configuration: Equatable, Sendable {
  public var backend = BackendChoice.auto
  /// Where relayfs is mounted.
  public var mountPoint = defaultMountPoint
  public static let defaultMountPoint = "/run/relayd/relayfs"
  public var socketPath = Configuration.defaultSocketPath
  /// The group whose members may create channels at run time, by name or number; nil: only root
  /// and the daemon's user.
  public var createGroup: String?
  public var limits = Limits()
  /// Start without /dev/cuse and serve the files once it is there.
  public var waitsForCUSE = false
  public var channels: [ChannelOptions] = []

  public init() {}

  /// `$RELAY_SOCKET`, else /run/relayd/control.
  public static var defaultSocketPath: String { ControlClient.defaultPath }

  /// Every key of a file but `channel`, in the order of the manual.
  static let keys = [
    "backend", "mount", "socket", "create_group", "max_channels", "max_channels_per_user",
    "max_producers", "max_producers_per_user", "max_readers", "max_readers_per_user", "max_memory",
    "max_memory_per_user",
  ]

  mutating func set(_ setting: Setting) throws(OptionError) {
    switch setting.key {
    case "backend": backend = try setting.choice(of: BackendChoice.self)
    case "mount": mountPoint = try setting.path()
    case "socket": socketPath = try setting.path()
    case "create_group": createGroup = try setting.group()
    case "max_channels": limits.channels = try setting.count(such: 1024)
    case "max_channels_per_user": limits.channelsPerUser = try setting.count(such: 256)
    case "max_producers": limits.producers = try setting.count(such: 4096)
    case "max_producers_per_user": limits.producersPerUser = try setting.count(such: 1024)
    case "max_readers": limits.readers = try setting.count(such: 4096)
    case "max_readers_per_user": limits.readersPerUser = try setting.count(such: 1024)
    case "max_memory": limits.memory = try setting.sizeOfSomething()
    case "max_memory_per_user": limits.memoryPerUser = try setting.sizeOfSomething()
    default:
      throw OptionError(
        "unknown key \(TOMLText.key(setting.key)); there are "
          + "\(Configuration.keys.joined(separator: ", ")) and [channel.NAME]")
    }
  }
}

// The limits of this machine and of this daemon.
extension ChannelOptions {
  /// The channel on this machine.
  /// - Throws: `OptionError` that names the limit it breaks.
  func geometry(online: CPUSet, possible: CPUSet) throws(OptionError) -> Geometry {
    do throws(GeometryError) {
      return try Geometry(
        subbufSize: subbufSize, subbufCount: subbufCount, mode: mode, isGlobal: isGlobal,
        hasTimestamps: hasTimestamps, online: online, possible: possible)
    } catch { throw OptionError("channel \(name): \(error)") }
  }
}

extension Limits {
  func check(channelCount: Int) throws(OptionError) {
    guard channelCount <= channels else {
      throw OptionError(
        "\(channelCount) channels, and max_channels is \(channels); raise it, or take some out")
    }
  }

  /// Each channel fits by itself; so must all of them.
  func check(memoryOf geometries: [Geometry]) throws(OptionError) {
    let bytes = geometries.reduce(0) { $0 + $1.worstCaseBytes }
    let limit = MemoryLimit.current(configured: memory)
    guard bytes > limit.bytes else { return }
    throw OptionError(
      "the channels can take \(bytes) bytes together, and \(limit.source) "
        + "\(limit.bytes); make them smaller\(limit.isConfigured ? ", or raise it" : "")")
  }
}
