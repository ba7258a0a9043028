// SPDX-License-Identifier: Apache-2.0
// A number that several threads look at, and that orders nothing: times of the last try, estimates.

internal import Synchronization

struct RelaxedInt: ~Copyable {
  private let word: Atomic<Int>

  init(_ value: Int) { word = Atomic(value) }

  // Relaxed, both: whoever uses it bears an older value.
  var value: Int {
    get { word.load(ordering: .relaxed) }
    nonmutating set { word.store(newValue, ordering: .relaxed) }
  }

  /// Stores another value and returns the one before.
  func exchange(_ value: Int) -> Int {
    // Relaxed: as above.
    word.exchange(value, ordering: .relaxed)
  }
}
