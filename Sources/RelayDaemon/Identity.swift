// SPDX-License-Identifier: Apache-2.0
// Whose a channel is: the users and groups of its options as the kernel numbers them.

internal import DeviceHost
internal import LinuxIO

/// A group by name, for messages, and by number.
struct Group: Equatable {
  let name: String
  let id: UInt32

  /// - Throws: `OptionError` for one that does not exist.
  init(named name: String) throws(OptionError) {
    do throws(SystemError) {
      guard let id = try Accounts.groupID(name) else { throw .init(code: 0, operation: "") }
      (self.name, self.id) = (name, id)
    } catch {
      throw OptionError("there is no group \(name)")
    }
  }
}

struct Identity: Equatable {
  let uid: UInt32
  let gid: UInt32
  /// Whose members may write.
  let writers: Group?

  /// - Throws: `OptionError` for a user or group that does not exist.
  init(_ options: ChannelOptions) throws(OptionError) {
    let daemon = FileOptions()
    uid = try options.owner.map(Identity.userID) ?? daemon.uid
    gid =
      try options.group.map { name throws(OptionError) in try Group(named: name).id } ?? daemon.gid
    writers = try options.writers.map { name throws(OptionError) in try Group(named: name) }
  }

  private static func userID(_ name: String) throws(OptionError) -> UInt32 {
    if let id = try? Accounts.userID(name) { return id }
    throw OptionError("there is no user \(name)")
  }

  func files(_ options: ChannelOptions) -> FileOptions {
    var files = FileOptions()
    files.blocks = options.read == .block
    files.isWritable = options.isWritable
    files.wakeup = options.wakeup
    files.uid = uid
    files.gid = gid
    files.permissions = options.permissions
    return files
  }
}
