// SPDX-License-Identifier: Apache-2.0
// Tells what appears in one directory (inotify). Knows nothing of what was there before: start the
// watch first, then look.

import CLinux
import Glibc

/// Something that happened in a watched directory.
public enum DirectoryChange: Equatable, Sendable {
  /// An entry was made (any kind of file, a link too), by its name.
  case created(String)
  case movedIn(String)
  /// An entry's mode, owner or times changed.
  case attributesChanged(String)
  /// More happened than the kernel kept: look at the directory.
  case lost
  /// The directory itself is gone or unmounted; nothing more will come.
  case ended
}

/// Watches one directory, not those below; never blocks. Readable as long as `changes` has any.
public struct DirectoryWatch: ~Copyable, Sendable {
  private let inotify: FileDescriptor
  private let path: String

  /// - Throws: ENOENT, ENOTDIR, EACCES; ENOSPC or EMFILE where this user watches too much already.
  public init(_ path: String) throws(SystemError) {
    let inotify = FileDescriptor(owning: try check(clinux_inotify(), "watch \(path)"))
    let mask = UInt32(IN_CREATE | IN_MOVED_TO | IN_ATTRIB) | UInt32(IN_ONLYDIR)
    try check(clinux_inotify_add(inotify.raw, path, mask), "watch \(path)")
    self.inotify = inotify
    self.path = path
  }

  public var raw: CInt { inotify.raw }

  /// What happened since the last call, in order, the same twice where it happened twice; empty
  /// when nothing did. May leave some for the next call.
  public func changes() throws(SystemError) -> [DirectoryChange] {
    var bytes = [UInt8](repeating: 0, count: 16384)
    let count = clinux_read(raw, &bytes, bytes.count)
    if count == -EAGAIN { return [] }
    try check(count, "read what happened in \(path)")
    return bytes.withUnsafeBytes { DirectoryWatch.parse($0[..<count]) }
  }

  /// Events one after another: a header that ends with the length of the zero-padded name after it.
  private static func parse(_ bytes: Slice<UnsafeRawBufferPointer>) -> [DirectoryChange] {
    var changes: [DirectoryChange] = []
    var rest = bytes
    let headerSize = MemoryLayout<inotify_event>.size
    while rest.count >= headerSize {
      let event = UnsafeRawBufferPointer(rebasing: rest).loadUnaligned(as: inotify_event.self)
      let name = rest.dropFirst(headerSize).prefix(Int(event.len))
      let text = String(decoding: name.prefix { $0 != 0 }, as: UTF8.self)
      if let change = change(event.mask, text) { changes.append(change) }
      rest = rest.dropFirst(headerSize + Int(event.len))
    }
    return changes
  }

  private static func change(_ mask: UInt32, _ name: String) -> DirectoryChange? {
    func has(_ bit: some FixedWidthInteger) -> Bool { mask & UInt32(bit) != 0 }
    if has(IN_Q_OVERFLOW) { return .lost }
    if has(IN_IGNORED) { return .ended }
    // Of the directory itself.
    if name.isEmpty { return nil }
    if has(IN_CREATE) { return .created(name) }
    if has(IN_MOVED_TO) { return .movedIn(name) }
    return has(IN_ATTRIB) ? .attributesChanged(name) : nil
  }
}
