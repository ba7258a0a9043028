// SPDX-License-Identifier: Apache-2.0
// A lock that is held while the user's callbacks run: whoever comes back from inside one is told,
// and does not wait for itself.

internal import Glibc
internal import LinuxIO
internal import Synchronization

struct CallbackLock: ~Copyable {
  private let word: UnsafeMutableRawPointer
  /// The thread that holds it.
  private let holder = Atomic<UInt>(0)

  init() {
    word = .allocate(byteCount: 4, alignment: 4)
    word.storeBytes(of: 0, as: UInt32.self)
  }

  deinit { word.deallocate() }

  // Relaxed: only ever equal for the thread that stored it.
  var isHeldHere: Bool { holder.load(ordering: .relaxed) == UInt(pthread_self()) }

  /// EDEADLK for its holder.
  func locked<R: ~Copyable>(_ body: () throws(SystemError) -> R) throws(SystemError) -> R {
    guard !isHeldHere else {
      throw SystemError(code: EDEADLK, operation: "use a buffer from inside its callback")
    }
    return try Lock(word).locked { () throws(SystemError) in try held(body) }
  }

  /// Does nothing where somebody holds it.
  func lockedIfFree(_ body: () -> Void) { Lock(word).lockedIfFree { held(body) } }

  private func held<R: ~Copyable, E: Error>(_ body: () throws(E) -> R) throws(E) -> R {
    // Relaxed, both: as above.
    holder.store(UInt(pthread_self()), ordering: .relaxed)
    defer { holder.store(0, ordering: .relaxed) }
    return try body()
  }
}
