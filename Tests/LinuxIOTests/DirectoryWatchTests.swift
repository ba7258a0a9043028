// SPDX-License-Identifier: Apache-2.0
// What a watched directory tells, and what it does not.

import Glibc
import LinuxIO
import Testing

@Suite struct DirectoryWatchTests {
  private let directory = TemporaryDirectory()
  private var path: String { directory.path }

  private func make(_ name: String, in directory: String? = nil) throws {
    _ = try FileDescriptor.open("\(directory ?? path)/\(name)", O_CREAT | O_WRONLY, mode: 0o600)
  }

  @Test func whatAppearsIsTold() throws {
    let watch = try DirectoryWatch(path)
    #expect(try watch.changes() == [])
    try make("a")
    symlink("nowhere", "\(path)/link")
    #expect(try watch.changes() == [.created("a"), .created("link")])
    #expect(try watch.changes() == [])
  }

  @Test func aFileMovedInIsTold() throws {
    let other = TemporaryDirectory()
    try make("b", in: other.path)
    let watch = try DirectoryWatch(path)
    #expect(rename("\(other.path)/b", "\(path)/c") == 0)
    #expect(try watch.changes() == [.movedIn("c")])
  }

  @Test func changedAttributesAreTold() throws {
    try make("a")
    let watch = try DirectoryWatch(path)
    chmod("\(path)/a", 0o640)
    #expect(try watch.changes() == [.attributesChanged("a")])
  }

  @Test func whatIsReadWrittenOrRemovedIsNot() throws {
    try make("a")
    let watch = try DirectoryWatch(path)
    do {
      let file = try FileDescriptor.open("\(path)/a", O_RDWR)
      #expect(write(file.raw, "x", 1) == 1)
    }
    unlink("\(path)/a")
    // Its last link gone, the file's own attributes changed.
    #expect(try watch.changes().allSatisfy { $0 == .attributesChanged("a") })
  }

  @Test func aLoopSeesIt() throws {
    final class Seen: EventHandler {
      var count = 0
      func handle(_ events: Events, from fd: CInt) { count += 1 }
    }
    let (loop, seen) = (try EventLoop(), Seen())
    let watch = try DirectoryWatch(path)
    #expect(isCloseOnExec(watch.raw))
    try loop.add(watch.raw, .read, seen)
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0)
    try make("a")
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 1)
    _ = try watch.changes()
    #expect(try loop.runOnce(timeoutMilliseconds: 0) == 0)
    #expect(seen.count == 1)
  }

  @Test func manyNamesTakeSeveralCalls() throws {
    let watch = try DirectoryWatch(path)
    let names = (0..<300).map { "\($0)" + String(repeating: "n", count: 200) }
    for name in names { try make(name) }
    var told: [DirectoryChange] = []
    while case let some = try watch.changes(), !some.isEmpty { told += some }
    #expect(told == names.map { .created($0) })
  }

  @Test func theDirectorysEndIsTold() throws {
    let inner = "\(path)/inner"
    #expect(mkdir(inner, 0o700) == 0)
    let watch = try DirectoryWatch(inner)
    rmdir(inner)
    #expect(try watch.changes() == [.ended])
  }

  @Test func whatCannotBeWatchedIsAnError() throws {
    let path = path
    try make("file")
    #expect(code { () throws(SystemError) in _ = try DirectoryWatch("\(path)/none") } == ENOENT)
    #expect(code { () throws(SystemError) in _ = try DirectoryWatch("\(path)/file") } == ENOTDIR)
  }
}
