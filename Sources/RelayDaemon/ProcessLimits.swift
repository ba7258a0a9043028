// SPDX-License-Identifier: Apache-2.0
// The resource limits (getrlimit(2)) of relayd's own process: what is done about them at start, and
// what they are called in a refusal. That of descriptors is DescriptorLimit's.

internal import Glibc
internal import LinuxIO

/// A limit of this process, as messages name it.
struct ProcessLimit {
  let resource: __rlimit_resource
  /// How a shell and a unit set it.
  let names: String

  static let fileSize = ProcessLimit(resource: RLIMIT_FSIZE, names: "ulimit -f, LimitFSIZE=")
  static let addressSpace = ProcessLimit(resource: RLIMIT_AS, names: "ulimit -v, LimitAS=")
  static let data = ProcessLimit(resource: RLIMIT_DATA, names: "ulimit -d, LimitDATA=")
  static let processes = ProcessLimit(resource: __RLIMIT_NPROC, names: "ulimit -u, LimitNPROC=")
  static let stack = ProcessLimit(resource: RLIMIT_STACK, names: "ulimit -s, LimitSTACK=")
  static let processorTime = ProcessLimit(resource: RLIMIT_CPU, names: "ulimit -t, LimitCPU=")
  static let descriptors = ProcessLimit(
    resource: RLIMIT_NOFILE, names: "ulimit -n, LimitNOFILE=")

  private var raw: rlimit {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(resource.rawValue), &limit)
    return limit
  }

  /// The soft and the hard limit; nil: none.
  var soft: Int? { ProcessLimit.number(raw.rlim_cur) }
  var hard: Int? { ProcessLimit.number(raw.rlim_max) }

  private static func number(_ value: rlim_t) -> Int? {
    value == rlim_t(bitPattern: -1) ? nil : Int(clamping: value)
  }

  /// Sets the soft limit, which the hard one bounds.
  func setSoft(_ value: Int) {
    var limit = raw
    limit.rlim_cur = min(rlim_t(value), limit.rlim_max)
    setrlimit(__rlimit_resource_t(resource.rawValue), &limit)
  }

  /// For the end of a message about a call that failed with `code`: the limits that make calls fail
  /// so, as far as this process has them. Empty where there are none.
  static func hint(_ code: CInt) -> String {
    let candidates: [(limit: ProcessLimit, unit: String)] =
      switch code {
      case EFBIG: [(.fileSize, "bytes of a file")]
      case ENOMEM: [(.addressSpace, "bytes of addresses"), (.data, "bytes of data")]
      case EAGAIN:
        [(.processes, "processes and threads"), (.addressSpace, "bytes of addresses")]
      case EMFILE: [(.descriptors, "descriptors")]
      default: []
      }
    let known = candidates.compactMap { candidate in
      candidate.limit.soft.map { "\($0) \(candidate.unit) (\(candidate.limit.names))" }
    }
    guard !known.isEmpty else { return "" }
    return "; relayd may have \(known.joined(separator: " and ")): raise that limit"
  }
}

/// What relayd does about its limits before it does anything else.
public enum ProcessLimits {
  /// Less than this is no stack for any program in Swift.
  private static let leastStack = 512 << 10
  private static let usualStack = 8 << 20
  /// With fewer not even the configuration can be read.
  private static let leastDescriptors = 8
  /// Beside what the process has at start: threads' stacks, and a heap that never comes near it.
  static let spareBytes = 48 << 20

  /// Called before the command line is read. Makes a limit an error of the call that meets it,
  /// where the kernel would end the process by a signal.
  /// - Throws: the limit that leaves too little to run with.
  public static func prepare() throws(DaemonError) {
    signal(SIGXFSZ, SIG_IGN)
    // Until a SignalFD takes it.
    signal(SIGXCPU, SIG_IGN)
    // The main thread's stack grows up to what the limit is by then.
    if let soft = ProcessLimit.stack.soft, soft < usualStack {
      ProcessLimit.stack.setSoft(usualStack)
    }
    if let soft = ProcessLimit.stack.soft, soft < leastStack {
      throw tooSmall(.stack, soft, "bytes of stack", needed: leastStack)
    }
    if let hard = ProcessLimit.descriptors.hard, hard < leastDescriptors {
      throw tooSmall(.descriptors, hard, "descriptors", needed: leastDescriptors)
    }
    let used = sizes()
    for (limit, taken, unit) in [
      (ProcessLimit.addressSpace, used.addresses, "bytes of addresses"),
      (ProcessLimit.data, used.data, "bytes of data"),
    ] {
      guard let soft = limit.soft, soft < taken + spareBytes else { continue }
      throw tooSmall(limit, soft, unit, needed: taken + spareBytes)
    }
  }

  private static func tooSmall(
    _ limit: ProcessLimit, _ value: Int, _ unit: String, needed: Int
  ) -> DaemonError {
    DaemonError(
      description: """
        relayd may have \(value) \(unit), and needs \(needed) to run: raise that limit \
        (\(limit.names))
        """)
  }

  /// Bytes of addresses and of private writable memory that this process has now.
  private static func sizes() -> (addresses: Int, data: Int) {
    guard let bytes = try? Files.contents(of: "/proc/self/statm", atMost: 256) else {
      return (0, 0)
    }
    let numbers = String(decoding: bytes, as: UTF8.self).split(separator: " ").map { Int($0) ?? 0 }
    guard numbers.count > 5 else { return (0, 0) }
    // The sixth is data and stack together.
    return (numbers[0] * Int(getpagesize()), numbers[5] * Int(getpagesize()))
  }

  /// Bytes of addresses that channels can still take; nil: any number.
  static var addressesLeft: Int? {
    ProcessLimit.addressSpace.soft.map { max(0, $0 - sizes().addresses - spareBytes) }
  }

  /// What the log is to know of a limit that ends the process; nil: there is none.
  static func processorTimeWarning() -> String? {
    let limit = ProcessLimit.processorTime
    guard let hard = limit.hard else { return nil }
    // Where both are the same nothing would announce the end.
    if limit.soft == hard, hard > 1 { limit.setSoft(hard - 1) }
    return """
      relayd may use \(hard) s of processor time (\(limit.names)), and is killed by the kernel \
      then: take that limit off
      """
  }

  /// For a SIGXCPU.
  static func processorTimeMessage() -> String {
    let limit = ProcessLimit.processorTime
    let end = limit.hard.map { "; at \($0) s the kernel kills it" } ?? ""
    return "relayd has used the processor time that its limit allows (\(limit.names))\(end)"
  }
}
