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
    #expect(refusal(4096, 0)?.contains("0 sub-buffers") == true)
    #expect(refusal(4096, 1)?.contains("one sub-buffer is not enough") == true)
    #expect(refusal(33_554_433, 2)?.contains("33554432") == true)
    #expect(refusal(4096, 65537)?.contains("65536") == true)
    #expect(refusal(-1, 2) != nil)
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

  @Test func refusesDamagedGeometry() throws {
    let geometry = try Geometry(
      subbufSize: 4096, subbufCount: 3, online: CPUSet([0]), possible: CPUSet([0]))
    for offset in stride(from: 0, to: 36, by: 4) where offset != 12 {
      let page = try Mapping.anonymous(count: Geometry.fileBytes)
      geometry.store(to: page.base)
      page.base.storeBytes(of: 0, toByteOffset: offset, as: UInt32.self)
      #expect(throws: GeometryError.self) { try Geometry(copyingUntrusted: page.base) }
      page.base.storeBytes(of: .max, toByteOffset: offset, as: UInt32.self)
      _ = try? Geometry(copyingUntrusted: page.base)
    }
  }
}
