// SPDX-License-Identifier: Apache-2.0
// Who may ask for what on the control socket, to which everybody can connect. root and the daemon's
// own user may do everything; listing and counting anybody may.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

struct Access {
  /// Whose members may create channels; nil: nobody else's.
  var createGroup: Group?

  static func isAdministrator(_ peer: PeerCredentials) -> Bool {
    peer.uid == 0 || peer.uid == geteuid()
  }

  /// Whether a user sees only their own processes in /proc (its mount option hidepid), and so here.
  /// One that is let through by that file system's gid counts as all others.
  static func hidesProcesses() -> Bool {
    guard let mounts = try? Files.contents(of: "/proc/self/mounts", atMost: 1 << 20)
    else { return false }
    return hidesProcesses(mounts: String(decoding: mounts, as: UTF8.self))
  }

  /// - Parameter mounts: as in /proc/self/mounts.
  static func hidesProcesses(mounts: String) -> Bool {
    var hides = false
    for line in mounts.split(separator: "\n") {
      let fields = line.split(separator: " ")
      // The last one mounted there is the one that is seen.
      guard fields.count > 3, fields[1] == "/proc", fields[2] == "proc" else { continue }
      let option = fields[3].split(separator: ",").last { $0.hasPrefix("hidepid=") }
      hides = option.map { !["0", "off"].contains($0.dropFirst("hidepid=".count)) } ?? false
    }
    return hides
  }

  func checkReload(_ peer: PeerCredentials) throws(ControlRefusal) {
    guard !Access.isAdministrator(peer) else { return }
    throw Access.refusal(peer, "reload the configuration", "root and relayd's own user")
  }

  func checkCreate(_ peer: PeerCredentials, _ name: String) throws(ControlRefusal) {
    guard !Access.isAdministrator(peer), !isMember(peer, createGroup) else { return }
    throw Access.refusal(
      peer, "create channel \(name)",
      createGroup.map { "root, relayd's own user and members of group \($0.name) (create_group)" }
        ?? "root and relayd's own user, as there is no create_group")
  }

  func checkWrite(_ peer: PeerCredentials, _ served: ServedChannel) throws(ControlRefusal) {
    guard !Access.isAdministrator(peer), served.creator != peer.uid,
      !isMember(peer, served.identity.writers)
    else { return }
    let group = served.identity.writers.map { ", members of group \($0.name) (its writers)" }
    throw Access.refusal(
      peer, "write into channel \(served.channel.name)", owners(served) + (group ?? ""))
  }

  /// Who may open the files for reading may map the buffers.
  func checkRead(_ peer: PeerCredentials, _ served: ServedChannel) throws(ControlRefusal) {
    let (identity, mode) = (served.identity, served.options.permissions)
    let bits: UInt32 =
      if peer.uid == identity.uid { mode >> 6 } else if peer.isMember(of: identity.gid) {
        mode >> 3
      } else { mode }
    guard !Access.isAdministrator(peer), bits & 4 == 0 else { return }
    throw Access.refusal(
      peer, "read channel \(served.channel.name)",
      "root, relayd's own user, and who may read its files (owner \(identity.uid), group "
        + "\(identity.gid), permissions 0\(String(mode, radix: 8)))")
  }

  /// Closing and resetting end or forget what others wrote: for whose channel it is.
  func checkOwner(
    _ peer: PeerCredentials, _ served: ServedChannel, to action: String
  ) throws(ControlRefusal) {
    guard !Access.isAdministrator(peer), served.creator != peer.uid else { return }
    throw Access.refusal(peer, "\(action) channel \(served.channel.name)", owners(served))
  }

  /// Whether a client may see a reader of a device, and evict it. Administrators may, the user who
  /// owns the device (the creator, of a channel that a user created), and the reader's own user.
  static func maySee(_ peer: PeerCredentials, _ reader: ReaderEntry) -> Bool {
    isAdministrator(peer) || reader.isSeen(by: peer.uid)
  }

  static func checkEvict(
    _ peer: PeerCredentials, _ reader: ReaderEntry
  ) throws(ControlRefusal) {
    guard !maySee(peer, reader) else { return }
    throw refusal(
      peer, "evict reader \(reader.serial) of \(reader.deviceName)",
      "root, relayd's own user, owner \(reader.deviceOwner) of that device, and the reader's user")
  }

  /// A user's channel is the user's: nothing is given to whom they could not give a file.
  func checkIdentity(
    _ peer: PeerCredentials, _ identity: Identity, _ name: String
  ) throws(ControlRefusal) {
    guard !Access.isAdministrator(peer) else { return }
    guard identity.uid == peer.uid else {
      throw Access.refusal(
        peer, "give channel \(name) to owner \(identity.uid)", "root, relayd's own user")
    }
    guard peer.isMember(of: identity.gid) else {
      throw Access.refusal(
        peer, "give channel \(name) to group \(identity.gid)",
        "root, relayd's own user, its members")
    }
  }

  private func isMember(_ peer: PeerCredentials, _ group: Group?) -> Bool {
    group.map { peer.isMember(of: $0.id) } ?? false
  }

  private func owners(_ served: ServedChannel) -> String {
    "root, relayd's own user" + (served.creator.map { ", user \($0) who created it" } ?? "")
  }

  private static func refusal(
    _ peer: PeerCredentials, _ action: String, _ allowed: String
  ) -> ControlRefusal {
    ControlRefusal(
      code: EPERM, message: "user \(peer.uid) may not \(action); those who may: \(allowed)")
  }
}
