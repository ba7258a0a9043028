// SPDX-License-Identifier: Apache-2.0
// What a fuzzer's bytes are fed to. The fuzzer and the tests that replay what it found share it.

internal import Glibc

/// What is exposed to bytes that somebody else wrote.
public enum FuzzTarget: String, CaseIterable, Sendable {
  /// A channel's shared memory under all operations on it.
  case ring
  /// What a process that is gone left of a channel.
  case state
  /// Packets on the control socket.
  case control
  /// A configuration file, or, after a colon, a --channel argument.
  case configuration

  /// - Throws: `Finding` for what must not be. A trap is a finding, too.
  public func run(_ bytes: UnsafeRawBufferPointer) throws(Finding) {
    switch self {
    case .ring: try runRing(bytes)
    case .state: try runState(bytes)
    case .control: try runControl(bytes)
    case .configuration: try runConfiguration(bytes)
    }
  }
}

/// What a fuzzer found.
public struct Finding: Error, CustomStringConvertible {
  public let description: String
  init(_ description: String) { self.description = description }
}

/// That the calling thread has run.
func threadMilliseconds() -> Int {
  var now = timespec()
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
  return now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
