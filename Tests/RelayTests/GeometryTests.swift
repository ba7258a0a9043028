// SPDX-License-Identifier: Apache-2.0
// Impossible sizes are refused with the limit and the numbers.

import LinuxIO
import Testing

@testable import Relay

@Suite struct GeometryTests {
  func refusal(_ size: Int, _ count: Int, memory: Int? = nil) -> String? {
    do throws(GeometryError) {
      _ = try Geometry(
        subbufSize: size, subbufCount: count, online: CPUSet([0, 1]), possible: CPUSet(0..<4),
        memory: memory)
      return nil
    } catch {
      return error.description
    }
  }

  @Test func refusesWhatCannotBe() {
    #expect(refusal(0, 8)?.contains("sub-buffer of 0 bytes") == true)
    #expect(refusal(4096, 0) == "0 sub-buffers cannot hold anything; use 2 or more")
    #expect(refusal(4096, 1)?.contains("one sub-buffer is not enough") == true)
    #expect(refusal(33_554_433, 2)?.contains("33554432") == true)
    #expect(refusal(4096, 65537)?.contains("65536") == true)
    #expect(refusal(-1, 2)?.contains("sub-buffer of -1 bytes") == true)
    #expect(throws: GeometryError(description: "CPU numbers go from 0 to 4095")) {
      try Geometry(
        subbufSize: 4096, subbufCount: 2, online: CPUSet([0]), possible: CPUSet(0...4096))
    }
  }

  @Test func theLargestOfAllHasAPlaceInTheAddressSpace() throws {
    let largest = try Geometry(
      subbufSize: Geometry.maximumSubbufSize, subbufCount: Geometry.maximumSubbufCount,
      entryCount: 1 << 24, cpus: [0], slotCount: Geometry.maximumCPU + 1)
    #expect(largest.totalBytes < 1 << 57)
  }

  @Test(arguments: [1, 3, 4095, 4096, 4097]) func buffersAreWholePages(_ subbufSize: Int) throws {
    let geometry = try Geometry(
      subbufSize: subbufSize, subbufCount: 3, entryCount: nil, cpus: [0, 1], slotCount: 2)
    #expect(geometry.payloadOffset % 4096 == 0 && geometry.bufferBytes % 4096 == 0)
    #expect(geometry.bufferBytes - geometry.payloadOffset >= 3 * subbufSize)
  }

  @Test func refusesMoreThanTheMachineHas() {
    let text = refusal(1 << 20, 1024, memory: 1 << 30)
    #expect(text?.contains("2 × 1024 sub-buffers of 1048576 bytes") == true)
    #expect(text?.contains("1073741824") == true)
    #expect(refusal(262144, 8, memory: 1 << 30) == nil)
  }

  @Test func survivesTheWayThroughSharedMemory() throws {
    let geometry = try Geometry(
      subbufSize: 4096, subbufCount: 3, mode: .overwrite, online: CPUSet([1, 3]),
      possible: CPUSet(0..<8))
    let page = try Mapping.anonymous(count: Geometry.fileBytes)
    geometry.store(to: page.base)
    #expect(try Geometry(copyingUntrusted: page.base) == geometry)
  }

  /// A word that is zero, at each place but the flags'.
  @Test(arguments: [
    (0, "not the geometry of a relay channel"), (4, "not the geometry of a relay channel"),
    (8, "shared-memory layout version 0; this program knows 2"),
    (16, "a sub-buffer of 0 bytes cannot hold a record; use 1 or more"),
    (20, "0 sub-buffers cannot hold anything; use 2 or more"), (24, "a damaged geometry"),
    (28, "a damaged geometry: no CPU has a buffer"),
    (32, "a damaged geometry: no CPU has a buffer"),
  ])
  func refusesDamagedGeometry(_ offset: Int, _ reason: String) throws {
    let geometry = try Geometry(
      subbufSize: 4096, subbufCount: 3, online: CPUSet([0]), possible: CPUSet([0]))
    let page = try Mapping.anonymous(count: Geometry.fileBytes)
    geometry.store(to: page.base)
    page.base.storeBytes(of: 0, toByteOffset: offset, as: UInt32.self)
    #expect(throws: GeometryError(description: reason)) {
      try Geometry(copyingUntrusted: page.base)
    }
    page.base.storeBytes(of: .max, toByteOffset: offset, as: UInt32.self)
    _ = try? Geometry(copyingUntrusted: page.base)
  }
}
