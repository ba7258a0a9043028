// SPDX-License-Identifier: Apache-2.0
// Which of a process's own limits an error comes from, for messages.

internal import Glibc

public enum ResourceLimit {
  /// The limits that make system calls fail with this errno value and that this process has; nil:
  /// none. "the limit on open files (RLIMIT_NOFILE, ulimit -n) is 8".
  public static func text(for code: CInt) -> String? {
    let all: [(code: CInt, resource: CInt, what: String, unit: String)] = [
      (EFBIG, CInt(RLIMIT_FSIZE.rawValue), "a file's size (RLIMIT_FSIZE, ulimit -f)", " bytes"),
      (EMFILE, CInt(RLIMIT_NOFILE.rawValue), "open files (RLIMIT_NOFILE, ulimit -n)", ""),
      (EAGAIN, CInt(__RLIMIT_NPROC.rawValue), "processes (RLIMIT_NPROC, ulimit -u)", ""),
      (ENOMEM, CInt(RLIMIT_AS.rawValue), "address space (RLIMIT_AS, ulimit -v)", " bytes"),
      (EAGAIN, CInt(RLIMIT_AS.rawValue), "address space (RLIMIT_AS, ulimit -v)", " bytes"),
      (ENOMEM, CInt(RLIMIT_DATA.rawValue), "data (RLIMIT_DATA, ulimit -d)", " bytes"),
      (EAGAIN, CInt(RLIMIT_DATA.rawValue), "data (RLIMIT_DATA, ulimit -d)", " bytes"),
    ]
    let found = all.filter { $0.code == code }.compactMap { limit -> String? in
      var value = rlimit()
      guard getrlimit(__rlimit_resource_t(UInt32(limit.resource)), &value) == 0,
        value.rlim_cur < rlim_t(Int64.max)
      else { return nil }
      return "the limit on \(limit.what) is \(value.rlim_cur)\(limit.unit)"
    }
    return found.isEmpty ? nil : found.joined(separator: ", ")
  }
}
