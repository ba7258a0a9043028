// SPDX-License-Identifier: Apache-2.0
// What one relayd leaves for the next, as the next one finds it.

import Glibc
import LinuxIO
import Relay
import Testing

@testable import RelayDaemon

@Suite struct KeptStateTests {
  private func copy(_ fd: CInt) -> FileDescriptor {
    FileDescriptor(owning: fcntl(fd, F_DUPFD_CLOEXEC, 0))
  }

  private func isRefused(_ fd: CInt) -> Bool {
    OwnerTable(adopting: copy(fd)) == nil
  }

  @Test func ownersAreFoundAgain() throws {
    let table = try OwnerTable()
    let entry = OwnerTable.Entry(pid: 12, uid: 1000, startTime: 1 << 40)
    let other = OwnerTable.Entry(pid: 0, uid: .max, startTime: 0)
    table.set(1, entry)
    table.set(Channel.highestOwner, other)
    table.set(7, entry)
    table.free(7)
    guard let next = OwnerTable(adopting: copy(table.descriptor)) else {
      throw OptionError("it is refused")
    }
    let used = try #require(next.entries())
    #expect(used.map(\.owner) == [1, Channel.highestOwner])
    #expect(used.map(\.entry) == [entry, other])
  }

  @Test func aDamagedEntryMakesAllWorthless() throws {
    let table = try OwnerTable()
    table.set(1, OwnerTable.Entry(pid: 12, uid: 0, startTime: 5))
    // The low half of the second of its three words, after the magic.
    #expect(pwrite(table.descriptor, "\u{1}", 1, 8 + 3 * 8 + 8) == 1)
    #expect(table.entries() == nil)
  }

  @Test func whatIsNoTableIsRefused() throws {
    let table = try OwnerTable()
    let short = try MemoryFile.create(name: "short", count: 4096)
    try MemoryFile.seal(short.raw, [.shrink, .grow])
    #expect(isRefused(short.raw))
    let pipe = try Pipe()
    #expect(isRefused(pipe.read.raw))
    #expect(pwrite(table.descriptor, "X", 1, 0) == 1)
    #expect(isRefused(table.descriptor))
  }

  private let kin = ChannelNotes.Kin(owners: 1, life: 2)

  private func shared() throws -> Channel {
    try Channel.openShared(
      "a/b",
      Geometry(
        subbufSize: 4096, subbufCount: 2, isGlobal: true, online: CPUSet([0]),
        possible: CPUSet([0])))
  }

  @Test func optionsAreFoundAgain() throws {
    let channel = try shared()
    let notes = try #require(ChannelNotes(channel))
    #expect(notes.load(name: "a/b") == nil)
    var options = try ChannelOptions(
      parsing: "a/b:subbuf_size=5000,n_subbufs=3,mode=overwrite,global,timestamps,read=block,"
        + "write,wakeup=subbuffer,stall_timeout=never,consumer_timeout=70ms,owner=0,group=0,"
        + "permissions=0640,writers=root,max_producers=9")
    for origin in [
      ServedChannel.Origin.configured, .created(uid: 0, isKept: false),
      .created(uid: 4_000_000_000, isKept: true),
    ] {
      notes.store(options, origin, kin)
      let found = try #require(notes.load(name: "a/b"))
      #expect(found.options == options && found.origin == origin)
    }
    options = try ChannelOptions(name: "a/b")
    notes.store(options, .configured, kin)
    #expect(notes.load(name: "a/b")?.options == options)
    notes[5] = true
    notes[Channel.highestOwner] = true
    #expect(notes[5] && notes[Channel.highestOwner] && !notes[4] && !notes[6])
    notes[5] = false
    #expect(!notes[5] && notes.load(name: "a/b")?.options == options)
  }

  @Test func damagedOptionsAreNone() throws {
    let channel = try shared()
    let notes = try #require(ChannelNotes(channel))
    notes.store(try ChannelOptions(name: "a/b"), .configured, kin)
    let page = try #require(channel.notes)
    for index in [0, 8, 16, 24, 64, 71] {
      page[index] ^= 1
      #expect(notes.load(name: "a/b") == nil, "byte \(index)")
      page[index] ^= 1
    }
    #expect(notes.load(name: "a/b") != nil)
  }
}
