// SPDX-License-Identifier: Apache-2.0
// Other users at the socket: they are served and known, and none of them keeps others out. Each
// test in a process of its own, because that process becomes those users.

import Glibc
import LinuxIO
import Testing

@testable import RelayControl

@Suite(.enabled(if: getuid() == 0, "needs to become other users")) struct UserTests {
  @Test func anotherUserIsServedAndKnown() async {
    await #expect(processExitsWith: .success) {
      #expect(setegid(4_000) == 0)
      #expect(setgroups(2, [4_001, 4_002]) == 0)
      let crowd = try Crowd()
      try crowd.client(65_534, asking: true)
      let peer = crowd.channels.calls("describe")[0].peer
      #expect(
        peer == PeerCredentials(pid: getpid(), uid: 65_534, gid: 4_000, groups: [4_001, 4_002]))
    }
  }

  @Test func aUserWithTooManyConnectionsIsToldSoAndOthersAreServed() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd(perUser: 2)
      for _ in 1...2 { try crowd.client(65_534, attaching: true) }
      let third = try crowd.client(65_534, asking: false)
      let refusal = ControlRefusal(
        code: EMFILE, message: "user 65534 has 2 connections open already")
      #expect(try third.reply() == .refused(refusal))
      for uid: UInt32 in [65_533, 0, 0, 0] { try crowd.client(uid, asking: true) }
      #expect(crowd.connectionCount == 6)
    }
  }

  @Test func aUsersOwnSilentConnectionGivesWay() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd(perUser: 2)
      let neighbour = try crowd.client(65_533, asking: false)
      let silent = try crowd.client(65_534, asking: false)
      for _ in 1...2 { try crowd.client(65_534, asking: true) }
      #expect(silent.isOver(withinMilliseconds: 10_000))
      #expect(!neighbour.isOver(withinMilliseconds: 0))
    }
  }

  @Test func whoAskedLongestAgoGivesWayWhereNobodyIsSilent() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd(perUser: 3)
      let attached = try crowd.client(65_534, attaching: true)
      let first = try crowd.client(65_534, asking: true)
      let second = try crowd.client(65_534, asking: true)
      try first.send(.list(index: 0))
      try crowd.client(65_534, asking: true)
      #expect(second.isOver(withinMilliseconds: 10_000))
      for client in [attached, first] { #expect(!client.isOver(withinMilliseconds: 0)) }
    }
  }

  @Test func allOthersTogetherLeaveRoomForRoot() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd(connections: 3, ofOthers: 2)
      let rootsSilent = try crowd.client(0, asking: false)
      for uid: UInt32 in [65_533, 65_534] { try crowd.client(uid, attaching: true) }
      let third = try crowd.client(65_532, asking: false)
      let refusal = ControlRefusal(
        code: EMFILE, message: "2 connections of other users are open already")
      #expect(try third.reply() == .refused(refusal))
      #expect(!rootsSilent.isOver(withinMilliseconds: 0))
    }
  }

  @Test func theLastDescriptorsAreRootsWhateverOthersHold() async {
    await #expect(processExitsWith: .success) {
      // As many descriptors as this process has now, and a few for the server and its clients.
      let free = fcntl(0, F_DUPFD_CLOEXEC, 0)
      close(free)
      let crowd = try Crowd(descriptors: Int(free) + 30)
      var refusals: [ControlRefusal] = []
      var held = 0
      while refusals.isEmpty, held < 40 {
        let client = try crowd.client(65_534)
        if client.isOver(withinMilliseconds: 0) {
          if case .refused(let refusal) = try client.reply() { refusals.append(refusal) }
          break
        }
        try client.send(.attach(channel: "relay"))
        try crowd.serve()
        guard case .refused(let refusal) = try client.reply() else {
          held += 1
          continue
        }
        refusals.append(refusal)
      }
      #expect(held > 0)
      let refusal = try #require(refusals.first)
      #expect(refusal.code == EMFILE && refusal.message.contains("LimitNOFILE="))
      try crowd.client(0, attaching: true)
    }
  }

  @Test func anIdleConnectionGivesItsDescriptorToANewcomer() async {
    await #expect(processExitsWith: .success) {
      let free = fcntl(0, F_DUPFD_CLOEXEC, 0)
      close(free)
      let crowd = try Crowd(descriptors: Int(free) + 30)
      let first = try crowd.client(65_534, asking: true)
      for _ in 1...40 { try crowd.client(65_533, asking: true) }
      #expect(first.isOver(withinMilliseconds: 0))
      #expect(crowd.connectionCount < 30)
    }
  }

  @Test func theDaemonsOwnUserAndRootHaveNoLimitOfTheirOwn() async {
    await #expect(processExitsWith: .success) {
      let crowd = try Crowd(perUser: 1, owner: 65_533)
      for uid: UInt32 in [65_533, 65_533, 0, 0, 65_534] {
        try crowd.client(uid, attaching: true)
      }
      let tooMany = try crowd.client(65_534, asking: false)
      guard case .refused = try tooMany.reply() else {
        Issue.record("one too many was let in")
        return
      }
      #expect(crowd.connectionCount == 5)
    }
  }
}
