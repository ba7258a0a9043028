// SPDX-License-Identifier: Apache-2.0
// What is told of single files.

import Glibc
import LinuxIO
import Testing

@Suite struct FileWatchTests {
  private let directory = TemporaryDirectory()
  private var path: String { directory.path + "/file" }

  private func make(_ path: String) throws {
    _ = try FileDescriptor.open(path, O_WRONLY | O_CREAT, mode: 0o600)
  }

  @Test func fileThatChangesItsNameOrItsModeIsReported() throws {
    try make(path)
    let watch = try FileWatch()
    #expect(isCloseOnExec(watch.raw))
    let number = try watch.add(path)
    #expect(try watch.changes() == [])
    let link = path + ".link"
    let moved = path + ".moved"
    let changes: [() -> CInt] = [
      { chmod(path, 0o644) }, { Glibc.link(path, link) }, { rename(path, moved) },
      { unlink(link) }, { unlink(moved) },
    ]
    for change in changes {
      #expect(change() == 0)
      #expect(Readiness.wait(watch.raw, .read, timeoutMilliseconds: 0).contains(.read))
      #expect(try watch.changes() == [number])
      #expect(try watch.changes() == [])
    }
  }

  @Test func fileThatAnotherOneReplacesIsReported() throws {
    try make(path)
    let watch = try FileWatch()
    let first = try watch.add(path)
    #expect(try watch.add(path) == first)
    try make(path + ".new")
    #expect(rename(path + ".new", path) == 0)
    #expect(try watch.changes() == [first])
    let second = try watch.add(path)
    #expect(second != first)
    chmod(path, 0o644)
    #expect(try watch.changes() == [second])
    watch.remove(second)
    _ = try watch.changes()
    chmod(path, 0o600)
    #expect(try watch.changes() == [])
  }

  @Test func whatHappensInADirectoryIsReportedAsItsOwn() throws {
    try make(path)
    let watch = try FileWatch()
    let number = try watch.add(directory.path)
    chmod(path, 0o644)
    #expect(try watch.changes() == [number])
  }

  @Test func aLinkIsWatchedItself() throws {
    try make(path)
    symlink(path, path + ".link")
    let watch = try FileWatch()
    let link = try watch.add(path + ".link")
    chmod(path, 0o644)
    #expect(try watch.changes() == [])
    unlink(path + ".link")
    #expect(try watch.changes() == [link])
  }

  @Test func whatIsNotThereCannotBeWatched() throws {
    let watch = try FileWatch()
    #expect(code { () throws(SystemError) in _ = try watch.add("/nowhere/file") } == ENOENT)
  }
}
