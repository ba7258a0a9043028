// SPDX-License-Identifier: Apache-2.0
// Anonymous files (memfd) and their seals.

import CLinux
import Glibc

/// Files that live in memory only, for sharing by descriptor.
public enum MemoryFile {
  /// What can no longer happen to a memory file; a seal is never taken off.
  public struct Seals: OptionSet, Sendable {
    public let rawValue: CInt
    public init(rawValue: CInt) { self.rawValue = rawValue }

    /// No more seals.
    public static let seal = Seals(rawValue: 0x1)
    public static let shrink = Seals(rawValue: 0x2)
    public static let grow = Seals(rawValue: 0x4)
    /// No writes at all; refused (EBUSY) while a writable mapping exists.
    public static let write = Seals(rawValue: 0x8)
    /// No new writable mappings and no write(2); mappings that exist go on.
    public static let futureWrite = Seals(rawValue: 0x10)
    /// Cannot be made executable. Set from the start, where the kernel knows it (Linux 6.3).
    public static let execute = Seals(rawValue: 0x20)
  }

  /// A zeroed file of `count` bytes, close-on-exec, sealed against nothing but execution. `name` is
  /// for /proc only.
  public static func create(name: String, count: Int) throws(SystemError) -> FileDescriptor {
    guard count >= 0 else {
      throw SystemError(code: EINVAL, operation: "create memory file \(name) of \(count) bytes")
    }
    return FileDescriptor(
      owning: try check(
        clinux_memfd(name, UInt64(count)), "create memory file \(name) of \(count) bytes"))
  }

  /// Adds seals; EPERM once `.seal` is set.
  public static func seal(_ fd: CInt, _ seals: Seals) throws(SystemError) {
    try check(clinux_add_seals(fd, UInt32(seals.rawValue)), "seal memory file")
  }

  /// Lets nobody but its owner open the file by way of /proc.
  public static func restrict(_ fd: CInt) throws(SystemError) {
    if fchmod(fd, 0o600) != 0 {
      throw SystemError(code: errno, operation: "restrict a memory file")
    }
  }

  /// The same file, open for reading only: who gets this cannot map it for writing.
  public static func readOnly(_ fd: CInt) throws(SystemError) -> FileDescriptor {
    try FileDescriptor.open("/proc/self/fd/\(fd)", O_RDONLY)
  }

  /// The same file, for mapping it for writing only. A program that writes to the descriptor by
  /// accident harms nothing: what is appended to a file that cannot grow is refused.
  /// - Precondition: it is sealed against growing.
  public static func appendOnly(_ fd: CInt) throws(SystemError) -> FileDescriptor {
    try FileDescriptor.open("/proc/self/fd/\(fd)", O_RDWR | O_APPEND)
  }

  /// EINVAL where `fd` is no memory file.
  public static func seals(of fd: CInt) throws(SystemError) -> Seals {
    Seals(rawValue: try check(clinux_get_seals(fd), "read the seals of a memory file"))
  }

  /// Has the kernel take the memory of a part of the file now, and charge it to this process's
  /// memory control group; what is in the file stays. ENOSPC or ENOMEM: there is not so much, and
  /// what this call took is given back.
  public static func allocate(_ fd: CInt, _ offset: Int, count: Int) throws(SystemError) {
    var code: CInt
    repeat { code = posix_fallocate(fd, off_t(offset), off_t(count)) } while code == EINTR
    guard code == 0 else {
      throw SystemError(code: code, operation: "take \(count) bytes of memory")
    }
  }

  /// The first byte from `offset` on that is in memory, or behind that in its page; nil: none is.
  /// Moves the offset of the open file, which nobody uses.
  public static func firstByteThere(_ fd: CInt, from offset: Int) throws(SystemError) -> Int? {
    let seekData: CInt = 3  // SEEK_DATA, which is not imported
    let there = lseek(fd, off_t(offset), seekData)
    if there >= 0 { return Int(there) }
    guard errno == ENXIO else {
      throw SystemError(code: errno, operation: "look for data in a memory file")
    }
    return nil
  }

  /// The file's size in bytes, as it is now.
  public static func count(of fd: CInt) throws(SystemError) -> Int {
    var status = stat()
    if fstat(fd, &status) != 0 {
      throw SystemError(code: errno, operation: "read the size of a memory file")
    }
    return Int(status.st_size)
  }
}
