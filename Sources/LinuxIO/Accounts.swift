// SPDX-License-Identifier: Apache-2.0
// Users and groups: from what a person writes, a name or a number, to the kernel's numbers.

import Glibc

public enum Accounts {
  /// The number of the user `name`, which may be a number already. Nil if there is no such user;
  /// a `SystemError` if the system's user database cannot be asked.
  public static func userID(_ name: String) throws(SystemError) -> UInt32? {
    if let id = number(name) { return id }
    var entry = passwd()
    return try lookUp("look up user \(name)") { buffer, isFound in
      var result: UnsafeMutablePointer<passwd>?
      let code = getpwnam_r(name, &entry, buffer.baseAddress!, buffer.count, &result)
      isFound = result != nil
      return code
    } ? entry.pw_uid : nil
  }

  /// The number of the group `name`, which may be a number already; as for users.
  public static func groupID(_ name: String) throws(SystemError) -> UInt32? {
    if let id = number(name) { return id }
    var entry = group()
    return try lookUp("look up group \(name)") { buffer, isFound in
      var result: UnsafeMutablePointer<group>?
      let code = getgrnam_r(name, &entry, buffer.baseAddress!, buffer.count, &result)
      isFound = result != nil
      return code
    } ? entry.gr_gid : nil
  }

  /// The name of a user; nil where the user database has none for the number, or cannot be asked.
  public static func userName(_ id: UInt32) -> String? {
    var entry = passwd()
    var name: String?
    let isFound = try? lookUp("look up user \(id)") { buffer, isFound in
      var result: UnsafeMutablePointer<passwd>?
      let code = getpwuid_r(id, &entry, buffer.baseAddress!, buffer.count, &result)
      isFound = result != nil
      // The text lies in the buffer.
      if isFound { name = String(cString: entry.pw_name) }
      return code
    }
    return isFound == true ? name : nil
  }

  /// The highest number stands for "no change" in chown(2) and belongs to nobody.
  private static func number(_ text: String) -> UInt32? {
    guard text.utf8.allSatisfy({ (48...57).contains($0) }), let id = UInt32(text), id != .max
    else { return nil }
    return id
  }

  /// Calls with ever larger buffers until the entry fits.
  private static func lookUp(
    _ operation: String, _ call: (UnsafeMutableBufferPointer<CChar>, inout Bool) -> CInt
  ) throws(SystemError) -> Bool {
    var size = 1024
    while true {
      let buffer = UnsafeMutableBufferPointer<CChar>.allocate(capacity: size)
      defer { buffer.deallocate() }
      var isFound = false
      switch call(buffer, &isFound) {
      // Some of these also mean "none such": getpwnam_r(3).
      case 0, ENOENT, ESRCH, EBADF, EPERM: return isFound
      case EINTR: continue
      case ERANGE where size < 1 << 20: size *= 4
      case let code: throw SystemError(code: code, operation: operation)
      }
    }
  }
}
