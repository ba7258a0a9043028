// SPDX-License-Identifier: Apache-2.0
// How long one operation goes on after lost races. Among honest writers each lost race is another
// one's progress and a handful is much; a process that plays with the words can make another lose
// for ever.

internal import Glibc

/// Counts the attempts of one operation: `while patience.lasts() { … }`.
///
/// In all, one operation on a buffer of N sub-buffers with M index words each then costs at most
/// these 100 ms of the thread's time and a few attempts, each of them O(N + M); what looks at every
/// sub-buffer (a sweep, a reader's way over sub-buffers without data) O(N × M), statistics O(N).
struct Patience {
  private var attempts = 0
  private var start = 0

  private static let milliseconds = 100
  /// The clock is a system call: it is asked once in so many attempts, and first after as many.
  private static let attemptsPerLook = 8

  /// False: give up, the memory is corrupt. Time that the thread did not run does not count.
  mutating func lasts() -> Bool {
    attempts += 1
    guard attempts % Patience.attemptsPerLook == 0 else { return true }
    let now = Clock.threadMilliseconds()
    if attempts == Patience.attemptsPerLook { start = now }
    return now - start < Patience.milliseconds
  }
}
