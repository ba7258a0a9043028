// SPDX-License-Identifier: Apache-2.0
// Every key: what it sets, from a file and from a command line, and what it refuses.

import Relay
import Testing

@testable import RelayDaemon

@Suite struct KeyTests {
  struct Row: Sendable, CustomTestStringConvertible {
    let key: String
    /// As a file has it.
    let value: String
    let isSet: @Sendable (Configuration) -> Bool
    var testDescription: String { "\(key) = \(value)" }

    init(_ key: String, _ value: String, _ isSet: @escaping @Sendable (Configuration) -> Bool) {
      (self.key, self.value, self.isSet) = (key, value, isSet)
    }
  }

  static let daemonKeys = [
    Row("backend", "\"fuse\"") { $0.backend == .fuse },
    Row("backend", "\"cuse\"") { $0.backend == .cuse },
    Row("mount", "\"/tmp/m\"") { $0.mountPoint == "/tmp/m" },
    Row("socket", "\"/tmp/s\"") { $0.socketPath == "/tmp/s" },
    Row("create_group", "\"root\"") { $0.createGroup == "root" },
    Row("create_group", "12345") { $0.createGroup == "12345" },
    Row("max_channels", "7") { $0.limits.channels == 7 },
    Row("max_channels_per_user", "6") { $0.limits.channelsPerUser == 6 },
    Row("max_producers", "8") { $0.limits.producers == 8 },
    Row("max_producers_per_user", "5") { $0.limits.producersPerUser == 5 },
    Row("max_readers", "9") { $0.limits.readers == 9 },
    Row("max_readers_per_user", "4") { $0.limits.readersPerUser == 4 },
    Row("max_memory_per_user", "\"64MiB\"") { $0.limits.memoryPerUser == 64 << 20 },
    Row("max_memory", "\"512MiB\"") { $0.limits.memory == 512 << 20 },
    Row("max_memory", "100000000") { $0.limits.memory == 100_000_000 },
  ]

  static let channelKeys = [
    Row("subbuf_size", "\"64KiB\"") { $0.channels[0].subbufSize == 65536 },
    Row("subbuf_size", "4097") { $0.channels[0].subbufSize == 4097 },
    Row("n_subbufs", "5") { $0.channels[0].subbufCount == 5 },
    Row("mode", "\"overwrite\"") { $0.channels[0].mode == .overwrite },
    Row("global", "true") { $0.channels[0].isGlobal },
    Row("timestamps", "true") { $0.channels[0].hasTimestamps },
    Row("prefault", "true") { $0.channels[0].isPrefaulted },
    Row("read", "\"block\"") { $0.channels[0].read == .block },
    Row("write", "true") { $0.channels[0].isWritable },
    Row("wakeup", "\"subbuffer\"") { $0.channels[0].wakeup == .subbuffer },
    Row("stall_timeout", "\"250ms\"") { $0.channels[0].stallTimeout == 250 },
    Row("stall_timeout", "\"3s\"") { $0.channels[0].stallTimeout == 3000 },
    Row("stall_timeout", "70") { $0.channels[0].stallTimeout == 70 },
    Row("consumer_timeout", "\"2s\"") { $0.channels[0].consumerTimeout == 2000 },
    Row("consumer_timeout", "\"never\"") { $0.channels[0].consumerTimeout == nil },
    Row("stall_timeout", "\"never\"") { $0.channels[0].stallTimeout == nil },
    Row("owner", "\"root\"") { $0.channels[0].owner == "root" },
    Row("owner", "12345") { $0.channels[0].owner == "12345" },
    Row("group", "\"root\"") { $0.channels[0].group == "root" },
    Row("permissions", "\"0440\"") { $0.channels[0].permissions == 0o440 },
    Row("permissions", "\"640\"") { $0.channels[0].permissions == 0o640 },
    Row("writers", "\"root\"") { $0.channels[0].writers == "root" },
    Row("max_producers", "3") { $0.channels[0].maximumProducers == 3 },
  ]

  @Test func everyKeyHasARow() {
    #expect(Set(KeyTests.daemonKeys.map(\.key)) == Set(Configuration.keys))
    #expect(Set(KeyTests.channelKeys.map(\.key)) == Set(ChannelOptions.keys))
  }

  @Test func theDefaultsAreRelays() throws {
    let configuration = try ConfigurationSources(root: Root().path).load()
    #expect(configuration.backend == .auto)
    #expect(configuration.mountPoint == "/run/relayd/relayfs")
    #expect(configuration.socketPath == Configuration.defaultSocketPath)
    #expect(configuration.createGroup == nil)
    #expect(configuration.limits == Limits())
    #expect(configuration.limits.channels == 1024)
    #expect(configuration.limits.producers == 4096)
    #expect(configuration.limits.readers == 4096)
    #expect(configuration.limits.memory == nil)
    #expect(!configuration.waitsForCUSE)
    #expect(configuration.channels == [try ChannelOptions(name: "relay")])
  }

  @Test(arguments: daemonKeys) func aKeyOfTheDaemon(_ row: Row) throws {
    #expect(!row.isSet(try load("")))
    #expect(row.isSet(try load("\(row.key) = \(row.value)\n")))
  }

  @Test(arguments: channelKeys) func aKeyOfAChannel(_ row: Row) throws {
    #expect(!row.isSet(try load("[channel.a]\n")))
    #expect(row.isSet(try load("[channel.a]\n\(row.key) = \(row.value)\n")))
    #expect(row.isSet(try load("channel = { a = { \(row.key) = \(row.value) } }\n")))
  }

  @Test(arguments: channelKeys) func anOptionOnTheCommandLine(_ row: Row) throws {
    let word = row.value.filter { $0 != "\"" }
    let isFlag = ["global", "timestamps", "prefault", "write"].contains(row.key)
    let option = isFlag ? row.key : "\(row.key)=\(word)"
    let sources = ConfigurationSources(channelArguments: ["a:\(option)"], root: Root().path)
    #expect(row.isSet(try sources.load()))
  }

  @Test(arguments: [
    ("backend = \"cus\"", #"backend = "cus" is neither "auto" nor "cuse" nor "fuse""#),
    ("backend = 1", "is neither"),
    ("mount = \"here\"", "is not an absolute path such as"),
    ("mount = true", "mount = true is not an absolute path"),
    ("socket = \"\"", "is not an absolute path"),
    ("socket = \"/\(String(repeating: "a", count: 107))\"", "is over 107 bytes"),
    ("create_group = \"no such group\"", "names no group of this system"),
    ("create_group = 1.5", "a number with a fraction is not a group's name or number"),
    ("max_channels = 0", "max_channels = 0 allows nothing; use 1 or more"),
    ("max_channels = \"7\"", #"max_channels = "7" is not a whole number such as 1024"#),
    ("max_producers = -1", "allows nothing"),
    ("max_memory_per_user = 0", "allows nothing; use 1 or more"),
    ("max_readers = 1e3", "is not a whole number such as 4096"),
    ("max_memory = 0", "allows nothing"),
    ("max_memory = \"1GB\"", #"max_memory = "1GB" is not a size such as 262144, "256KiB" or"#),
    ("max_memory = [1]", "an array is not a size"),
    ("colour = 1", "unknown key colour; there are backend, mount, socket, create_group, "),
    ("colour.of.it = 1", "unknown key colour"),
    ("\"\" = 1", "unknown key \"\""),
    ("[backend]", "backend: a table is neither"),
    ("[[max_readers]]", "max_readers: an array is not"),
    ("channel = 1", "channel = 1 is not a table; a channel is [channel.NAME]"),
    ("[[channel]]", "channel: an array is not a table"),
    ("channel.a = \"b\"", #"channel.a = "b" is not a table"#),
    ("backend = 2000-01-01", "a date is neither"),
    ("backend = 10:00:00", "a time is neither"),
    ("backend = 2000-01-01T10:00:00Z", "a date with time is neither"),
  ])
  func aRefusal(_ statement: String, _ reason: String) throws {
    let found = complaints(about: "# first\n\n\(statement)\n# last\n")
    #expect(found.count == 1)
    let complaint = try #require(found.first)
    #expect(complaint.hasPrefix("3: "), "\(complaint)")
    #expect(complaint.contains(reason), "\(complaint)")
  }

  @Test(arguments: [
    ("subbuf_size = \"256KB\"", #"subbuf_size = "256KB" is not a size such as 262144, "256KiB""#),
    ("subbuf_size = \"99999999999GiB\"", "is over what 64 bits hold"),
    ("subbuf_size = 0", "cannot hold a record; use 1 or more"),
    ("subbuf_size = -4096", "cannot hold a record"),
    ("subbuf_size = \"33MiB\"", "over the limit of 33554432 bytes"),
    ("n_subbufs = 1", "use 2 or more"),
    ("n_subbufs = 65537", "over the limit of 65536"),
    ("n_subbufs = \"8\"", #"n_subbufs = "8" is not a whole number such as 8"#),
    ("mode = \"ring\"", #"mode = "ring" is neither "discard" nor "overwrite""#),
    ("global = \"yes\"", "is neither true nor false"),
    ("global = 1", "global = 1 is neither true nor false"),
    ("write = \"true\"", "is neither true nor false"),
    ("prefault = 1", "prefault = 1 is neither true nor false"),
    ("read = \"wait\"", #"is neither "eof" nor "block""#),
    ("wakeup = \"always\"", #"is neither "data" nor "subbuffer""#),
    ("stall_timeout = \"1m\"", #"is neither a time such as "500ms" or "1s" nor "never""#),
    ("stall_timeout = true", "is neither a time"),
    ("stall_timeout = 9", "stall_timeout = 9 is too short: a writer may wait as long for its CPU"),
    ("stall_timeout = \"0s\"", "is too short"),
    ("stall_timeout = \"86401s\"", #"is over a day; use "never""#),
    ("stall_timeout = \"9223372036854775807s\"", "is neither a time"),
    ("owner = \"nobody we know\"", "names no user of this system; create it, or use its number"),
    ("owner = \"\"", "names no user"),
    ("owner = -1", "names no user"),
    ("owner = 4294967295", "names no user"),
    ("owner = false", #"owner = false is not a user's name or number, such as "root""#),
    ("group = \"no such group\"", "names no group"),
    ("permissions = 400", #"permissions = 400 is not a file mode of octal digits such as "0400""#),
    ("permissions = \"0480\"", "is not a file mode"),
    ("permissions = \"4755\"", "is not a file mode"),
    ("permissions = \"00400\"", "is not a file mode"),
    ("permissions = \"r--\"", "is not a file mode"),
    ("writers = \"no such group\"", "names no group"),
    ("max_producers = 0", "allows nothing; use 1 or more"),
    (
      "colour = 1",
      "unknown option colour; there are subbuf_size, n_subbufs, mode, global, timestamps, "
    ),
    ("mode = {}", "mode: a table is neither"),
    ("mode.x = 1", "mode: a table is neither"),
  ])
  func anOptionsRefusal(_ statement: String, _ reason: String) throws {
    let found = complaints(about: "[channel.a]\n\n\(statement)\n")
    #expect(found.count == 1)
    let complaint = try #require(found.first)
    #expect(complaint.hasPrefix("3: channel a: "), "\(complaint)")
    #expect(complaint.contains(reason), "\(complaint)")
  }

  @Test(arguments: [
    ("[channel.relay1]", "a name may not end in a digit: relay1 + CPU 0"),
    ("[channel.\"\"]", "a channel needs a name"),
    ("[channel.\"net//rx\"]", "put single / between"),
    ("[channel.\"/rx\"]", "put single / between"),
    ("[channel.\"net/..\"]", "use letters, digits, _, . and -"),
    (
      "[channel.a.b]",
      "unknown table b in channel a; a channel's name with . or / is quoted, as in "
        + "[channel.\"net/rx\"]"
    ),
    ("[channel.a.mode]", "channel a: mode: a table is neither"),
    ("[channel.a.b.c.d.e.f]", "quoted, as in [channel.\"net/rx\"]"),
  ])
  func aRefusedName(_ header: String, _ reason: String) throws {
    let found = complaints(about: "# first\n\(header)\n")
    #expect(found.count == 1)
    let complaint = try #require(found.first)
    #expect(complaint.hasPrefix("2: "), "\(complaint)")
    #expect(complaint.contains(reason), "\(complaint)")
  }
}
