// SPDX-License-Identifier: Apache-2.0
// Which limit on memory counts: from trees of files as the kernel shows control groups.

import Relay
import Testing

@testable import RelayDaemon

@Suite struct MemoryLimitTests {
  private let root = Root()

  private func limit(_ memberships: String) -> Int? {
    MemoryLimit.controlGroup(memberships: memberships, root: root.path)
  }

  @Test func theLowestOfTheGroupAndThoseAboveCounts() {
    root.write("system.slice/memory.max", "3000\n")
    root.write("system.slice/relayd.service/memory.max", "5000\n")
    #expect(limit("0::/system.slice/relayd.service\n") == 3000)
    root.write("system.slice/relayd.service/memory.max", "2000\n")
    #expect(limit("0::/system.slice/relayd.service\n") == 2000)
    root.write("memory.max", "1000\n")
    #expect(limit("0::/system.slice/relayd.service\n") == 1000)
    #expect(limit("0::/\n") == 1000)
  }

  @Test func noLimitIsNone() {
    #expect(limit("") == nil)
    #expect(limit("0::/gone\n") == nil)
    root.write("a/memory.max", "max\n")
    #expect(limit("0::/a\n") == nil)
    root.write("a/memory.max", "")
    #expect(limit("0::/a\n") == nil)
  }

  @Test func theFirstVersionHasItsOwnFiles() {
    root.write("memory/docker/x/memory.limit_in_bytes", "4096\n")
    root.write("memory/memory.limit_in_bytes", "9223372036854771712\n")
    #expect(limit("5:cpu:/\n4:memory:/docker/x\n0::/\n") == 4096)
    #expect(limit("4:hugetlb,memory:/docker/x\n") == 4096, "controllers may share a hierarchy")
    #expect(limit("4:memory:/\n") == 9_223_372_036_854_771_712)
    // Inside a container the group's own path may not be there: its root is.
    root.write("memory/memory.limit_in_bytes", "2048\n")
    #expect(limit("4:memory:/seen/from/outside\n") == 2048)
    #expect(limit("5:cpu:/docker/x\n") == nil, "other controllers limit no memory")
  }

  @Test func aPathMayHoldColons() {
    root.write("a:b/memory.max", "7\n")
    #expect(limit("0::/a:b\n") == 7)
  }

  private func left(_ memberships: String) -> MemoryLimit {
    MemoryLimit.left(
      machine: "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:   1000 kB\n",
      memberships: memberships, root: root.path)
  }

  @Test func whatIsLeftOfTheTightestGroupCounts() {
    let machine = MemoryLimit(bytes: 1_024_000, source: "this machine has")
    #expect(left("0::/none\n") == machine)
    root.write("a/memory.max", "500000\n")
    #expect(left("0::/a/b\n") == machine, "a limit alone says nothing")
    root.write("a/memory.current", "300000\n")
    root.write("a/memory.stat", "anon 1\ninactive_file 50000\nslab 2\n")
    root.write("a/b/memory.max", "max\n")
    root.write("a/b/memory.current", "1\n")
    #expect(left("0::/a/b\n") == MemoryLimit(bytes: 250_000, source: "the control group has"))
    root.write("a/memory.current", "700000\n")
    #expect(left("0::/a/b\n").bytes == 0, "never less than nothing")
    root.write("memory/x/memory.limit_in_bytes", "7000\n")
    root.write("memory/x/memory.usage_in_bytes", "6000\n")
    root.write("memory/x/memory.stat", "inactive_file 9\ntotal_inactive_file 500\n")
    #expect(left("4:memory:/x\n0::/\n").bytes == 1500)
  }

  @Test func theTightestIsNamed() {
    let machine = MemoryLimit.current(configured: nil)
    #expect(machine.bytes <= Geometry.physicalMemory)
    #expect(!machine.isConfigured)
    let configured = MemoryLimit.current(configured: 4096)
    #expect(configured == MemoryLimit(bytes: 4096, source: "max_memory is", isConfigured: true))
    #expect(MemoryLimit.current(configured: .max) == machine)
  }
}
