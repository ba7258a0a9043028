// SPDX-License-Identifier: Apache-2.0
// What fuzzers found once, and what they start from, run through the same code.

import FuzzTargets
import Glibc
import LinuxIO
import Testing

@Suite struct CaseTests {
  static let directory =
    "\(#filePath)".split(separator: "/").dropLast(2).reduce("") { "\($0)/\($1)" } + "/Cases"

  @Test(arguments: FuzzTarget.allCases)
  func everyCaseOfATargetPasses(_ target: FuzzTarget) throws {
    let directory = "\(CaseTests.directory)/\(target.rawValue)"
    let names = try Files.names(in: directory)
    #expect(names.count > 1)
    for name in names {
      let bytes = try Files.contents(of: "\(directory)/\(name)", atMost: 1024)
      bytes.withUnsafeBytes {
        do throws(Finding) { try target.run($0) } catch { Issue.record("\(name): \(error)") }
      }
    }
  }
}
