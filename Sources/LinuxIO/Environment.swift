// SPDX-License-Identifier: Apache-2.0
// The environment, as far as a library may believe it.

import CLinux

public enum Environment {
  /// A variable's value; nil where it is not set, or empty, or the program has more rights than its
  /// user (set-user-ID and its like), who could choose what it talks to.
  public static func value(of name: String) -> String? {
    guard let value = clinux_secure_getenv(name), value[0] != 0 else { return nil }
    return String(cString: value)
  }
}
