// SPDX-License-Identifier: Apache-2.0
// What many processes that do not trust each other wake one listener with. Not an eventfd: all
// who have one share its counter and its file status flags, so that one of them could clear
// O_NONBLOCK, fill the counter and have the next who writes to it, or drains it, wait for ever. A
// socket takes MSG_DONTWAIT with each call, and its listening end is the listener's alone.

import CLinux
import Glibc

/// A bell that any process with its button may ring. No call of it ever waits.
public struct Doorbell: ~Copyable, Sendable {
  private let listener: FileDescriptor
  private let button: FileDescriptor

  public init() throws(SystemError) {
    let ends = try Doorbell.ends()
    listener = FileDescriptor(owning: ends.listener)
    button = FileDescriptor(owning: ends.button)
  }

  static func ends() throws(SystemError) -> (listener: CInt, button: CInt) {
    var ends: (CInt, CInt) = (-1, -1)
    let result = withUnsafeMutableBytes(of: &ends) {
      clinux_doorbell($0.baseAddress!.assumingMemoryBound(to: CInt.self))
    }
    try check(result, "create a doorbell")
    return ends
  }

  /// Both ends of one that another process made.
  public init(listener: consuming FileDescriptor, button: consuming FileDescriptor) {
    self.listener = listener
    self.button = button
  }

  /// Readable once the bell was rung.
  public var listenerDescriptor: CInt { listener.raw }

  /// For `ring`, and to be sent to other processes.
  public var buttonDescriptor: CInt { button.raw }

  public func ring() { Doorbell.ring(buttonDescriptor) }

  /// One that rings already stays as it is. From signal handlers, too.
  public static func ring(_ button: CInt) { _ = clinux_doorbell_ring(button) }

  /// Takes what was rung, or the beginning of very much: then the listener stays readable.
  public static func drain(_ listener: CInt) { _ = clinux_doorbell_drain(listener, 64) }
}
