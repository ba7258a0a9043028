// SPDX-License-Identifier: Apache-2.0
// What a fuzzer's bytes are fed to. The fuzzer and the tests that replay what it found share it.

/// What is exposed to bytes that somebody else wrote.
public enum FuzzTarget: String, CaseIterable, Sendable {
  /// A channel's shared memory under all operations on it.
  case ring
  /// Packets on the control socket.
  case control
  /// A configuration file, or, after a colon, a --channel argument.
  case configuration

  /// - Throws: `Finding` for what must not be. A trap is a finding, too.
  public func run(_ bytes: UnsafeRawBufferPointer) throws(Finding) {
    switch self {
    case .ring: try runRing(bytes)
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
