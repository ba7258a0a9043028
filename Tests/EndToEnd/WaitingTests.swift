// SPDX-License-Identifier: Apache-2.0
// Waiting for data in poll, and what ends the wait.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct WaitingTests {
    func polled(_ fd: CInt, _ milliseconds: CInt) -> Int16 {
      var poller = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
      return poll(&poller, 1, milliseconds) > 0 ? poller.revents : 0
    }

    @Test func pollSaysWhetherARereadWouldReturnData() throws {
      let daemon = try Daemon("relay:global")
      let device = try FileDescriptor.open(daemon.device("relay0"), O_RDONLY)
      #expect(polled(device.raw, 0) == 0)
      try daemon.write("one\n")
      #expect(polled(device.raw, 0) == Int16(POLLIN))
      #expect(try run("cat", daemon.device("relay0")).output == "one\n")
      #expect(polled(device.raw, 0) == 0)
    }

    @Test func aPollLoopGetsEveryLineSoonAfterItIsWritten() throws {
      let daemon = try Daemon("relay:global")
      let reader = try Follower(daemon)
      var expected = ""
      for i in 0..<20 {
        try daemon.write("line \(i)\n")
        expected += "line \(i)\n"
        try eventually("line \(i) arrives") { reader.output == expected }
      }
    }

    @Test func aSuccessorTakesOverFromAKilledDaemon() throws {
      let daemon = try Daemon("relay:global")
      daemon.end(SIGKILL)
      let successor = try Daemon("relay:global", in: daemon.scratch)
      try successor.write("again\n")
      #expect(try run("cat", successor.device("relay0")).output == "again\n")
    }

    @Test(arguments: [SIGTERM, SIGKILL])
    func whoFollowsAndWhoWaitsForSpaceLearnsOfTheEnd(_ signal: CInt) throws {
      let daemon = try Daemon("relay:global", "full:global,subbuf_size=4096,n_subbufs=2")
      let zero = try FileDescriptor.open("/dev/zero", O_RDONLY)
      let follower = try Follower(daemon)
      let writer = try ChildProcess(
        [program("relayctl"), "write", "full", "--block", "64"], input: zero.raw,
        environment: ["RELAY_SOCKET": daemon.socket])
      try daemon.write("one\n")
      try eventually("the line arrives") { follower.output == "one\n" }
      try eventually("the channel is full") {
        try daemon.statistic("records_unread", of: "full") == 128
      }
      daemon.end(signal)
      // It waits for the next one.
      try eventually("it has noticed") { follower.error.contains("relayd is gone") }
      follower.signal(SIGTERM)
      #expect(follower.wait() == 128 + Int(SIGTERM))
      #expect(writer.wait() == 69)
    }
  }
}
