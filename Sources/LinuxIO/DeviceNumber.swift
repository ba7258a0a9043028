// SPDX-License-Identifier: Apache-2.0
// The number of a device node: major and minor.

internal import CLinux

public struct DeviceNumber: Equatable, Sendable {
  public var major: UInt32
  public var minor: UInt32

  public init(major: UInt32, minor: UInt32) {
    self.major = major
    self.minor = minor
  }

  /// From stat(2)'s st_rdev.
  public init(_ rdev: UInt64) {
    major = clinux_major(rdev)
    minor = clinux_minor(rdev)
  }

  /// From "major:minor", with or without a newline, as sysfs writes it.
  public init?(sysfs text: String) {
    let parts = text.split(whereSeparator: { $0 == ":" || $0 == "\n" }).map { UInt32($0) }
    guard parts.count == 2, let major = parts[0], let minor = parts[1] else { return nil }
    self.init(major: major, minor: minor)
  }
}
