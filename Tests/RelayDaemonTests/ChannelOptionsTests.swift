// SPDX-License-Identifier: Apache-2.0
// A channel's name and options: what they mean, and what is refused.

import Relay
import RelayControl
import Testing

@testable import RelayDaemon

@Suite struct ChannelOptionsTests {
  @Test func aBareNameHasRelaysUsualSizes() throws {
    let options = try ChannelOptions(parsing: "relay")
    #expect(options == (try ChannelOptions(name: "relay")))
    #expect(options.subbufSize == 262_144)
    #expect(options.subbufCount == 8)
    #expect(options.mode == .discard)
    #expect(!options.isGlobal)
  }

  @Test func everyOptionIsTaken() throws {
    let options = try ChannelOptions(
      parsing: "a_b.c-d:subbuf_size=1MiB,n_subbufs=16,mode=overwrite,global")
    #expect(options.name == "a_b.c-d")
    #expect(options.subbufSize == 1 << 20)
    #expect(options.subbufCount == 16)
    #expect(options.mode == .overwrite)
    #expect(options.isGlobal)
  }

  @Test(arguments: ["4096": 4096, "256KiB": 262_144, "1MiB": 1 << 20, "2GiB": 2 << 30])
  func sizesAreBytesOrCarryAUnit(_ text: String, _ bytes: Int) throws {
    #expect(try ByteSize.parse(text) == bytes)
  }

  @Test(arguments: [
    "relay:", "relay:,", "relay:mode", "relay:mode=", "relay:n_subbufs=", "a b", "-a", "", "/a",
    "a/",
    "relay:n_subbufs=+4", "relay:subbuf_size=+4KiB", "relay:stall_timeout=+5s",
    "relay:stall_timeout=+50", "a//b", "a/.b", "a/-b", "../a", "relay1", "net/rx0",
  ])
  func malformedOptionsAreRefused(_ text: String) {
    #expect(throws: OptionError.self) { try ChannelOptions(parsing: text) }
  }

  @Test(
    arguments: ChannelOptions.keys.filter {
      !["global", "timestamps", "prefault", "write"].contains($0)
    })
  func aKeyWithoutItsValueIsRefused(_ key: String) {
    let reason = "channel relay: \(key) needs a value: \(key)=…"
    #expect(throws: OptionError(reason)) { try ChannelOptions(parsing: "relay:\(key)") }
  }

  @Test(arguments: ["global,global": "global", "mode=discard,mode=overwrite": "mode"])
  func anOptionGivenTwiceIsRefused(_ options: String, _ option: String) {
    #expect(throws: OptionError("channel a: \(option) is given twice")) {
      try ChannelOptions(parsing: "a:\(options)")
    }
  }

  @Test(arguments: ["net/rx", "net0/rx", "a/b_/c.d", "0a", "_"])
  func namesMayBePathsAndHoldDigits(_ name: String) throws {
    #expect(try ChannelOptions(name: name).name == name)
  }

  @Test func aNameOverTheLimitIsRefused() throws {
    let limit = ChannelOptions.maximumNameLength
    _ = try ChannelOptions(name: String(repeating: "a", count: limit))
    #expect(throws: OptionError.self) {
      try ChannelOptions(name: String(repeating: "a", count: limit + 1))
    }
  }
}
