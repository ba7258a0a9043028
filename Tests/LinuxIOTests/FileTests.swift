// SPDX-License-Identifier: Apache-2.0
// Files read whole, names in a directory, and users and groups by name.

import Glibc
import LinuxIO
import Testing

@Suite struct FileTests {
  let directory = TemporaryDirectory()

  func write(_ bytes: [UInt8]) -> String {
    let path = "\(directory.path)/file"
    let file = fopen(path, "w")!
    fwrite(bytes, 1, bytes.count, file)
    fclose(file)
    return path
  }

  @Test func aFileIsReadWhole() throws {
    let bytes = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    #expect(try Files.contents(of: write(bytes), atMost: bytes.count) == bytes)
    #expect(try Files.contents(of: write([]), atMost: 0) == [])
  }

  @Test func aFileWithoutASizeIsReadWhole() throws {
    // In proc, files are regular and say that they are empty.
    let bytes = try Files.contents(of: "/proc/self/status", atMost: 1 << 20)
    #expect(bytes.starts(with: "Name:".utf8))
    #expect(bytes.last == UInt8(ascii: "\n"))
  }

  @Test func whatCannotBeReadIsToldApart() {
    let path = write([1, 2, 3])
    func read(_ path: String) -> CInt {
      code { () throws(SystemError) in _ = try Files.contents(of: path, atMost: 2) }
    }
    #expect(read(path) == EFBIG)
    #expect(read(directory.path) == EISDIR)
    #expect(read("/dev/zero") == EINVAL)
    #expect(read(path + "/none") == ENOTDIR)
    #expect(read(path + ".none") == ENOENT)
  }

  @Test func aPipeIsRefusedWithoutWaitingForItsWriter() {
    let path = "\(directory.path)/pipe"
    mkfifo(path, 0o600)
    #expect(
      code { () throws(SystemError) in _ = try Files.contents(of: path, atMost: 2) } == EINVAL)
  }

  @Test func aDirectorysNamesAreListed() throws {
    #expect(try Files.names(in: directory.path) == [])
    let path = write([])
    #expect(try Files.names(in: directory.path) == ["file"])
    #expect(code { () throws(SystemError) in _ = try Files.names(in: path) } == ENOTDIR)
    #expect(code { () throws(SystemError) in _ = try Files.names(in: path + "s") } == ENOENT)
  }
}

@Suite struct AccountTests {
  @Test func usersAndGroupsAreFoundByName() throws {
    #expect(try Accounts.userID("root") == 0)
    #expect(try Accounts.groupID("root") == 0)
    // Each user of the system, as the system itself lists them.
    let text = try Files.contents(of: "/etc/passwd", atMost: 1 << 20)
    for line in String(decoding: text, as: UTF8.self).split(separator: "\n") {
      let fields = line.split(separator: ":", omittingEmptySubsequences: false)
      #expect(try Accounts.userID(String(fields[0])) == UInt32(fields[2]))
    }
  }

  @Test func aNumberIsTakenAsItIs() throws {
    #expect(try Accounts.userID("12345") == 12345)
    #expect(try Accounts.groupID("4294967294") == 4_294_967_294)
  }

  @Test(arguments: ["", "no such account", "-1", "4294967295", "99999999999", "1 "])
  func whatIsNeitherIsNobody(_ name: String) throws {
    #expect(try Accounts.userID(name) == nil)
    #expect(try Accounts.groupID(name) == nil)
  }
}
