// SPDX-License-Identifier: Apache-2.0
// Several descriptors as one that can be polled.

import CLinux
import Glibc

/// Readable when one of its descriptors reports what it was added for, a hang-up or an error.
public struct ReadySet: ~Copyable, Sendable {
  private let number: CInt
  private var first: (fd: CInt, interest: Events)?

  public init() throws(SystemError) {
    number = try check(clinux_move_up(clinux_epoll()), "create epoll")
  }

  /// - Parameter fd: stays the caller's, open as long as this.
  public mutating func add(_ fd: CInt, _ interest: Events) throws(SystemError) {
    try check(clinux_epoll_add(number, fd, interest.epoll, UInt64(fd)), "watch descriptor \(fd)")
    if first == nil { first = (fd, interest) }
  }

  /// For polling; -1 where the program has closed it, or what it watches.
  public var raw: CInt { isThere ? number : -1 }

  // The kernel does not tell one epoll from another, but only this one watches its descriptors: a
  // program that closed the number and uses it again keeps what it has there.
  private var isThere: Bool {
    guard let first else { return true }
    return clinux_epoll_modify(number, first.fd, first.interest.epoll, UInt64(first.fd)) >= 0
  }

  deinit { if isThere { close(number) } }
}
