// SPDX-License-Identifier: Apache-2.0
// Small files read whole, and the names in a directory. Not for data that streams.

import CLinux
import Glibc

public enum Files {
  /// The same path for a process that changes its working directory; as it is where there is none.
  public static func absolutePath(_ path: String) -> String {
    guard !path.isEmpty, !path.hasPrefix("/"), let directory = getcwd(nil, 0) else { return path }
    defer { free(directory) }
    return "\(String(cString: directory))/\(path)"
  }

  /// Whether anything is there, as far as this process may see.
  public static func isThere(_ path: String) -> Bool { access(path, F_OK) == 0 }

  /// The bytes of a regular file. EISDIR for a directory, EINVAL for any other kind of file (a
  /// pipe would never end), EFBIG for more than `limit` bytes.
  public static func contents(
    of path: String, atMost limit: Int
  ) throws(SystemError) -> [UInt8] {
    // Opening a pipe must not wait for its writer.
    let file = try FileDescriptor.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY)
    let operation = "read \(path)"
    var status = stat()
    guard fstat(file.raw, &status) == 0 else {
      throw SystemError(code: errno, operation: operation)
    }
    switch status.st_mode & S_IFMT {
    case S_IFREG: break
    case S_IFDIR: throw SystemError(code: EISDIR, operation: operation)
    default: throw SystemError(code: EINVAL, operation: operation)
    }
    // One byte more shows that there is more; a file may grow while it is read.
    var bytes = [UInt8](repeating: 0, count: min(max(Int(status.st_size), 0), limit) + 1)
    var count = 0
    while true {
      let room = bytes.count - count
      let result = bytes.withUnsafeMutableBytes {
        clinux_read(file.raw, $0.baseAddress! + count, room)
      }
      let more = try check(result, operation)
      guard more > 0 else { return Array(bytes[..<count]) }
      count += more
      guard count <= limit else { throw SystemError(code: EFBIG, operation: operation) }
      if count == bytes.count { bytes += [UInt8](repeating: 0, count: count) }
    }
  }

  /// The names in a directory, without . and .., in no order.
  public static func names(in path: String) throws(SystemError) -> [String] {
    guard let directory = opendir(path) else {
      throw SystemError(code: errno, operation: "list \(path)")
    }
    defer { closedir(directory) }
    var names: [String] = []
    while true {
      errno = 0
      guard let entry = readdir(directory) else {
        guard errno == 0 else { throw SystemError(code: errno, operation: "list \(path)") }
        return names
      }
      let name = withUnsafeBytes(of: &entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != "." && name != ".." { names.append(name) }
    }
  }
}
