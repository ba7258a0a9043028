// SPDX-License-Identifier: Apache-2.0
// The exhaustive model of the ring, relay-model of the release build, world by world and rule by
// rule. The model itself is in Tests/Model.

import Glibc
import LinuxIO
import Testing

@testable import relay_model

// One at a time, and nicely: each needs a CPU, and memory, for itself.
@Suite(.serialized) struct ModelTests {
  @Test(arguments: Bounds.all.map(\.name)) func nothingFailsIn(_ world: String) throws {
    try run(["--world", world])
  }

  @Test(arguments: Rule.allCases) func breakingIsNoticed(_ rule: Rule) throws {
    try run(["--breaking", rule.rawValue])
  }

  private func run(_ arguments: [String]) throws {
    let directory = try #require(
      getenv("RELAY_BIN").map { String(cString: $0) },
      "RELAY_BIN does not say where the release build is; use make test")
    let output = try MemoryFile.create(name: "relay-model", count: 0)
    let model = try ChildProcess(
      ["nice", "\(directory)/relay-model"] + arguments, output: output.raw)
    let status = model.wait()
    #expect(status == 0, "\(text(of: output.raw))")
  }

  private func text(of fd: CInt) -> String {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while case let count = pread(fd, &buffer, buffer.count, off_t(bytes.count)), count > 0 {
      bytes += buffer[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
  }
}
