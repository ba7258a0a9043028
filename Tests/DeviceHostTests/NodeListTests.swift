// SPDX-License-Identifier: Apache-2.0
// What udev's program finds in the list of nodes, and when.

import Glibc
import LinuxIO
import Relay
import Testing

@testable import DeviceHost

@Suite struct NodeListTests {
  private func contents(_ directory: String) -> [String: String] {
    let names = ((try? Files.names(in: directory)) ?? []).filter { $0 != ".lock" }
    return Dictionary(
      uniqueKeysWithValues: names.map { name in
        let bytes = (try? Files.contents(of: "\(directory)/\(name)", atMost: 4096)) ?? []
        return (name, String(decoding: bytes, as: UTF8.self))
      })
  }

  /// Between its name and its device, another program's device may have the name.
  @Test func nodeIsGivenToNobodyBeforeItsDeviceIsOurs() throws {
    let scratch = MountPoint()
    let directory = scratch.path
    defer { for name in [".lock", "left0"] { unlink("\(directory)/\(name)") } }
    // Of a daemon that was killed.
    _ = try FileDescriptor.open("\(directory)/left0", O_WRONLY | O_CREAT, mode: 0o644)
    let list = try #require(NodeList(directory: directory))
    #expect(contents(directory) == [:])
    let channel = try makeChannel()
    var options = FileOptions()
    (options.uid, options.gid, options.permissions) = (1000, 4242, 0o440)
    let device = Device(
      name: "net/rx0", reader: Reader(channel, channel.buffers[0]), options: options)
    list.add(device)
    #expect(contents(directory) == ["net!rx0": ""])
    list.complete(device, DeviceNumber(major: 250, minor: 10))
    #expect(contents(directory) == ["net!rx0": "1000 4242 0440\nfa:a\n"])
    #expect(NodeList(directory: directory) == nil, "it is held")
    list.remove(device)
    #expect(contents(directory) == [:])
  }
}
