// SPDX-License-Identifier: Apache-2.0
// Channels in memory files: two views of one channel, and descriptors that are not what they
// should be.

import Glibc
import LinuxIO
import Synchronization
import Testing

@testable import Relay

@Suite struct SharedTests {
  static func geometry() throws -> Geometry {
    try Geometry(
      subbufSize: 4096, subbufCount: 4, online: CPUSet([0, 1]), possible: CPUSet([0, 1]))
  }

  static func copyBell(_ channel: Channel) -> Doorbell {
    Doorbell(
      listener: copy(channel.wakeDescriptor), button: copy(channel.descriptors!.wake))
  }

  static func copy(_ fd: CInt) -> FileDescriptor {
    FileDescriptor(owning: fcntl(fd, F_DUPFD_CLOEXEC, 0))
  }

  static func attach(_ channel: Channel, owner: UInt16 = 5) throws -> Channel {
    let descriptors = channel.descriptors!
    return try Channel.attach(
      channel.name, geometry: copy(descriptors.geometry), ring: copy(descriptors.ring),
      wake: copy(descriptors.wake), owner: owner)
  }

  @Test func whatAnAttachedProducerWritesIsReadInTheDaemon() throws {
    let daemon = try Channel.openShared("shared", SharedTests.geometry())
    let producer = try SharedTests.attach(daemon)
    #expect(producer.geometry == daemon.geometry)
    #expect(producer.write("hello") == .written)
    let texts = daemon.buffers.map { Reader(daemon, $0).drain() }
    #expect(texts.joined() == "hello")
  }

  @Test func anArmedReaderIsSignalled() throws {
    let daemon = try Channel.openShared("shared", SharedTests.geometry())
    let producer = try SharedTests.attach(daemon)
    let readers = daemon.buffers.map { Reader(daemon, $0) }
    for reader in readers { #expect(reader.arm()) }
    #expect(Readiness.wait(daemon.wakeDescriptor, .read, timeoutMilliseconds: 0).isEmpty)
    producer.write("a")
    #expect(Readiness.wait(daemon.wakeDescriptor, .read, timeoutMilliseconds: 0) == .read)
  }

  @Test func theGeometryCannotBeChangedNorTheMemoryCut() throws {
    let daemon = try Channel.openShared("shared", SharedTests.geometry())
    let descriptors = daemon.descriptors!
    #expect(ftruncate(descriptors.ring, 0) == -1)
    #expect(ftruncate(descriptors.geometry, 0) == -1)
    #expect(throws: SystemError.self) {
      _ = try Mapping.shared(
        descriptors.geometry, count: 4096, writable: true, inheritedByChildren: false)
    }
  }

  @Test func unsealedOrWrongFilesAreRefused() throws {
    let daemon = try Channel.openShared("shared", SharedTests.geometry())
    let descriptors = daemon.descriptors!
    func attach(_ reason: String, geometry: CInt, ring: CInt, owner: UInt16 = 1) {
      #expect(throws: ChannelError.untrusted(reason)) {
        _ = try Channel.attach(
          "x", geometry: SharedTests.copy(geometry), ring: SharedTests.copy(ring),
          wake: SharedTests.copy(descriptors.wake), owner: owner)
      }
    }
    let unsealed = try MemoryFile.create(name: "unsealed", count: 1 << 24)
    attach(
      "the geometry file is not sealed, or too short", geometry: unsealed.raw,
      ring: descriptors.ring)
    for ring in [unsealed.raw, descriptors.geometry] {
      attach(
        "the ring file of channel x is not sealed, or has the wrong length",
        geometry: descriptors.geometry, ring: ring)
    }
    for owner: UInt16 in [0, Channel.highestOwner + 1] {
      attach(
        "owner id \(owner) is not between 1 and 16382", geometry: descriptors.geometry,
        ring: descriptors.ring, owner: owner)
    }
  }

  @Test func onlyTouchedPagesCostMemory() throws {
    let daemon = try Channel.openShared(
      "large",
      Geometry(
        subbufSize: 32 << 20, subbufCount: 8, online: CPUSet([0]), possible: CPUSet(0..<64)))
    var status = stat()
    fstat(daemon.descriptors!.ring, &status)
    #expect(status.st_blocks == 0)
    let producer = try SharedTests.attach(daemon)
    for _ in 0..<100 { producer.write("0123456789") }
    _ = daemon.sweep(owner: 5)
    #expect(Reader(daemon, daemon.buffers[0]).drain().count == 1000)
    fstat(daemon.descriptors!.ring, &status)
    // Header and descriptors, one page of index, one of payload.
    #expect(status.st_blocks * 512 <= 4 * 4096)
  }

  @Test func hostileWordsAreCountedNotFollowed() throws {
    for seed in 1...300 {
      let channel = try makeChannel(subbufSize: 64, subbufCount: 3, mode: .overwrite)
      let reader = Reader(channel)
      for _ in 0..<20 { channel.write("0123456789") }
      var random = UInt64(seed)
      for _ in 0..<40 {
        random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        let offset = Int(random >> 33) % (channel.geometry.totalBytes / 8) * 8
        channel.buffer.word(offset).pointee.store(random, ordering: .relaxed)
        if random >> 60 == 3 { channel.write("abc") }
        _ = reader.read(50)
        _ = reader.statistics()
      }
    }
  }
}
