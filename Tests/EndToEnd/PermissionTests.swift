// SPDX-License-Identifier: Apache-2.0
// Who may do what: real processes of other users and groups, which exist by number only.

import Glibc
import LinuxIO
import Testing

extension OneAtATime {
  @Suite struct PermissionTests {
    /// Somebody who is in the groups 6001 … that are given, beside one of their own.
    static func user(_ uid: Int, in groups: Int...) -> [String] {
      let all = groups.map(String.init).joined(separator: ",")
      return ["setpriv", "--reuid=\(uid)", "--regid=\(uid)"]
        + (groups.isEmpty ? ["--clear-groups"] : ["--groups=\(all)"])
    }

    static let outsider = user(4003)
    static let creator = user(4001, in: 6001)
    static let otherCreator = user(4002, in: 6001)
    static let writer = user(4004, in: 6002)

    let daemon: Daemon

    init() throws {
      daemon = try Daemon(
        configuration: """
          create_group = 6001
          [channel.relay]
          global = true
          writers = 6002
          [channel.mine]
          global = true
          """)
      chmod(daemon.scratch.path, 0o755)
    }

    func refuses(
      _ arguments: [String], _ user: [String], _ reason: String,
      _ location: SourceLocation = #_sourceLocation
    ) throws {
      let finished = try daemon.relayctl(arguments, prefix: user)
      #expect(finished.status == 77, sourceLocation: location)
      #expect(finished.error.contains(reason), "\(finished.error)", sourceLocation: location)
    }

    func allows(
      _ arguments: [String], _ user: [String], _ location: SourceLocation = #_sourceLocation
    ) throws {
      let finished = try daemon.relayctl(arguments, prefix: user)
      #expect(finished.status == 0, "\(finished.error)", sourceLocation: location)
    }

    @Test(.onceIsEnough) func anyoneMayListAndCount() throws {
      for (command, lines) in [("list", 3), ("stat", 4)] {
        let finished = try daemon.relayctl([command], prefix: PermissionTests.outsider)
        #expect(finished.output.split(separator: "\n").count == lines, "\(finished.error)")
      }
    }

    @Test(.onceIsEnough) func onlyRootAndWritersWrite() throws {
      try allows(["write", "relay"], PermissionTests.writer)
      // The primary group counts as well.
      try allows(
        ["write", "relay"], ["setpriv", "--reuid=4005", "--regid=6002", "--clear-groups"])
      try allows(["write", "relay"], [])
      try allows(["flush", "relay"], PermissionTests.writer)
      for command in ["write", "flush"] {
        try refuses(
          [command, "relay"], PermissionTests.outsider,
          "user 4003 may not write into channel relay; those who may: root, relayd's own user, "
            + "members of group 6002 (its writers)\n")
        try refuses(
          [command, "mine"], PermissionTests.writer, "may: root, relayd's own user\n")
      }
    }

    @Test(.onceIsEnough) func onlyRootClosesAndResetsWhatIsConfiguredAndReloads() throws {
      for user in [PermissionTests.writer, PermissionTests.creator, PermissionTests.outsider] {
        try refuses(["close", "relay"], user, "may not close channel relay; those who may: root")
        try refuses(["reset", "relay"], user, "may not reset channel relay; those who may: root")
        try refuses(["reload"], user, "those who may: root and relayd's own user\n")
      }
      try allows(["reset", "relay"], [])
      try allows(["reload"], [])
      try allows(["close", "relay"], [])
    }

    @Test(.onceIsEnough) func onlyRootAndMembersOfTheCreateGroupCreate() throws {
      try refuses(
        ["create", "job"], PermissionTests.outsider,
        "user 4003 may not create channel job; those who may: root, relayd's own user and members "
          + "of group 6001 (create_group)\n")
      try refuses(["create", "job"], PermissionTests.writer, "(create_group)")
      try allows(["create", "job"], PermissionTests.creator)
      try allows(["create", "roots"], [])
    }

    @Test(.onceIsEnough) func withoutACreateGroupOnlyRootCreates() throws {
      let daemon = try Daemon("other:global")
      chmod(daemon.scratch.path, 0o755)
      let refused = try daemon.relayctl(["create", "job"], prefix: PermissionTests.creator)
      #expect(refused.status == 77)
      #expect(refused.error.contains("root and relayd's own user, as there is no create_group"))
      #expect(try daemon.relayctl("create", "job").status == 0)
    }

    @Test func aCreatedChannelIsItsCreators() throws {
      try allows(["create", "job", "--global", "--keep"], PermissionTests.creator)
      let device = daemon.device("job0")
      #expect(try run("stat", "-c", "%u:%g %a", device).output == "4001:4001 400\n")
      let written = try daemon.shell(
        "echo one | \(PermissionTests.creator.joined(separator: " ")) $BIN/relayctl write job")
      #expect(written.status == 0, "\(written.error)")
      #expect(try run(PermissionTests.creator + ["cat", device]).output == "one\n")
      for user in [PermissionTests.otherCreator, PermissionTests.outsider] {
        for command in ["write", "flush", "reset", "close"] {
          try refuses(
            [command, "job"], user, "those who may: root, relayd's own user, user 4001 who created")
        }
        #expect(try run(user + ["cat", device]).error.contains("Permission denied"))
      }
      for command in ["write", "flush", "reset", "close"] {
        try allows([command, "job"], PermissionTests.creator)
      }
      // Root may do the same to it.
      try allows(["create", "job", "--global", "--keep"], PermissionTests.creator)
      for command in ["write", "flush", "reset", "close"] { try allows([command, "job"], []) }
    }

    @Test(.onceIsEnough) func nobodyGivesAChannelToOthers() throws {
      try refuses(
        ["create", "job", "--owner", "4003"], PermissionTests.creator,
        "may not give channel job to owner 4003; those who may: root, relayd's own user")
      try refuses(
        ["create", "job", "--group", "6002"], PermissionTests.creator,
        "may not give channel job to group 6002; those who may: root, relayd's own user, its "
          + "members")
      try allows(
        ["create", "job", "--global", "--group", "6001", "--permissions", "0440"],
        PermissionTests.creator)
      #expect(try run("stat", "-c", "%u:%g %a", daemon.device("job0")).output == "4001:6001 440\n")
      #expect(try run(PermissionTests.otherCreator + ["cat", daemon.device("job0")]).status == 0)
      try allows(["create", "given", "--owner", "4003", "--group", "6002"], [])
    }

    @Test func aFileIsReadByWhomItsModeSays() throws {
      let options = "--global --keep --owner 4001 --group 6002 --permissions"
      for (mode, mayRead) in [
        ("0400", [true, false, false]), ("0040", [false, true, false]),
        ("0440", [true, true, false]), ("0444", [true, true, true]),
      ] {
        let name = "m\(mode)_"
        try daemon.shell("$BIN/relayctl create \(name) \(options) \(mode)")
        let device = daemon.device("\(name)0")
        #expect(try run("stat", "-c", "%u:%g 0%a", device).output.hasPrefix("4001:6002"))
        let users = [PermissionTests.creator, PermissionTests.writer, PermissionTests.outsider]
        #expect(try users.map { try run($0 + ["cat", device]).status == 0 } == mayRead, "\(mode)")
        #expect(try run("cat", device).status == 0, "root")
      }
    }
  }
}
