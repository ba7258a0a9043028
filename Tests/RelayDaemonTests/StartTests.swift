// SPDX-License-Identifier: Apache-2.0
// How a relayd starts after others: its pace, its settings, and what they left in files.

import Glibc
import LinuxIO
import Relay
import Testing

@testable import RelayDaemon

@Suite struct StartTests {
  @Test func theWaitGrowsAfterFiveShortLivesAndEndsWithALongOne() {
    var pace = RestartPace()
    let waits = (0..<12).map { _ in pace.waitSeconds(afterLifeOf: .milliseconds(999)) }
    #expect(waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30])
    #expect(RestartPace(shortLives: 7).waitSeconds == 4)
    #expect(pace.waitSeconds(afterLifeOf: .seconds(1)) == 0)
    #expect(pace.shortLives == 0)
  }

  @Test func lossEntriesAreFoundAgain() throws {
    let root = Root()
    let file = RuntimeFile(path: root.path("lost"))
    var log: [String] = []
    let entry = LossEntry(channel: "net/rx", cpu: 3, incarnation: .max, records: 1 << 40)
    let other = LossEntry(channel: "audit", cpu: 0, incarnation: 1, records: 2)
    let none = LossEntry(channel: "none", cpu: 0, incarnation: 1, records: 0)
    #expect(LossLedger(file) { log.append($0) }.store([entry, other, none]))
    let next = LossLedger(file) { log.append($0) }
    #expect(next.pending == [entry, other] && log.isEmpty)
    next.dropHanded { $0.incarnation == 1 }
    let channel = try Channel.openShared(
      "net/rx",
      Geometry(
        subbufSize: 4096, subbufCount: 2, isGlobal: true, online: CPUSet([0]),
        possible: CPUSet([0])))
    next.count(in: channel) { _ in false }
    // Its CPU has no buffer now: the first one has the count.
    #expect(Reader(channel, channel.buffers[0]).statistics().lostRestart == 1 << 40)
    next.count(in: channel) { _ in false }
    #expect(Reader(channel, channel.buffers[0]).statistics().lostRestart == 1 << 40)
    next.begin()
    #expect(LossLedger(file) { log.append($0) }.wasKilled && log.count == 1)
    #expect(next.end([]) && access(file.path, F_OK) != 0)
  }

  /// Killed between the count and the file, or between the file and the log.
  @Test func lossesAreCountedOnceAndToldAtMostOnceOverAKill() throws {
    let root = Root()
    let file = RuntimeFile(path: root.path("lost"))
    var log: [String] = []
    let entry = LossEntry(channel: "audit", cpu: 0, incarnation: 7, records: 2)
    #expect(LossLedger(file) { log.append($0) }.end([entry]))
    let channel = try Channel.openShared(
      "audit",
      Geometry(
        subbufSize: 4096, subbufCount: 2, isGlobal: true, online: CPUSet([0]),
        possible: CPUSet([0])))
    func lost() -> UInt64 { Reader(channel, channel.buffers[0]).statistics().lostRestart }
    LossLedger(file) { log.append($0) }.count(in: channel) { _ in false }
    #expect(lost() == 2 && log.isEmpty)
    // The next one is handed the memory, and finds the file as it was.
    let next = LossLedger(file) { log.append($0) }
    next.count(in: channel) { _ in false }
    #expect(lost() == 2)
    next.begin()
    #expect(log.count == 1 && log[0].hasPrefix("channel audit: 2 records that nobody had read"))
    let last = LossLedger(file) { log.append($0) }
    last.count(in: channel) { _ in false }
    last.begin()
    #expect(lost() == 2 && log.count == 1)
    file.remove()
  }

  /// What a relayd leaves is written however many buffers it has; what never comes again is let go
  /// of, and that is logged.
  @Test func lossesOfManyBuffersAreWritten() throws {
    let root = Root()
    let file = RuntimeFile(path: root.path("lost"))
    var log: [String] = []
    let count = LossLedger.maximumCount + 10
    let entries = (0..<count).map {
      LossEntry(channel: "c\($0 / 1024)x", cpu: $0 % 1024, incarnation: .max, records: 2)
    }
    #expect(LossLedger(file) { log.append($0) }.end(entries))
    let next = LossLedger(file) { log.append($0) }
    #expect(next.pending == entries && log.isEmpty)
    #expect(next.end([]))
    #expect(next.pending == Array(entries.dropFirst(10)))
    #expect(log.count == 1 && log[0].contains("20 records of channels that are not there any more"))
  }

  @Test(arguments: [
    "audit 0 1f", "audit 0 1f 2 3", "audit -1 1f 2", "audit 4096 1f 2", "audit 0 x 2",
    "audit 0 1f -2", "audit9 0 1f 2", "../x 0 1f 2", " 0 1f 2", "audit  0 1f 2",
  ])
  func aLineThatIsNoneIsLogged(_ line: String) {
    let root = Root()
    let file = RuntimeFile(path: root.write("lost", "# heading\n\(line)\naudit 0 1f 2\n"))
    var log: [String] = []
    let ledger = LossLedger(file) { log.append($0) }
    #expect(ledger.pending == [LossEntry(channel: "audit", cpu: 0, incarnation: 0x1f, records: 2)])
    #expect(log.count == 1 && log[0].hasSuffix(line))
  }

  @Test func whatIsNoFileOfOursIsNotRead() throws {
    let root = Root()
    let target = root.write("target", "audit 0 1f 2\n")
    let link = RuntimeFile(path: root.path("lost"))
    #expect(symlink(target, link.path) == 0)
    #expect(throws: SystemError.self) { try link.read() }
    // A replacement takes the link's place, not its target's.
    try link.replace("new\n")
    #expect(try link.read() == Array("new\n".utf8))
    #expect(try RuntimeFile(path: target).read() == Array("audit 0 1f 2\n".utf8))
    #expect(try RuntimeFile(path: root.path("none")).read() == nil)
  }

  @Test func settingsAreFoundAgainWithoutChannels() throws {
    var configuration = try load(
      "mount = \"/m\"\nsocket = \"/s\"\ncreate_group = 0\nmax_readers = 7\nmax_memory = \"1GiB\"\n"
        + "max_channels_per_user = 3\nmax_readers_per_user = 2\nmax_memory_per_user = 1000\n")
    let settings = KeptSettings(configuration, hadMainFile: true)
    func adopted(_ settings: KeptSettings) throws -> KeptSettings? {
      let file = try settings.file()
      return KeptSettings(adopting: file)
    }
    let found = try #require(try adopted(settings))
    configuration.channels = []
    #expect(found.configuration == configuration && found.hadMainFile)
    #expect(
      KeptSettings(adopting: try KeptSettings(configuration, hadMainFile: false).file())?
        .hadMainFile == false)
  }

  @Test(arguments: ["", "[", "nonsense", "[channel.a]\n"])
  func damagedSettingsAreNone(_ text: String) throws {
    let file = try MemoryFile.create(name: "settings", count: text.utf8.count)
    #expect(pwrite(file.raw, text, text.utf8.count, 0) == text.utf8.count)
    #expect(KeptSettings(adopting: file) == nil)
  }

  /// A group that is gone is no reason to lose a channel.
  @Test func channelsAreFoundAgainWhoseGroupIsGone() throws {
    let channel = try Channel.openShared(
      "a",
      Geometry(
        subbufSize: 4096, subbufCount: 2, isGlobal: true, online: CPUSet([0]),
        possible: CPUSet([0])))
    let notes = try #require(ChannelNotes(channel))
    var options = try ChannelOptions(parsing: "a:n_subbufs=2,global,owner=0,permissions=0440")
    options.group = "no-such-group"
    options.writers = "no-such-group"
    notes.store(options, .configured, ChannelNotes.Kin(owners: 1, life: 2))
    options.group = nil
    options.writers = nil
    #expect(notes.load(name: "a")?.options == options)
  }

  @Test func aMainFileThatWasThereIsMissed() throws {
    let root = Root()
    #expect(try root.sources.load(requiresMainFile: false, checksPaths: false).channels.count == 1)
    let error = #expect(throws: ConfigurationError.self) {
      try root.sources.load(requiresMainFile: true, checksPaths: false)
    }
    #expect(error?.complaints.first?.contains("relayd.toml: No such file") == true)
  }
}
