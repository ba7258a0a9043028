// SPDX-License-Identifier: Apache-2.0
// Who is at the other end of a socket: a process that can be watched, and its credentials.

import CLinux
import Glibc

/// The credentials of the process that connected, as of then.
public struct PeerCredentials: Equatable, Sendable {
  /// 0 for a process outside this pid namespace.
  public let pid: Int32
  public let uid: UInt32
  public let gid: UInt32
  /// Its supplementary groups; `gid` may be among them.
  public let groups: [UInt32]

  public init(pid: Int32, uid: UInt32, gid: UInt32, groups: [UInt32] = []) {
    self.pid = pid
    self.uid = uid
    self.gid = gid
    self.groups = groups
  }

  /// Whether `gid` is its primary or one of its supplementary groups.
  public func isMember(of gid: UInt32) -> Bool { self.gid == gid || groups.contains(gid) }

  public static func of(socket: CInt) throws(SystemError) -> PeerCredentials {
    var pid: Int32 = 0
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    try check(
      clinux_peer_credentials(socket, &pid, &uid, &gid), "read the credentials of a peer")
    return PeerCredentials(pid: pid, uid: uid, gid: gid, groups: try groups(of: socket))
  }

  private static func groups(of socket: CInt) throws(SystemError) -> [UInt32] {
    var groups = [UInt32](repeating: 0, count: 32)
    var count = 0
    // They never change: if there is no room the first time, there is the second.
    for _ in 0..<2 {
      count = Int(
        try check(
          clinux_peer_groups(socket, &groups, groups.count), "read the groups of a peer"))
      if count <= groups.count { break }
      groups = [UInt32](repeating: 0, count: count)
    }
    return Array(groups.prefix(count))
  }
}

/// The process that sent a packet, which need not be the one that connected the socket: the kernel
/// says who it is, in the packet.
public struct PacketSender: ~Copyable, Sendable {
  /// Its real user and group; of other groups nothing is known.
  public let credentials: PeerCredentials
  // -errno: there is none.
  private var pidfd: CInt

  init(_ sender: clinux_sender) {
    credentials = PeerCredentials(pid: sender.pid, uid: sender.uid, gid: sender.gid)
    pidfd = sender.pidfd
  }

  deinit { if pidfd >= 0 { close(pidfd) } }

  /// Its handle, once: the kernel made it with the packet (Linux 6.5), so that no sender can name
  /// another process. Before, it is looked up by number, as `ProcessHandle.peer` has it.
  /// ESRCH if it is gone already, EOPNOTSUPP if it has no number here.
  public mutating func takeProcess() throws(SystemError) -> ProcessHandle {
    let raw = pidfd
    pidfd = -ESRCH
    if raw == -ENOPROTOOPT { return try ProcessHandle(numbered: credentials.pid) }
    return ProcessHandle(
      FileDescriptor(owning: try check(raw, "open a handle of the process that asked")))
  }
}

/// A pidfd: names one process for good, whatever becomes of its number. Readable once it exited.
public struct ProcessHandle: ~Copyable, Sendable {
  private let descriptor: FileDescriptor

  public init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }

  /// A process by number: only safe while the caller knows it has not been reaped.
  public init(pid: Int32) throws(SystemError) {
    descriptor = FileDescriptor(
      owning: try check(clinux_pidfd_open(pid), "open a handle of process \(pid)"))
  }

  /// The same for a number as the kernel gives it: 0 stands for a process that has none here.
  fileprivate init(numbered pid: Int32) throws(SystemError) {
    guard pid > 0 else {
      throw SystemError(
        code: EOPNOTSUPP, operation: "a process of another pid namespace needs Linux 6.5")
    }
    try self.init(pid: pid)
  }

  public var raw: CInt { descriptor.raw }

  /// The process that connected `socket`. Where the kernel has no SO_PEERPIDFD (before 6.5) it is
  /// looked up by number, which can name another process if the peer died in between.
  /// ESRCH if it is gone already, EOPNOTSUPP if it has no number here.
  public static func peer(of socket: CInt) throws(SystemError) -> ProcessHandle {
    let pidfd = clinux_peer_pidfd(socket)
    if pidfd == -ENOPROTOOPT {
      return try ProcessHandle(numbered: PeerCredentials.of(socket: socket).pid)
    }
    // Kernels differ in how they say that the process has been reaped.
    if pidfd == -EINVAL {
      throw SystemError(code: ESRCH, operation: "open a handle of a peer")
    }
    return ProcessHandle(FileDescriptor(owning: try check(pidfd, "open a handle of a peer")))
  }

  /// True once the process has exited, reaped or not.
  public var hasExited: Bool {
    Readiness.wait(raw, .read, timeoutMilliseconds: 0).contains(.read)
  }

  /// Whether both name one process, which needs no pid that is known here. nil before Linux 6.9,
  /// where handles have no identity.
  public func isSame(as other: borrowing ProcessHandle) -> Bool? {
    let same = clinux_pidfd_same(raw, other.raw)
    return same < 0 ? nil : same == 1
  }

  public func duplicate() throws(SystemError) -> ProcessHandle {
    ProcessHandle(try descriptor.duplicate())
  }
}

extension ProcessHandle {
  /// When a process was started, in clock ticks since boot: with its number, it names it for good.
  /// nil: there is no such process, or it cannot be looked at.
  public static func startTime(pid: Int32) -> UInt64? {
    guard let bytes = try? Files.contents(of: "/proc/\(pid)/stat", atMost: 4096),
      // The name, in parentheses, may hold anything.
      let nameEnd = bytes.lastIndex(of: UInt8(ascii: ")"))
    else { return nil }
    let fields = bytes[(nameEnd + 1)...].split(separator: UInt8(ascii: " "))
    // Field 22 of proc(5); the first here is 3.
    return fields.count > 19 ? UInt64(String(decoding: fields[19], as: UTF8.self)) : nil
  }
}
