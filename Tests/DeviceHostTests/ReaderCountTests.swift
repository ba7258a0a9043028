// SPDX-License-Identifier: Apache-2.0
// The readers of all devices: who finds which of them, what their numbers are, and how many there
// may be where one takes the place of another.

import LinuxIO
import Relay
import Testing

@testable import DeviceHost

@Suite struct ReaderCountTests {
  private func device(_ name: String, owner: UInt32) throws -> Device {
    let channel = try makeChannel(name)
    var options = FileOptions()
    options.uid = owner
    return Device(name: name, reader: Reader(channel, channel.buffers[0]), options: options)
  }

  @Test func eachUserFindsTheirReadersAmongThoseOfOthers() throws {
    let count = ReaderCount(Share(of: 10_000, perUser: 10_000))
    let devices = [try device("a", owner: 4001), try device("b", owner: 4002)]
    var entries: [ReaderEntry] = []
    for number in 0..<1000 {
      let uid = UInt32(4001 + number % 7)
      entries.append(try count.add(devices[number % 2], uid: uid, pid: 1, .file).get())
    }
    // Some of them twice.
    for index in stride(from: 0, to: 1000, by: 3) + [0, 999] { count.remove(entries[index]) }
    entries = entries.enumerated().filter { $0.offset % 3 != 0 }.map(\.element)
    #expect(count.current == entries.count)
    for uid in [nil, 4001, 4002, 4003, 4007, 4099] as [UInt32?] {
      var found: [UInt64] = []
      while let next = count.first(from: found.last.map { $0 + 1 } ?? 0, seenBy: uid) {
        found.append(next.serial)
      }
      let expected = entries.filter { entry in uid.map { entry.isSeen(by: $0) } ?? true }
      #expect(found == expected.map(\.serial), "user \(uid.map(String.init) ?? "root")")
    }
    for entry in entries { count.remove(entry) }
    #expect(count.current == 0 && count.first(from: 0, seenBy: nil) == nil)
  }

  @Test func numbersAreHigherThanThoseOfAnyProcessBefore() throws {
    let device = try device("a", owner: 0)
    var last: UInt64 = 0
    for _ in 0..<3 {
      let count = ReaderCount(Share(of: 1000, perUser: 1000))
      #expect(count.firstSerial > last)
      for _ in 0..<100 {
        let entry = try count.add(device, uid: 4001, pid: 1, .file).get()
        #expect(entry.serial > last && entry.serial >= count.firstSerial)
        last = entry.serial
        count.remove(entry)
      }
    }
  }

  @Test func replacedReaderLeavesItsPlaceAndARefusedOneTakesNone() throws {
    let count = ReaderCount(Share(of: 8, perUser: 1))
    let device = try device("a", owner: 0)
    func add(_ uid: UInt32, replacing old: ReaderEntry? = nil) -> ReaderEntry? {
      try? count.add(device, uid: uid, pid: 1, .mapped, replacing: old).get()
    }
    let old = try #require(add(4001))
    let other = try #require(add(4002))
    #expect(add(4001) == nil)
    #expect(add(4001, replacing: other) == nil, "another user's place is not theirs")
    #expect(count.current == 2 && count.first(from: 0, seenBy: nil) === old)
    let new = try #require(add(4001, replacing: old))
    #expect(count.current == 2 && count.first(from: 0, seenBy: 4001) === new)
    #expect(add(4001, replacing: old) == nil, "it is gone already")
    count.remove(old)
    #expect(count.current == 2, "it counts no more")
  }
}
