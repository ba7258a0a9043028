// SPDX-License-Identifier: Apache-2.0
// What several tests need: a directory of their own and the code a call failed with.

import Glibc
import LinuxIO

/// A fresh directory, removed with what is in it (files only).
final class TemporaryDirectory: Sendable {
  let path: String

  init() {
    var template = Array("/tmp/linuxio-XXXXXX".utf8CString)
    path = template.withUnsafeMutableBufferPointer { String(cString: mkdtemp($0.baseAddress!)) }
  }

  deinit {
    for name in names { unlink("\(path)/\(name)") }
    rmdir(path)
  }

  var names: [String] {
    guard let directory = opendir(path) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names
  }
}

/// The errno that `body` throws; 0 if it doesn't throw.
func code(_ body: () throws(SystemError) -> Void) -> CInt {
  do {
    try body()
    return 0
  } catch {
    return error.code
  }
}

func isOpen(_ fd: CInt) -> Bool { fcntl(fd, F_GETFD) >= 0 }

func isCloseOnExec(_ fd: CInt) -> Bool { fcntl(fd, F_GETFD) & FD_CLOEXEC != 0 }
