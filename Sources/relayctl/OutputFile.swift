// SPDX-License-Identifier: Apache-2.0
// Where records go: standard output, a file, or one numbered file after the other.

import Glibc
import LinuxIO

/// What `--output` and the options that go with it ask for.
struct OutputOptions {
  /// Nil: standard output.
  var path: String?
  var rotation: Rotation?
  /// A file for each CPU: FILE.cpu0, FILE.cpu1, …
  var isPerCPU = false
}

/// FILE.0, FILE.1, … of at most `size` bytes each, a longer record excepted; of them, the newest
/// `count` are kept.
struct Rotation {
  var size: Int
  var count: Int?
}

/// One output, buffered.
final class OutputFile {
  private let path: String?
  private let rotation: Rotation?
  private var file: FileDescriptor?
  /// What `file` is called.
  private var name = "standard output"
  /// Bytes of `file`, those included that are not written yet.
  private var count = 0
  private var bytes: [UInt8] = []
  /// What comes after a failure would stand in the wrong place.
  private(set) var hasFailed = false

  private static let limit = 128 << 10

  /// Opens it. A file that is there is emptied, as a shell does it; numbered ones are continued
  /// behind the highest number.
  init(_ path: String?, _ rotation: Rotation?) throws(SystemError) {
    self.path = path
    self.rotation = rotation
    bytes.reserveCapacity(OutputFile.limit)
    guard let path else { return }
    if rotation != nil {
      try openNext()
    } else {
      file = try FileDescriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o666)
      name = path
    }
  }

  /// A record of `length` bytes begins here: the only place where a file may end.
  func begin(recordOf length: Int) throws(SystemError) {
    guard let rotation, count > 0, length > rotation.size - count else { return }
    try flush()
    try openNext()
  }

  func append(_ new: UnsafeRawBufferPointer) throws(SystemError) {
    if bytes.count + new.count > OutputFile.limit { try flush() }
    bytes.append(contentsOf: new)
    count += new.count
  }

  /// Writes what was put.
  func flush() throws(SystemError) {
    defer { bytes.removeAll(keepingCapacity: true) }
    guard !hasFailed else { return }
    var done = 0
    while done < bytes.count {
      let fd = file?.raw ?? STDOUT_FILENO
      let count = bytes.withUnsafeBytes { write(fd, $0.baseAddress! + done, $0.count - done) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else {
        hasFailed = true
        throw SystemError(code: errno, operation: "write \(name)")
      }
      done += count
    }
  }
}

// Numbered files.
extension OutputFile {
  /// Behind the highest number there is: nothing is overwritten.
  private func openNext() throws(SystemError) {
    var numbers = try OutputFile.numbers(of: path!)
    while true {
      let next = (numbers.max() ?? -1) + 1
      name = "\(path!).\(next)"
      do {
        file = try FileDescriptor.open(name, O_WRONLY | O_CREAT | O_EXCL, mode: 0o666)
      } catch {
        // Somebody else was faster.
        guard error.code == EEXIST else { throw error }
        numbers.append(next)
        continue
      }
      count = 0
      guard let kept = rotation?.count else { return }
      for number in numbers where number <= next - kept {
        let old = "\(path!).\(number)"
        if unlink(old) != 0, errno != ENOENT {
          complain("\(SystemError(code: errno, operation: "remove \(old)"))")
        }
      }
      return
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
