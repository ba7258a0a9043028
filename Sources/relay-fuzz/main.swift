// SPDX-License-Identifier: Apache-2.0
// relay-fuzz TARGET [libFuzzer's options] [directories of inputs]: feeds one of the fuzz targets,
// which the tests share, with what libFuzzer makes up. Built by make fuzz only.

import CFuzzer
import FuzzTargets
import Glibc

private enum Chosen {
  static let target: FuzzTarget = {
    let names = FuzzTarget.allCases.map(\.rawValue).joined(separator: ", ")
    guard CommandLine.arguments.count > 1,
      let target = FuzzTarget(rawValue: CommandLine.arguments[1])
    else {
      print("usage: relay-fuzz TARGET [OPTION…] [DIRECTORY…]; a target is one of \(names)")
      exit(64)
    }
    return target
  }()
}

@c(LLVMFuzzerTestOneInput)
public func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  do throws(Finding) {
    try Chosen.target.run(UnsafeRawBufferPointer(start: bytes, count: count))
  } catch {
    fatalError("\(error)")
  }
  return 0
}

_ = Chosen.target
// libFuzzer sees everything but the target's name.
var count = CommandLine.argc - 1
var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv + 1
exit(LLVMFuzzerRunDriver(&count, &arguments, testOneInput))
