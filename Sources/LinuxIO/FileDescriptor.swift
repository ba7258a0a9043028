// SPDX-License-Identifier: Apache-2.0
// Ownership of descriptors: one owner, closed once. Not an I/O API.

import CLinux
import Glibc

/// Owns one open descriptor and closes it when it goes away.
public struct FileDescriptor: ~Copyable, Sendable {
  /// The descriptor's number, valid as long as this value lives.
  public let raw: CInt

  public init(owning raw: CInt) {
    precondition(raw >= 0, "not a descriptor")
    self.raw = raw
  }

  /// Opens `path`, close-on-exec. `mode` counts only with O_CREAT.
  public static func open(
    _ path: String, _ flags: CInt, mode: UInt32 = 0
  ) throws(SystemError) -> FileDescriptor {
    FileDescriptor(owning: try check(clinux_open(path, flags, mode), "open \(path)"))
  }

  /// Another descriptor of the same open file, close-on-exec.
  public func duplicate() throws(SystemError) -> FileDescriptor {
    let copy = fcntl(raw, F_DUPFD_CLOEXEC, 0)
    if copy < 0 { throw SystemError(code: errno, operation: "duplicate descriptor \(raw)") }
    return FileDescriptor(owning: copy)
  }

  /// Gives the descriptor up: the caller closes it.
  public consuming func take() -> CInt {
    let raw = raw
    discard self
    return raw
  }

  // Linux releases the number even when close reports EINTR: never retried.
  deinit { close(raw) }
}

/// Descriptors that came with a packet; those not taken are closed with the list.
public struct DescriptorList: ~Copyable, Sendable {
  // -1 where a descriptor was taken.
  private var raws: [CInt]

  /// None.
  public init() { raws = [] }

  init(owning raws: [CInt]) { self.raws = raws }

  /// Descriptors that came, taken or not.
  public var count: Int { raws.count }

  /// Moves descriptor `index` out; nil if there is none or it was taken before.
  public mutating func take(_ index: Int) -> FileDescriptor? {
    guard raws.indices.contains(index), raws[index] >= 0 else { return nil }
    defer { raws[index] = -1 }
    return FileDescriptor(owning: raws[index])
  }

  deinit {
    for raw in raws where raw >= 0 { close(raw) }
  }
}
