// SPDX-License-Identifier: Apache-2.0
// A page of shared memory that tells whether a process lives, whatever ends it, and how many had it
// before. Not a lock: nobody waits on it.

internal import CLinux
internal import Glibc
internal import Synchronization

private let pageBytes = 4096

/// The page as its process has it. It can be handed down from one process to the next.
public final class LifePage: Sendable {
  private let file: FileDescriptor
  private let readOnly: FileDescriptor
  private let page: Mapping

  private init(_ file: consuming FileDescriptor) throws(SystemError) {
    page = try Mapping.shared(
      file.raw, count: pageBytes, writable: true, inheritedByChildren: false)
    // The kernel's mark must not have to wait for memory. Without the right to it, that is rare.
    mlock(page.base, pageBytes)
    readOnly = try MemoryFile.readOnly(file.raw)
    self.file = file
  }

  /// One that no process has had yet: its generation is 0.
  public static func create() throws(SystemError) -> LifePage {
    let file = try MemoryFile.create(name: "relay-life", count: pageBytes)
    try MemoryFile.restrict(file.raw)
    try MemoryFile.seal(file.raw, [.shrink, .grow, .seal])
    return try LifePage(file)
  }

  /// The one whose `storeDescriptor` this is. EINVAL where it is none, EBUSY where the process that
  /// had it still lives.
  public static func adopt(_ file: consuming FileDescriptor) throws(SystemError) -> LifePage {
    let seals = try MemoryFile.seals(of: file.raw)
    guard seals.contains([.shrink, .grow]), try MemoryFile.count(of: file.raw) == pageBytes else {
      throw SystemError(code: EINVAL, operation: "adopt a life page that is not sealed to a page")
    }
    let life = try LifePage(file)
    guard clinux_life_lasts(life.page.base) == 0 else {
      throw SystemError(code: EBUSY, operation: "adopt a life page whose process lives")
    }
    return life
  }

  private var generationWord: UnsafePointer<Atomic<UInt64>> { LifeView.generation(page.base) }

  /// Of the process that has or last had it; from 1.
  public var generation: UInt64 { generationWord.pointee.load(ordering: .acquiring) }

  /// This process's, before and after `begin`.
  public var nextGeneration: UInt64 {
    clinux_life_lasts(page.base) == 0 ? generation &+ 1 : generation
  }

  /// From now on, and until this process ends or executes another program, the page says that it
  /// lives. Once.
  public func begin() throws(SystemError) {
    // Release: pairs with `LifeView.generation`.
    generationWord.pointee.store(nextGeneration, ordering: .releasing)
    try check(clinux_life_begin(page.base), "begin a life page")
    // The kernel follows pointers in it for as long as the process lives.
    _ = Unmanaged.passRetained(self)
  }

  /// For those who look: open for reading only. Borrowed.
  public var descriptor: CInt { readOnly.raw }

  /// For the process that comes after this one. Borrowed.
  public var storeDescriptor: CInt { file.raw }
}

/// The page as others see it.
public struct LifeView: ~Copyable, Sendable {
  private let page: Mapping

  /// The one whose `descriptor` this is. EINVAL where it is none.
  public init(_ fd: CInt) throws(SystemError) {
    guard try MemoryFile.seals(of: fd).contains(.shrink),
      try MemoryFile.count(of: fd) >= pageBytes
    else { throw SystemError(code: EINVAL, operation: "look at a life page that is not sealed") }
    page = try Mapping.shared(fd, count: pageBytes, writable: false, inheritedByChildren: false)
  }

  /// Where it is; its first word is `clinux_life`'s.
  package var base: UnsafeRawPointer { UnsafeRawPointer(page.base) }

  /// False once the process has ended, and before the first began.
  public var isAlive: Bool { clinux_life_lasts(page.base) != 0 }

  /// One more with each process that takes it up. Look at `isAlive` first: while that is true this
  /// is the living one's.
  public var generation: UInt64 {
    LifeView.generation(of: page.base)
  }

  package static func generation(of page: UnsafeRawPointer) -> UInt64 {
    generation(page).pointee.load(ordering: .acquiring)
  }

  static func generation(_ base: UnsafeRawPointer) -> UnsafePointer<Atomic<UInt64>> {
    UnsafePointer((base + 8).assumingMemoryBound(to: Atomic<UInt64>.self))
  }
}
