// SPDX-License-Identifier: Apache-2.0
// Who may do what: each user against each kind of channel.

import Glibc
import LinuxIO
import Relay
import RelayControl
import Testing

@testable import RelayDaemon

@Suite struct AccessTests {
  enum User: CaseIterable {
    case root, daemon, creator, member, outsider

    var peer: PeerCredentials {
      switch self {
      case .root: PeerCredentials(pid: 1, uid: 0, gid: 0)
      case .daemon: PeerCredentials(pid: 1, uid: geteuid(), gid: 9)
      case .creator: PeerCredentials(pid: 1, uid: 4001, gid: 4001)
      case .member: PeerCredentials(pid: 1, uid: 4002, gid: 4002, groups: [5, 6001])
      case .outsider: PeerCredentials(pid: 1, uid: 4003, gid: 4003, groups: [5])
      }
    }
  }

  private func served(
    _ origin: ServedChannel.Origin, writers: String?
  ) throws -> ServedChannel {
    var options = try ChannelOptions(parsing: "a:global")
    options.writers = writers
    let geometry = try Geometry(
      subbufSize: 4096, subbufCount: 2, isGlobal: true, online: CPUSet([0]), possible: CPUSet([0]))
    return ServedChannel(
      options, origin, try Channel.open("a", geometry), try Identity(options), pathPrefix: "/dev/a")
  }

  private func allowed(_ check: (PeerCredentials) throws -> Void) -> Set<User> {
    Set(User.allCases.filter { (try? check($0.peer)) != nil })
  }

  @Test func writing() throws {
    let access = Access(createGroup: nil)
    let created = ServedChannel.Origin.created(uid: 4001, isKept: false)
    func writers(_ origin: ServedChannel.Origin, _ group: String?) throws -> Set<User> {
      let channel = try served(origin, writers: group)
      return allowed { try access.checkWrite($0, channel) }
    }
    #expect(try writers(.configured, nil) == [.root, .daemon])
    #expect(try writers(.configured, "6001") == [.root, .daemon, .member])
    #expect(try writers(created, nil) == [.root, .daemon, .creator])
    #expect(try writers(created, "6001") == [.root, .daemon, .creator, .member])
  }

  @Test func closing() throws {
    let access = Access(createGroup: try Group(named: "6001"))
    let configured = try served(.configured, writers: "6001")
    let created = try served(.created(uid: 4001, isKept: true), writers: "6001")
    #expect(allowed { try access.checkOwner($0, configured, to: "close") } == [.root, .daemon])
    #expect(
      allowed { try access.checkOwner($0, created, to: "close") } == [.root, .daemon, .creator])
  }

  @Test func creatingAndReloading() throws {
    let open = Access(createGroup: try Group(named: "6001"))
    let shut = Access(createGroup: nil)
    #expect(allowed { try open.checkCreate($0, "a") } == [.root, .daemon, .member])
    #expect(allowed { try shut.checkCreate($0, "a") } == [.root, .daemon])
    #expect(allowed { try open.checkReload($0) } == [.root, .daemon])
  }

  @Test func giving() throws {
    let access = Access(createGroup: nil)
    func givers(_ owner: String, _ group: String) throws -> Set<User> {
      var options = try ChannelOptions(name: "a")
      (options.owner, options.group) = (owner, group)
      let identity = try Identity(options)
      return allowed { try access.checkIdentity($0, identity, "a") }
    }
    #expect(try givers("4002", "4002") == [.root, .daemon, .member])
    #expect(try givers("4002", "6001") == [.root, .daemon, .member])
    #expect(try givers("4002", "4003") == [.root, .daemon])
    #expect(try givers("4001", "6001") == [.root, .daemon])
  }

  @Test func aGroupOrUserThatIsGoneIsNamed() throws {
    #expect(throws: OptionError("there is no group nobody-we-know")) {
      try Group(named: "nobody-we-know")
    }
    var options = try ChannelOptions(name: "a")
    options.owner = "nobody-we-know"
    #expect(throws: OptionError("there is no user nobody-we-know")) { try Identity(options) }
  }

  @Test func processesAreHiddenWhereTheLastProcHidesThem() {
    func hides(_ options: String...) -> Bool {
      let lines = options.map { "proc /proc proc \($0) 0 0\n" }
      return Access.hidesProcesses(
        mounts: "none / overlay rw 0 0\n" + lines.joined() + "proc /other proc hidepid=2 0 0\n")
    }
    #expect(!hides() && !hides("rw,relatime") && !hides("rw,hidepid=0") && !hides("hidepid=off"))
    for option in ["1", "2", "4", "noaccess", "invisible", "ptraceable"] {
      #expect(hides("rw,nosuid,hidepid=\(option)"), "\(option)")
    }
    #expect(!hides("rw,hidepid=2", "rw"), "another one is mounted over it")
    #expect(hides("rw", "rw,hidepid=invisible"))
  }
}
