// SPDX-License-Identifier: Apache-2.0
// Which connections a server keeps: how many there may be of whom, and which gives way to another.

internal import Glibc
internal import LinuxIO

extension ControlServer {
  /// Makes room for a connection of `uid`, or says which limit keeps it out.
  func limitReached(by uid: UInt32) -> String? {
    if !isPrivileged(uid) {
      guard hasRoom(limits.connectionsPerUser, for: { $0.uid == uid }) else {
        return "user \(uid) has \(limits.connectionsPerUser) connections open already"
      }
      guard hasRoom(limits.connectionsOfOthers, for: { !$0.isPrivileged }) else {
        return "\(limits.connectionsOfOthers) connections of other users are open already"
      }
    }
    guard hasRoom(limits.connections, for: { _ in true }) else {
      return "\(limits.connections) connections are open already"
    }
    return nil
  }

  /// Whether there are fewer than `limit` of those connections, or one of them gave way.
  private func hasRoom(_ limit: Int, for counts: (Connection) -> Bool) -> Bool {
    connections.values.count(where: counts) < limit || giveWay(where: counts)
  }

  /// The lowest free number is given first: the latest one tells how many are taken. A socket with
  /// one of the last moves to a number that somebody gave up for it.
  func descriptorsTaken(_ socket: inout FileDescriptor, _ uid: UInt32) -> String? {
    guard socket.raw >= limits.descriptors else { return nil }
    if giveWay(where: { !$0.isPrivileged }), let lower = try? socket.duplicate() { socket = lower }
    let isLeft = socket.raw < limits.descriptors || isPrivileged(uid)
    return isLeft ? nil : ControlRefusal.noDescriptorLeft.message
  }

  /// Closes the least useful of those connections; false where all have attached, or wait for the
  /// end of a request.
  func giveWay(where counts: (Connection) -> Bool) -> Bool {
    let idle = connections.values.filter { !$0.hasAttached && !$0.isPending && counts($0) }
    let least = idle.min { ($0.lastUse, $0.id.rawValue) < ($1.lastUse, $1.id.rawValue) }
    guard let least else { return false }
    close(least)
    return true
  }
}

/// Whether these never lack a place because of others.
func isPrivileged(_ uid: UInt32) -> Bool { uid == 0 || uid == geteuid() }

extension ControlRefusal {
  public static let noDescriptorLeft = ControlRefusal(
    code: EMFILE,
    message: "relayd has no descriptor left for users other than root and its own; raise its limit "
      + "(LimitNOFILE= of its unit, or ulimit -n)")
}
