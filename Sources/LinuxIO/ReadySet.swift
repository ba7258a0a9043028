// SPDX-License-Identifier: Apache-2.0
// Several descriptors as one that can be polled.

import CLinux

/// Readable when one of its descriptors reports what it was added for, a hang-up or an error.
public struct ReadySet: ~Copyable, Sendable {
  private let epoll: FileDescriptor

  public init() throws(SystemError) {
    epoll = FileDescriptor(owning: try check(clinux_epoll(), "create epoll"))
  }

  public var raw: CInt { epoll.raw }

  /// - Parameter fd: stays the caller's, open as long as this.
  public func add(_ fd: CInt, _ interest: Events) throws(SystemError) {
    try check(
      clinux_epoll_add(epoll.raw, fd, interest.epoll, UInt64(fd)), "watch descriptor \(fd)")
  }
}
