// SPDX-License-Identifier: Apache-2.0
// The steps of the write path, named, so that a single-threaded test can stop a writer between
// any two of them. In production every point compiles to nothing.

/// A place right after the step it is named after.
@frozen @usableFromInline
package enum TestPoint: CaseIterable, Sendable {
  // Reserve and commit.
  case loadedCurrent, sawFrontier, rereadCurrent, reserved, hinted, committed
  // Switch.
  case rereadBeforeSeal, sealed, opened, choseNext, claimed, preparedNext, published, openedNext
  case filledPrevious, gaveBack
}

@usableFromInline
package protocol TestPoints {
  /// False: the writer dies here.
  static func reached(_ point: TestPoint) -> Bool
}

@frozen @usableFromInline
package enum NoTestPoints: TestPoints {
  @inlinable @inline(__always)
  package static func reached(_ point: TestPoint) -> Bool { true }
}
