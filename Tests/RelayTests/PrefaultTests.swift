// SPDX-License-Identifier: Apache-2.0
// Prefaulting: which memory is taken, and that what is in it stays.

import Glibc
import LinuxIO
import Testing

@testable import Relay

@Suite struct PrefaultTests {
  private static let cpus = CPUSet([0, 1, 2])

  private let seekData: CInt = 3  // SEEK_DATA

  /// Whether a byte of the ring's file is in memory.
  private func isThere(_ channel: Channel, _ offset: Int) -> Bool {
    lseek(channel.descriptors!.ring, off_t(offset), seekData) == offset
  }

  @Test(arguments: [false, true])
  func takesWhatRecordsOf64BytesNeedAndNoMore(_ hasTimestamps: Bool) throws {
    let geometry = try Geometry(
      subbufSize: 1 << 20, subbufCount: 4, hasTimestamps: hasTimestamps,
      online: CPUSet([0, 2]), possible: PrefaultTests.cpus)
    let channel = try Channel.openShared("prefault", geometry)
    #expect(channel.residentBytes == 0)
    try channel.prefault(cpu: 2)
    #expect(channel.residentBytes == geometry.prefaultedBytes)
    let index = 4 * (1 << 20) / 64 * 8 * (hasTimestamps ? 2 : 1)
    let payload = 4 << 20
    #expect(geometry.prefaultedBytes >= payload + index)
    #expect(geometry.prefaultedBytes < payload + index + 100_000)
    let base = 2 * geometry.stride
    #expect(!isThere(channel, 0) && isThere(channel, base))
    for subbuf in 0..<4 {
      let first = base + geometry.indexOffset + subbuf * geometry.entryCount * 8
      #expect(isThere(channel, first))
      #expect(!isThere(channel, first + geometry.entryCount * 4), "half of the index")
      #expect(isThere(channel, base + geometry.payloadOffset + (subbuf << 20)))
      #expect(isThere(channel, base + geometry.payloadOffset + (subbuf + 1) << 20 - 1))
    }
    // All of it fits: records of 64 bytes touch nothing else.
    let producer = try SharedTests.attach(channel)
    let before = channel.residentBytes
    var i = 0
    while true {
      let result = producer.buffer(cpu: 2).fill(64)
      guard result else { break }
      i += 1
    }
    #expect(i == 4 * (1 << 20) / 64)
    #expect(channel.residentBytes == before)
  }

  @Test func stepsAreShortAndComeToTheSame() throws {
    let geometry = try Geometry(
      subbufSize: 3 << 20, subbufCount: 3, online: CPUSet([0, 2]), possible: PrefaultTests.cpus)
    let channel = try Channel.openShared("prefault", geometry)
    var prefaulting = Prefaulting(channel, cpus: [0, 2])
    var taken = 0
    while true {
      let step = try prefaulting.step()
      guard step > 0 else { break }
      #expect(step <= 2 << 20)
      taken += step
    }
    #expect(taken == prefaulting.byteCount && taken == 2 * geometry.prefaultedBytes)
    #expect(channel.residentBytes == taken)
    for cpu in [0, 2] { try channel.prefault(cpu: cpu) }
    #expect(channel.residentBytes == taken)
  }

  @Test func pagesThatAreLeftKeepTheirContents() throws {
    let channel = try Channel.openShared("prefault", SharedTests.geometry())
    let producer = try SharedTests.attach(channel)
    #expect(producer.write("before") == .written)
    let resident = channel.residentBytes
    var offset: Int? = 0
    while let next = offset { offset = channel.leavePages(from: next) }
    #expect(channel.residentBytes == resident)
    #expect(channel.buffers.map { Reader(channel, $0).drain() }.joined() == "before")
  }

  @Test func contentsStay() throws {
    let channel = try Channel.openShared("prefault", SharedTests.geometry())
    let producer = try SharedTests.attach(channel)
    #expect(producer.write("before") == .written)
    for cpu in channel.cpus { try channel.prefault(cpu: cpu) }
    #expect(producer.write("after") == .written)
    let texts = channel.buffers.map { Reader(channel, $0).drain() }
    #expect(Set(texts.joined()) == Set("beforeafter") && texts.joined().count == 11)
  }

  /// Small sub-buffers share pages; the parts must not overlap or leave the buffer.
  @Test(arguments: [(1, 2), (1, 65536), (4097, 3), (32 << 20, 2), (512, 1000)])
  func partsAreWholePagesInOrderAndApart(_ size: Int, _ count: Int) throws {
    for hasTimestamps in [false, true] {
      let geometry = try Geometry(
        subbufSize: size, subbufCount: count, isGlobal: true, hasTimestamps: hasTimestamps,
        online: PrefaultTests.cpus, possible: PrefaultTests.cpus)
      var end = -1
      for part in geometry.prefaultedParts {
        #expect(part.lowerBound > end && part.upperBound > part.lowerBound)
        #expect(part.lowerBound % 4096 == 0 && part.upperBound % 4096 == 0)
        end = part.upperBound
      }
      #expect(end <= geometry.bufferBytes)
      #expect(geometry.prefaultedBytes <= geometry.bufferBytes)
    }
  }
}

extension ChannelBuffer {
  /// Writes one record; false: refused.
  fileprivate func fill(_ length: Int) -> Bool {
    switch reserve(length, owner: 5, wakeFD: WakeTarget(descriptor: -1), NoTestPoints.self) {
    case .reserved(let reservation):
      memset(reservation.bytes.baseAddress!, 1, length)
      reservation.commit()
      return true
    case .stopped: return false
    }
  }
}
