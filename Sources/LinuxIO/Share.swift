// SPDX-License-Identifier: Apache-2.0
// How much of something limited each user may have, so that no user takes what others need. The
// caller decides what is counted, and how it refuses a user that asks for too much.

import Glibc

/// The parts of a whole: each user's share, and what is left for root and this process's own user
/// whatever all others have.
public struct Share: Equatable, Sendable {
  public let whole: Int
  /// What users other than root and this process's own may have together.
  public let ofOthers: Int
  /// What each of them may have.
  public let ofUser: Int

  /// Which part a request is over.
  public enum Shortage: Sendable {
    case ofUser, ofOthers, whole
  }

  /// An eighth of the whole is root's and this process's user's, where that is one or more.
  /// - Parameter perUser: nil: a quarter.
  public init(of whole: Int, perUser: Int?) {
    self.whole = whole
    ofOthers = whole - min(max(1, whole / 8), max(0, whole - 1))
    ofUser = perUser ?? max(1, whole / 4)
  }

  /// Whether a user never lacks something because of others.
  public static func isPrivileged(_ uid: UInt32) -> Bool { uid == 0 || uid == ownUser }

  // Asked for once: it is looked at for each of many.
  private static let ownUser = geteuid()

  /// Which part has no room for `more`; nil: all have. A user's own share comes first: of that the
  /// user can give something back.
  /// - Parameters:
  ///   - user: what this user has; `others`: all users but root and this process's; `all`: all.
  public func shortage(
    _ uid: UInt32, asksFor more: Int = 1, user: Int, others: Int, all: Int
  ) -> Shortage? {
    if !Share.isPrivileged(uid) {
      if more > ofUser - min(ofUser, user) { return .ofUser }
      if more > ofOthers - min(ofOthers, others) { return .ofOthers }
    }
    return more > whole - min(whole, all) ? .whole : nil
  }
}

/// What is taken of a share, counted as it comes and goes.
public struct ShareUse: Sendable {
  private var byUser: [UInt32: Int] = [:]
  private var others = 0
  private var all = 0

  public init() {}

  /// That user has so much more, or less.
  public mutating func change(_ uid: UInt32, by count: Int) {
    let now = byUser[uid, default: 0] + count
    byUser[uid] = now > 0 ? now : nil
    if !Share.isPrivileged(uid) { others += count }
    all += count
  }

  /// Which part has no room for `more`; nil: all have.
  public func shortage(
    of share: Share, _ uid: UInt32, asksFor more: Int = 1
  ) -> Share.Shortage? {
    share.shortage(uid, asksFor: more, user: byUser[uid] ?? 0, others: others, all: all)
  }
}
