// SPDX-License-Identifier: Apache-2.0
// Owned memory mappings. Says nothing about what the memory means.

import Glibc

/// Owns `count` mapped bytes at `base` and unmaps them when it goes away.
/// Unchecked: whoever shares the memory between threads orders the accesses.
public struct Mapping: ~Copyable, @unchecked Sendable {
  public let base: UnsafeMutableRawPointer
  /// Bytes, as asked for (the kernel maps whole pages).
  public let count: Int

  private init(
    count: Int, protection: CInt, flags: CInt, fd: CInt, operation: @autoclosure () -> String
  ) throws(SystemError) {
    guard count > 0 else { throw SystemError(code: EINVAL, operation: operation()) }
    guard let base = mmap(nil, count, protection, flags, fd, 0), base != MAP_FAILED else {
      throw SystemError(code: errno, operation: operation())
    }
    self.base = base
    self.count = count
  }

  /// Zeroed private memory of this process; costs only what is touched.
  public static func anonymous(count: Int) throws(SystemError) -> Mapping {
    try Mapping(
      count: count, protection: PROT_READ | PROT_WRITE,
      flags: CInt(MAP_PRIVATE) | CInt(MAP_ANONYMOUS) | CInt(MAP_NORESERVE), fd: -1,
      operation: "map \(count) bytes")
  }

  /// The first `count` bytes of `fd`, shared. Without `inheritedByChildren` a forked child does
  /// not have the mapping at all, so it cannot write in its parent's name.
  public static func shared(
    _ fd: CInt, count: Int, writable: Bool, inheritedByChildren: Bool
  ) throws(SystemError) -> Mapping {
    let mapping = try Mapping(
      count: count, protection: writable ? PROT_READ | PROT_WRITE : PROT_READ,
      flags: CInt(MAP_SHARED), fd: fd, operation: "map \(count) bytes of descriptor \(fd)")
    // A core of this process would hold what other processes wrote, and touch all of it.
    madvise(mapping.base, count, CInt(MADV_DONTDUMP))
    if !inheritedByChildren, madvise(mapping.base, count, CInt(MADV_DONTFORK)) != 0 {
      throw SystemError(code: errno, operation: "keep a mapping from children")
    }
    return mapping
  }

  /// Clears pages that are in memory and have not been used, and enters them into this process's
  /// page tables, so that the first accesses to them are no faults. Only saves time: a kernel
  /// before 5.14, which cannot, leaves that to those accesses.
  public static func populate(_ base: UnsafeMutableRawPointer, count: Int) {
    let populateWrite: CInt = 23  // MADV_POPULATE_WRITE, which older headers lack
    _ = madvise(base, count, populateWrite)
  }

  /// Takes pages of a shared mapping out of this process's page tables; what is in them stays in
  /// the file, and comes back with the next access.
  public static func leave(_ base: UnsafeMutableRawPointer, count: Int) {
    _ = madvise(base, count, CInt(MADV_DONTNEED))
  }

  deinit { munmap(base, count) }
}
