// SPDX-License-Identifier: Apache-2.0
// How many descriptors this process may have, and how many of them channels may take.

internal import Glibc

enum DescriptorLimit {
  /// Kept free of channels: for clients, producers, and what is opened for a moment.
  static let spare = 32
  /// Of these: kept free of clients other than root's and the daemon's own.
  static let reserve = 16

  /// The soft limit is for programs that use select(2).
  static func raise() {
    var limit = now()
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }

  static var current: Int { Int(clamping: now().rlim_cur) }

  private static func now() -> rlimit {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    return limit
  }
}
