// SPDX-License-Identifier: Apache-2.0
// FILE.0, FILE.1, …: which number comes next, and which of them are removed.

import Glibc
import LinuxIO

/// FILE.0, FILE.1, … of at most `size` bytes each, a longer record excepted; of them, the newest
/// `count` are kept.
struct Rotation {
  var size: Int
  var count: Int?
}

/// An open one.
struct NumberedFile: ~Copyable {
  let file: FileDescriptor
  let name: String

  /// Opens the one behind the highest number there is, so that nothing is overwritten; removes all
  /// but the newest `kept`.
  static func openNext(_ path: String, keeping kept: Int?) throws(SystemError) -> NumberedFile {
    var numbers = try numbers(of: path)
    while true {
      let next = (numbers.max() ?? -1) + 1
      let name = "\(path).\(next)"
      let file: FileDescriptor
      do {
        file = try FileDescriptor.open(name, O_WRONLY | O_CREAT | O_EXCL, mode: 0o666)
      } catch {
        // Somebody else was faster.
        guard error.code == EEXIST else { throw error }
        numbers.append(next)
        continue
      }
      for number in numbers where kept.map({ number <= next - $0 }) ?? false {
        let old = "\(path).\(number)"
        if unlink(old) != 0, errno != ENOENT {
          complain("\(SystemError(code: errno, operation: "remove \(old)"))")
        }
      }
      return NumberedFile(file: file, name: name)
    }
  }

  /// The numbers of the files that are there.
  private static func numbers(of path: String) throws(SystemError) -> [Int] {
    let slash = path.lastIndex(of: "/")
    let directory = slash.map { path[...$0] } ?? "."
    let prefix = (slash.map { path[path.index(after: $0)...] } ?? path[...]) + "."
    return try Files.names(in: String(directory)).compactMap { name in
      guard name.hasPrefix(prefix) else { return nil }
      let digits = name.dropFirst(prefix.count)
      // FILE.007 and FILE.+7 are not ours.
      return Int(digits).flatMap { $0 >= 0 && $0 < .max && "\($0)" == digits ? $0 : nil }
    }
  }
}
