// SPDX-License-Identifier: Apache-2.0
// The resource limits (getrlimit(2)) of this process, as messages name them.

internal import Glibc

/// One limit of this process.
public struct ResourceLimit: Sendable {
  private let number: UInt32
  /// What it bounds, and in which unit.
  private let what: String
  private let unit: String
  /// How a shell and a unit set it.
  public let names: String

  private init(_ number: UInt32, _ what: String, unit: String = "", _ names: String) {
    self.number = number
    self.what = what
    self.unit = unit
    self.names = names
  }

  public static let fileSize = ResourceLimit(
    RLIMIT_FSIZE.rawValue, "a file's size", unit: " bytes", "ulimit -f, LimitFSIZE=")
  public static let addressSpace = ResourceLimit(
    RLIMIT_AS.rawValue, "address space", unit: " bytes", "ulimit -v, LimitAS=")
  public static let data = ResourceLimit(
    RLIMIT_DATA.rawValue, "data", unit: " bytes", "ulimit -d, LimitDATA=")
  public static let processes = ResourceLimit(
    __RLIMIT_NPROC.rawValue, "processes", "ulimit -u, LimitNPROC=")
  public static let stack = ResourceLimit(
    RLIMIT_STACK.rawValue, "stack", unit: " bytes", "ulimit -s, LimitSTACK=")
  public static let processorTime = ResourceLimit(
    RLIMIT_CPU.rawValue, "processor time", unit: " s", "ulimit -t, LimitCPU=")
  public static let descriptors = ResourceLimit(
    RLIMIT_NOFILE.rawValue, "open files", "ulimit -n, LimitNOFILE=")

  private var raw: rlimit {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(number), &limit)
    return limit
  }

  /// The soft and the hard limit; nil: none.
  public var soft: Int? { ResourceLimit.number(raw.rlim_cur) }
  public var hard: Int? { ResourceLimit.number(raw.rlim_max) }

  private static func number(_ value: rlim_t) -> Int? {
    value == rlim_t(bitPattern: -1) ? nil : Int(clamping: value)
  }

  /// Sets the soft limit, which the hard one bounds.
  public func setSoft(_ value: Int) {
    var limit = raw
    limit.rlim_cur = min(rlim_t(value), limit.rlim_max)
    setrlimit(__rlimit_resource_t(number), &limit)
  }

  /// The limits that make system calls fail with this errno value and that this process has; nil:
  /// none. "the limit on open files (ulimit -n, LimitNOFILE=) is 8".
  public static func text(for code: CInt) -> String? {
    let candidates: [ResourceLimit] =
      switch code {
      case EFBIG: [.fileSize]
      case ENOMEM: [.addressSpace, .data]
      case EAGAIN: [.processes, .addressSpace, .data]
      case EMFILE: [.descriptors]
      default: []
      }
    let found = candidates.compactMap { limit in
      limit.soft.map { "the limit on \(limit.what) (\(limit.names)) is \($0)\(limit.unit)" }
    }
    return found.isEmpty ? nil : found.joined(separator: ", ")
  }
}
