// SPDX-License-Identifier: Apache-2.0
// Tells that something happened to single files (inotify): a name of theirs came or went, or their
// mode, owner or times changed. What is true now is looked at elsewhere.

import CLinux
import Glibc

/// Watches files, not what is in them, without opening them; never blocks. Readable as long as
/// `changes` has any.
public struct FileWatch: ~Copyable, Sendable {
  /// A watched file; not given again to another one.
  public typealias Number = Int32

  private let inotify: FileDescriptor

  /// - Throws: EMFILE where this user watches too much already.
  public init() throws(SystemError) {
    inotify = FileDescriptor(owning: try check(clinux_inotify(), "watch files"))
  }

  public var raw: CInt { inotify.raw }

  /// Watches the file that is at a path now; a link itself, not what it leads to. A file that is
  /// watched already keeps its number.
  /// - Throws: ENOENT, EACCES; ENOSPC where this user watches too much already.
  public func add(_ path: String) throws(SystemError) -> Number {
    let mask = UInt32(IN_ATTRIB) | UInt32(IN_MOVE_SELF) | UInt32(IN_DELETE_SELF)
    return try check(
      clinux_inotify_add(raw, path, mask | UInt32(IN_DONT_FOLLOW)), "watch \(path)")
  }

  public func remove(_ number: Number) { inotify_rm_watch(raw, number) }

  /// Files that something happened to since the last call; empty when nothing did. nil: more than
  /// the kernel kept, so it may have been any.
  public func changes() throws(SystemError) -> Set<Number>? {
    var changed: Set<Number> = []
    var bytes = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = clinux_read(raw, &bytes, bytes.count)
      if count == -EAGAIN { return changed }
      try check(count, "read what happened to files")
      let isWhole = bytes.withUnsafeBytes { FileWatch.parse($0[..<count], into: &changed) }
      if !isWhole { return nil }
    }
  }

  /// Events one after another: a header that ends with the length of what comes after it, the name
  /// of an entry where the file is a directory. False where some were lost.
  private static func parse(
    _ bytes: Slice<UnsafeRawBufferPointer>, into changed: inout Set<Number>
  ) -> Bool {
    let headerSize = MemoryLayout<inotify_event>.size
    var rest = bytes
    while rest.count >= headerSize {
      let event = UnsafeRawBufferPointer(rebasing: rest).loadUnaligned(as: inotify_event.self)
      if event.mask & UInt32(IN_Q_OVERFLOW) != 0 { return false }
      changed.insert(event.wd)
      rest = rest.dropFirst(headerSize + Int(event.len))
    }
    return true
  }
}
