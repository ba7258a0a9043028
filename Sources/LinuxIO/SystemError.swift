// SPDX-License-Identifier: Apache-2.0
// The one error type of this layer: an errno with what was being done. Not for expected outcomes
// (would block, end of stream): those are return values.

import Glibc

/// A failed system call: an errno value and the operation, named with its object.
public struct SystemError: Error, Equatable, CustomStringConvertible {
  /// An errno value, positive.
  public let code: CInt
  /// What was being done, such as "open /dev/cuse".
  public let operation: String

  public init(code: CInt, operation: String) {
    self.code = code
    self.operation = operation
  }

  /// "open /dev/cuse: Permission denied".
  public var description: String { "\(operation): \(SystemError.message(code))" }

  /// The system's text for an errno value.
  public static func message(_ code: CInt) -> String {
    withUnsafeTemporaryAllocation(byteCount: 256, alignment: 1) { buffer in
      let text = buffer.baseAddress!.assumingMemoryBound(to: CChar.self)
      return strerror_r(code, text, buffer.count) == 0 ? String(cString: text) : "error \(code)"
    }
  }
}

/// Passes a result >= 0 on; throws for -errno. The name is built only on failure.
@discardableResult
func check<Result: FixedWidthInteger>(
  _ result: Result, _ operation: @autoclosure () -> String
) throws(SystemError) -> Result {
  if result >= 0 { return result }
  throw SystemError(code: CInt(0 - result), operation: operation())
}
