// SPDX-License-Identifier: Apache-2.0
// A descriptor that a library keeps in somebody else's program. The program may close its number
// and give it to a file of its own: the number is used only while it still names what it did.

package import CLinux
import Glibc

/// A descriptor under a number that programs rarely use, never 0 to 2. Closed with its last owner.
/// Not for eventfds and epolls, which the kernel does not tell apart.
public final class GuardedDescriptor: Sendable {
  /// In ordinary memory, so that a forked child has it, too.
  // Sendable: its words are atomic; who replaces the descriptor excludes others who would.
  package nonisolated(unsafe) let words: UnsafeMutablePointer<clinux_guarded>

  /// Takes `descriptor` over and moves it up. EMFILE.
  public init(_ descriptor: consuming FileDescriptor) throws(SystemError) {
    let words = UnsafeMutablePointer<clinux_guarded>.allocate(capacity: 1)
    words.initialize(to: clinux_guarded())
    self.words = words
    let raw = descriptor.take()
    try check(clinux_guard(words, raw), "keep descriptor \(raw)")
  }

  deinit {
    clinux_guarded_close(words)
    words.deallocate()
  }

  /// Its number; -1 where the program has closed it.
  public var raw: CInt { max(-1, clinux_guarded_number(words)) }

  /// From now on it is another descriptor of what `other` is. One thread at a time.
  public func replace(by other: consuming FileDescriptor) throws(SystemError) {
    try check(clinux_guarded_replace(words, other.raw), "replace a descriptor")
  }

  /// Rings the doorbell whose button it is. From signal handlers, too.
  public func ring() { clinux_guarded_ring(words) }

  /// Closes it before its last owner goes.
  public func close() { clinux_guarded_close(words) }

  /// Names what it is now: another one after each `replace`.
  public var identity: UInt64 { words.pointee.inode }
}

/// A doorbell whose ends are both in somebody else's program.
package final class GuardedBell: Sendable {
  private let listener: GuardedDescriptor
  private let button: GuardedDescriptor
  /// Readable once the bell was rung; -1 where the program has closed it.
  package var number: CInt { listener.raw }

  package init() throws(SystemError) {
    let ends = try Doorbell.ends()
    listener = try GuardedDescriptor(FileDescriptor(owning: ends.listener))
    button = try GuardedDescriptor(FileDescriptor(owning: ends.button))
  }

  /// What `GuardedBell.ring` takes; valid as long as this.
  package var buttonWords: UnsafeMutablePointer<clinux_guarded> { button.words }

  package func ring() { button.ring() }

  package func drain() { Doorbell.drain(listener.raw) }
}
