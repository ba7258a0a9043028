// SPDX-License-Identifier: Apache-2.0
// What relayd --hold makes of messages, well-formed and not, and how soon it starts relayd again.

import Glibc
import LinuxIO
import Testing

@testable import RelayDaemon

/// Descriptors as they come with a message.
private func list(_ count: Int) throws -> DescriptorList {
  let pair = try UnixSocket.pair()
  let file = try MemoryFile.create(name: "test", count: 0)
  let sent = try UnixSocket.send(
    pair.first.raw, UnsafeRawBufferPointer(start: nil, count: 0),
    descriptors: Array(repeating: file.raw, count: count))
  #expect(sent)
  return try withUnsafeTemporaryAllocation(byteCount: 16, alignment: 1) { buffer in
    guard
      var packet = try UnixSocket.receive(pair.second.raw, into: buffer, maximumDescriptors: 2)
    else { throw SystemError(code: EAGAIN, operation: "receive") }
    return packet.takeDescriptors()
  }
}

@Suite struct HeldDescriptorsTests {
  private final class Log {
    var lines: [String] = []
  }

  @Test(arguments: [
    ("FDSTORE=1\nFDNAME=a", 0, "a came with 0 descriptors instead of 1: not kept"),
    ("FDSTORE=1\nFDNAME=a", 2, "a came with 2 descriptors instead of 1: not kept"),
    ("FDSTORE=1\nFDNAME=a:b", 1, "a descriptor came with no name that can be: not kept"),
    ("FDSTORE=1\nFDNAME=", 1, "a descriptor came with no name that can be: not kept"),
  ])
  func whatCannotBeKeptIsSaid(_ message: String, _ count: Int, _ complaint: String) throws {
    let log = Log()
    let held = HeldDescriptors(capacity: 2) { log.lines.append($0) }
    #expect(held.obey(message, try list(count)) == [])
    #expect(log.lines == [complaint])
    #expect(held.count == 0)
  }

  @Test func noMoreAreKeptThanThereIsRoomFor() throws {
    let log = Log()
    let held = HeldDescriptors(capacity: 2) { log.lines.append($0) }
    for name in ["a", "b", "c", "a"] { _ = held.obey("FDSTORE=1\nFDNAME=\(name)", try list(1)) }
    #expect(log.lines == ["c is more than the 2 descriptors that can be kept: not kept"])
    #expect(Set(held.handOver.map(\.name)) == ["a", "b"])
  }

  @Test func whatIsDroppedIsClosed() throws {
    let held = HeldDescriptors(capacity: 2) { Issue.record("\($0)") }
    _ = held.obey("FDSTORE=1\nFDPOLL=0\nFDNAME=a", try list(1))
    let raw = try #require(held.handOver.first?.raw)
    var status = stat()
    #expect(fstat(raw, &status) == 0)
    let inode = status.st_ino
    _ = held.obey("FDSTOREREMOVE=1\nFDNAME=b", DescriptorList())
    #expect(held.count == 1)
    _ = held.obey("FDNAME=a\nFDSTOREREMOVE=1", DescriptorList())
    #expect(held.count == 0)
    #expect(fstat(raw, &status) != 0 || status.st_ino != inode)
  }

  @Test func theRestIsForSomebodyElse() throws {
    let held = HeldDescriptors(capacity: 2) { Issue.record("\($0)") }
    let message = "READY=1\n\nFDSTORE=1\nSTATUS=FDNAME=x\nFDNAME=a\nBARRIER=1"
    #expect(held.obey(message, try list(1)) == ["READY=1", "STATUS=FDNAME=x"])
    #expect(held.handOver.map(\.name) == ["a"])
  }
}

@Suite struct RestartPaceTests {
  @Test func whatKeepsEndingIsStartedMoreAndMoreSlowly() {
    var pace = RestartPace()
    let waits = (0..<12).map { _ in pace.waitSeconds(afterLifeOf: .milliseconds(999)) }
    #expect(waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30])
    #expect(pace.waitSeconds(afterLifeOf: .seconds(1)) == 0)
    #expect(pace.waitSeconds(afterLifeOf: .zero) == 0)
  }
}
