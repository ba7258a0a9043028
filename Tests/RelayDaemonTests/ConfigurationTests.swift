// SPDX-License-Identifier: Apache-2.0
// What files and command line come to together, what is refused about the whole, and that what
// --check prints is read as the same.

import LinuxIO
import Relay
import Testing

@testable import RelayDaemon

@Suite struct ConfigurationTests {
  /// All is other than the default, and in need of quoting where it can be.
  static let everything = """
    backend = "fuse"
    mount = "/tmp/a \\"mount\\"\\t\\u007F\\\\ é"
    socket = "/tmp/s"
    create_group = "root"
    max_channels = 7
    max_channels_per_user = 3
    max_producers = 8
    max_readers = 9
    max_readers_per_user = 4
    max_memory = "512MiB"
    max_memory_per_user = 1000

    [channel."net/rx.a"]
    subbuf_size = 4097
    n_subbufs = 3
    mode = "overwrite"
    global = true
    read = "block"
    write = true
    wakeup = "subbuffer"
    stall_timeout = "1500ms"
    consumer_timeout = "never"
    owner = 12345
    group = "root"
    permissions = "0044"
    writers = "root"
    max_producers = 3

    [channel.z-9_]
    """

  @Test func whatIsPrintedIsReadAsTheSame() throws {
    for text in ["", ConfigurationTests.everything] {
      let configuration = try load(text)
      #expect(try load(configuration.toml) == configuration)
    }
    let configuration = try load(ConfigurationTests.everything)
    for key in Configuration.keys + ChannelOptions.keys {
      #expect(configuration.toml.contains("\n\(key) = ") || key == "backend", "\(key)")
    }
    #expect(configuration.toml.hasPrefix("backend = \"fuse\"\n"))
  }

  @Test func theCommandLineWins() throws {
    let root = Root()
    root.write("etc/relayd/relayd.toml", ConfigurationTests.everything)
    var sources = root.sources
    sources.backend = .cuse
    sources.mountPoint = "/tmp/m2"
    sources.socketPath = "/tmp/s2"
    sources.channelArguments = ["relay:n_subbufs=4", "audit"]
    sources.waitsForCUSE = true
    let configuration = try sources.load()
    #expect(configuration.backend == .cuse)
    #expect(configuration.mountPoint == "/tmp/m2")
    #expect(configuration.socketPath == "/tmp/s2")
    #expect(configuration.waitsForCUSE)
    #expect(configuration.channels.map(\.name) == ["net/rx.a", "z-9_", "relay", "audit"])
    #expect(configuration.channels[2].subbufCount == 4)
  }

  @Test func aRelativePathOnTheCommandLineIsMadeAbsolute() throws {
    var sources = Root().sources
    sources.mountPoint = "m"
    sources.socketPath = "s"
    let configuration = try sources.load()
    #expect(configuration.mountPoint.hasPrefix("/") && configuration.mountPoint.hasSuffix("/m"))
    #expect(configuration.socketPath.hasPrefix("/") && configuration.socketPath.hasSuffix("/s"))
  }

  @Test func theChannelOfNoChannelsIsRelay() throws {
    var sources = Root().sources
    #expect(try sources.load().channels.map(\.name) == ["relay"])
    sources.channelArguments = ["audit"]
    #expect(try sources.load().channels.map(\.name) == ["audit"])
    #expect(try load("[channel.a]").channels.map(\.name) == ["a"])
  }

  @Test func anEmptyPathIsRefused() {
    var sources = Root().sources
    sources.mountPoint = ""
    sources.socketPath = ""
    #expect(
      complaints(sources) == [
        "--mount is empty; it needs a path", "--socket is empty; it needs a path",
      ])
  }

  @Test func aChannelGivenTwiceIsRefused() {
    let root = Root()
    let path = root.write("t.toml", "\n[channel.a]")
    #expect(
      complaints(ConfigurationSources(configPath: path, channelArguments: ["a"])) == [
        "\(path):2: channel a is given twice, here and by --channel"
      ])
    var sources = Root().sources
    sources.channelArguments = ["b", "b"]
    #expect(complaints(sources) == ["channel b is given twice"])
  }

  @Test func aDeviceWhereADirectoryHasToBeIsRefused() {
    let reason = "its directory net12 would be a device of channel net; rename one of them"
    #expect(
      complaints(about: "[channel.\"net12/a/b\"]\n[channel.net]") == [
        "1: channel net12/a/b: \(reason)"
      ])
    #expect(
      complaints(about: "[channel.\"a/b0/c\"]\n[channel.\"a/b\"]\n[channel.a]").count == 1)
    #expect(complaints(about: "[channel.\"net/rx\"]\n[channel.net]\n[channel.\"n0/x\"]") == [])
  }

  @Test func waitingForCUSEWithFUSEIsRefused() {
    let root = Root()
    let path = root.write("t.toml", "\nbackend = \"fuse\"")
    var sources = ConfigurationSources(configPath: path, waitsForCUSE: true)
    #expect(
      complaints(sources) == [
        "\(path):2: --wait-for-cuse waits for CUSE, and backend is fuse; use auto or cuse"
      ])
    sources.backend = .auto
    #expect(complaints(sources) == [])
  }

  @Test func aChannelOverTheMachinesMemoryIsRefusedWhereItsSizeIs() throws {
    let text = "[channel.a]\nn_subbufs = 65536\nsubbuf_size = \"32MiB\"\n"
    let complaint = try #require(complaints(about: text).first)
    #expect(complaint.hasPrefix("3: channel a: "), "\(complaint)")
    #expect(complaint.contains("this machine has \(Geometry.physicalMemory)"), "\(complaint)")
    // The default size: the number alone is too much.
    let number = Geometry.physicalMemory >> 25
    guard number <= 65536 else { return }
    let other =
      "[channel.a]\nsubbuf_size = \"32MiB\"\n[channel.b]\nn_subbufs = \(number)\n"
      + "subbuf_size = \"32MiB\""
    #expect(complaints(about: other).map { $0.prefix(3) } == ["5: "])
  }

  @Test func channelsOverTheMachinesMemoryTogetherAreRefused() throws {
    let cpus = try Processors.online().count
    // Each, with its index, takes a bit over half.
    let count = Geometry.physicalMemory / 2 / (2 << 20) / cpus + 1
    let options = "subbuf_size = \"1MiB\"\nn_subbufs = \(count)\n"
    let found = complaints(about: "[channel.a]\n\(options)[channel.b]\n\(options)")
    #expect(found.count == 1)
    #expect(try #require(found.first).contains("the channels can take"))
    #expect(try #require(found.first).contains("this machine has"))
  }

  @Test func theDaemonsOwnLimitsAreKept() throws {
    let many = "max_channels = 1\n[channel.a]\n[channel.b]\n"
    #expect(
      complaints(about: many) == [
        "1: 2 channels, and max_channels is 1; raise it, or take some out"
      ])
    let big = "\nmax_memory = \"64KiB\"\n[channel.a]\n"
    let complaint = try #require(complaints(about: big).first)
    #expect(complaint.hasPrefix("2: the channels can take "), "\(complaint)")
    #expect(complaint.hasSuffix("max_memory is 65536; make them smaller, or raise it"))
  }
}

/// Sources/Support/relayd.toml, which is installed as an example.
@Suite struct ExampleTests {
  static let lines: [Substring] = {
    let path = #filePath.split(separator: "/").dropLast(3).map { "/\($0)" }.joined()
    let bytes = try? Files.contents(of: path + "/Sources/Support/relayd.toml", atMost: 1 << 20)
    return String(decoding: bytes ?? [], as: UTF8.self).split(separator: "\n")
  }()

  /// Settings stand right behind their #, explanations after a space.
  static let uncommented = lines.map {
    $0.hasPrefix("#") && !$0.hasPrefix("# ") ? $0.dropFirst() : $0
  }

  @Test func asItIsItChangesNothing() throws {
    #expect(!ExampleTests.lines.isEmpty)
    let text = ExampleTests.lines.joined(separator: "\n")
    #expect(try load(text) == load(""))
  }

  @Test func uncommentedItIsValidAndHasEveryKey() throws {
    let text = ExampleTests.uncommented.joined(separator: "\n")
    let configuration = try load(text)
    var expected = try load("")
    expected.createGroup = "root"
    expected.limits.memory = 1 << 30
    // What a quarter comes to.
    expected.limits.channelsPerUser = expected.limits.channelShare.ofUser
    expected.limits.readersPerUser = expected.limits.readerShare.ofUser
    expected.limits.memoryPerUser = 1 << 28
    expected.channels[0].owner = "root"
    expected.channels[0].group = "root"
    expected.channels[0].writers = "root"
    expected.channels[0].maximumProducers = 64
    if configuration.socketPath != expected.socketPath {
      // RELAY_SOCKET says otherwise here.
      expected.socketPath = "/run/relayd/control"
    }
    #expect(configuration == expected)
    for key in Configuration.keys + ChannelOptions.keys {
      #expect(ExampleTests.uncommented.contains { $0.hasPrefix("\(key) = ") }, "\(key)")
    }
  }
}
