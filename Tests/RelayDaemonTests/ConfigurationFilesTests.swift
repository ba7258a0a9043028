// SPDX-License-Identifier: Apache-2.0
// Which files count, in which order, and those that are refused as files.

import Glibc
import Relay
import Testing

@testable import RelayDaemon

@Suite struct ConfigurationFilesTests {
  let main = "etc/relayd/relayd.toml"
  let ours = "etc/relayd/relayd.toml.d/"
  let vendors = "usr/lib/relayd/relayd.toml.d/"

  @Test func aLaterFileCountsKeyByKey() throws {
    let root = Root()
    root.write(
      main, "max_readers = 1\nmax_channels = 5\n[channel.a]\nn_subbufs = 3\nread = \"block\"")
    root.write(ours + "20.toml", "max_readers = 20\n[channel.a]\nn_subbufs = 20")
    root.write(vendors + "10.toml", "max_readers = 10\nmax_producers = 10\n[channel.b]")
    root.write(vendors + "30.toml", "max_producers = 30")
    let configuration = try root.sources.load()
    #expect(configuration.limits.channels == 5)
    #expect(configuration.limits.readers == 20)
    #expect(configuration.limits.producers == 30)
    #expect(configuration.channels.map(\.name) == ["a", "b"])
    #expect(configuration.channels[0].subbufCount == 20)
    #expect(configuration.channels[0].read == .block)
  }

  @Test func channelsKeepTheirOrder() throws {
    let names = ["zoo", "ant", "mid", "bee"]
    let text = names.map { "[channel.\($0)]\n" }.joined()
    #expect(try load(text).channels.map(\.name) == names)
  }

  @Test func aFileInEtcHidesItsNamesakeInUsrLib() throws {
    let root = Root()
    root.write(ours + "10.toml", "")
    root.write(vendors + "10.toml", "max_readers = 10")
    #expect(try root.sources.load().limits.readers == 4096)
  }

  @Test(arguments: ["10.toml~", "10.conf", ".10.toml", "10.toml.dpkg-old"])
  func otherNamesAreSkipped(_ name: String) throws {
    let root = Root()
    root.write(ours + name, "nonsense")
    #expect(complaints(root.sources) == [])
  }

  @Test func anotherFileCountsAlone() throws {
    let root = Root()
    root.write(main, "max_readers = 1")
    root.write(ours + "10.toml", "max_producers = 1")
    var sources = root.sources
    sources.configPath = root.write("other.toml", "max_channels = 5\nmax_readers = 5")
    root.write("other.toml.d/10.toml", "max_readers = 6")
    let configuration = try sources.load()
    #expect(configuration.limits.channels == 5)
    #expect(configuration.limits.readers == 6)
    #expect(configuration.limits.producers == 4096)
  }

  @Test func onlyTheNamedFileHasToBeThere() {
    let root = Root()
    #expect(complaints(root.sources) == [])
    var sources = root.sources
    sources.configPath = "\(root.path)/none.toml"
    #expect(
      complaints(sources) == ["none.toml: No such file or directory; name a file that can be read"])
  }

  @Test func aDirectoryOrPipeIsNoFile() {
    let root = Root()
    mkdir(root.path(main), 0o755)
    mkfifo(root.path(ours + "pipe.toml"), 0o644)
    let reason = "not a regular file; a configuration is a file of TOML text"
    #expect(complaints(root.sources) == ["\(main): \(reason)", "\(ours)pipe.toml: \(reason)"])
  }

  @Test func aLinkToItselfIsRefused() {
    let root = Root()
    symlink("relayd.toml", root.path(main))
    let found = complaints(root.sources)
    #expect(found == ["\(main): Too many levels of symbolic links; name a file that can be read"])
  }

  @Test func aFileInPlaceOfTheDropInsIsRefused() {
    let root = Root()
    root.write("usr/lib/relayd/relayd.toml.d", "")
    #expect(
      complaints(root.sources) == [
        "usr/lib/relayd/relayd.toml.d: Not a directory; drop-ins need a directory that relayd may "
          + "read"
      ])
  }

  @Test func aFileOverTheLimitIsRefused() throws {
    let root = Root()
    let limit = ConfigurationSources.maximumFileBytes
    let path = root.write(main, "#" + String(repeating: "x", count: limit - 1))
    #expect(complaints(root.sources) == [])
    #expect(truncate(path, 100 << 20) == 0)
    let complaint = try #require(complaints(root.sources).first)
    #expect(
      complaint
        == "\(main): over 1 MiB; split it into drop-ins, if it is a configuration at all")
  }

  @Test(arguments: [
    ([0x23, 0x0A, 0x23, 0xFF], "2: not UTF-8; "),
    (Array("backend = \"auto\"\n\0colour = 1".utf8), "2: a NUL character; take it out"),
    (Array("\"mount\\u0000x\" = 1".utf8), "1: a NUL character; take it out"),
    (Array("a = \n".utf8), "1: Error while parsing key-value pair: expected value, saw '\\n'"),
    (Array("\n\n[channel.a\n".utf8), "3: Error while parsing table header: "),
    (Array("x = 1\nx = 2".utf8), "2: Error while parsing key-value pair: cannot redefine"),
    (Array("[channel.a]\n[channel.b]\n[channel.a]".utf8), "3: Error while parsing table header: "),
    (Array("x = \"\"\"\n\n".utf8), "2: Error while parsing string: encountered end-of-file"),
    (Array("\n\(String(repeating: "a.", count: 33))b = 1".utf8), "2: a line with 33 dots; "),
    (Array("x = [\n\(String(repeating: "1,\n", count: 200))]".utf8), "1: a value of over 100 lin"),
  ])
  func whatIsNoTOML(_ bytes: [UInt8], _ reason: String) throws {
    let root = Root()
    root.write(main, bytes)
    let found = complaints(root.sources)
    #expect(found.count == 1)
    let complaint = try #require(found.first)
    #expect(complaint.hasPrefix("\(main):\(reason)"), "\(complaint)")
  }

  @Test func aFileModeWithoutQuotesIsExplained() throws {
    let root = Root()
    root.write(main, "[channel.a]\npermissions = 0400\n")
    let complaint = try #require(complaints(root.sources).first)
    #expect(complaint.hasPrefix("\(main):2: "))
    #expect(complaint.hasSuffix("a file mode is a string of octal digits, such as \"0400\""))
  }

  @Test(arguments: ["[\n\u{8}%", " \t[%", "[[[a", "[[[[[[[[[[[[[[[[:", "[ ", "[=]"])
  func aHeaderNeedsAKey(_ text: String) {
    let root = Root()
    root.write(main, Array(("\n" + text).utf8))
    let reason = "a [ without a key behind it; a table is [NAME]"
    #expect(complaints(root.sources) == ["\(main):2: \(reason)"])
  }

  @Test func lineEndsAndMarksOfOtherSystemsAreTaken() throws {
    let root = Root()
    root.write(main, [0xEF, 0xBB, 0xBF] + Array("[channel.a]\r\nn_subbufs = 3\r\n# end".utf8))
    #expect(try root.sources.load().channels[0].subbufCount == 3)
  }

  @Test func everyComplaintOfEveryFileIsMade() {
    let root = Root()
    root.write(main, "colour = 1\n[channel.a]\nmode = \"x\"\n[channel.b9]\nread = 1\n")
    root.write(ours + "10.toml", "what is this")
    root.write(vendors + "20.toml", "\n\nbackend = \"x\"")
    var sources = root.sources
    sources.channelArguments = ["c9"]
    let places = complaints(sources).map { $0.split(separator: " ")[0] }
    #expect(
      places == [
        "\(main):1:", "\(main):3:", "\(main):4:", "\(main):5:", "\(ours)10.toml:1:",
        "\(vendors)20.toml:3:", "channel",
      ])
  }

  @Test func aValueOverSeveralLinesHasTheLineOfItsKey() {
    let text = "socket = '''\n/tmp/s'''\nread = [\n  # what\n  1,\n]\nbackend = 'x'\n"
    let lines = complaints(about: text).map { $0.split(separator: ":")[0] }
    #expect(lines == ["3", "7"])
  }

  @Test func headersCommentsAndDottedKeysKeepTheCount() {
    let text = """
      # [channel.no]
        [channel.a] # here
      mode = "#x"

      [channel]
      b.mode = "y"
      """
    let lines = complaints(about: text).map { $0.split(separator: " ")[0] }
    #expect(lines == ["3:", "6:"])
  }
}
