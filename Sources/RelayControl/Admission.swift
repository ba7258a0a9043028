// SPDX-License-Identifier: Apache-2.0
// Which connections a server keeps: how many there may be of whom, and which gives way to another.

internal import Glibc
internal import LinuxIO

extension ControlServer {
  /// Makes room for a user's connection, or says which limit keeps it out.
  func limitReached(by user: Account) -> String? {
    if !user.isPrivileged {
      guard hasRoom(limits.connectionsPerUser, for: { $0.uid == user.uid }) else {
        return "user \(user.uid) has \(limits.connectionsPerUser) connections open already"
          + closed { $0.uid == user.uid }
      }
      guard hasRoom(limits.connectionsOfOthers, for: { !$0.isPrivileged }) else {
        return "\(limits.connectionsOfOthers) connections of other users are open already"
          + closed { !$0.isPrivileged }
      }
    }
    guard hasRoom(limits.connections, for: { _ in true }) else {
      return "\(limits.connections) connections are open already" + closed { _ in true }
    }
    return nil
  }

  /// Whether there are fewer than `limit` of those connections, or one of them gave way.
  private func hasRoom(_ limit: Int, for counts: (Account) -> Bool) -> Bool {
    let open = connections.values.count { counts($0.account) }
    return open + closedCount(where: counts) < limit || giveWay(where: counts)
  }

  /// Closed ones keep their places until their requests are finished: else a user could have any
  /// number of requests under way.
  private func closedCount(where counts: (Account) -> Bool) -> Int {
    pending.values.count { $0.isOfClosed && counts($0.account) }
  }

  private func closed(where counts: (Account) -> Bool) -> String {
    let count = closedCount(where: counts)
    return count == 0 ? "" : ", or closed before their requests were finished (\(count))"
  }

  /// The lowest free number is given first: the latest one tells how many are taken. A socket with
  /// one of the last moves to a number that somebody gave up for it.
  func descriptorsTaken(_ socket: inout FileDescriptor, _ user: Account) -> String? {
    guard socket.raw >= limits.descriptors else { return nil }
    if giveWay(where: { !$0.isPrivileged }), let lower = try? socket.duplicate() { socket = lower }
    let isLeft = socket.raw < limits.descriptors || user.isPrivileged
    return isLeft ? nil : ControlRefusal.noDescriptorLeft.message
  }

  /// Closes the least useful of those connections; false where all have attached, or wait for the
  /// end of a request.
  func giveWay(where counts: (Account) -> Bool) -> Bool {
    let idle = connections.values.filter {
      !$0.hasAttached && !$0.isPending && counts($0.account)
    }
    let least = idle.min { ($0.lastUse, $0.id.rawValue) < ($1.lastUse, $1.id.rawValue) }
    guard let least else { return false }
    close(least)
    return true
  }
}

/// A user as limits and turns know it.
struct Account {
  let uid: UInt32
  /// It never lacks a place, or waits, because of others. Known once: admission looks at all
  /// connections.
  let isPrivileged: Bool

  init(_ uid: UInt32) {
    self.uid = uid
    isPrivileged = uid == 0 || uid == geteuid()
  }
}

extension ControlRefusal {
  public static let noDescriptorLeft = ControlRefusal(
    code: EMFILE,
    message: "relayd has no descriptor left for users other than root and its own; raise its limit "
      + "(LimitNOFILE= of its unit, or ulimit -n)")
}
