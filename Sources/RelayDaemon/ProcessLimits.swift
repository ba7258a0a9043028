// SPDX-License-Identifier: Apache-2.0
// What is done about the resource limits of relayd's own process at start, and how a refusal names
// them. That of descriptors is DescriptorLimit's.

internal import Glibc
internal import LinuxIO

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
    if let soft = ResourceLimit.stack.soft, soft < usualStack {
      ResourceLimit.stack.setSoft(usualStack)
    }
    if let soft = ResourceLimit.stack.soft, soft < leastStack {
      throw tooSmall(.stack, soft, "bytes of stack", needed: leastStack)
    }
    if let hard = ResourceLimit.descriptors.hard, hard < leastDescriptors {
      throw tooSmall(.descriptors, hard, "descriptors", needed: leastDescriptors)
    }
    let used = sizes()
    for (limit, taken, unit) in [
      (ResourceLimit.addressSpace, used.addresses, "bytes of addresses"),
      (ResourceLimit.data, used.data, "bytes of data"),
    ] {
      guard let soft = limit.soft, soft < taken + spareBytes else { continue }
      throw tooSmall(limit, soft, unit, needed: taken + spareBytes)
    }
  }

  /// For the end of a message about a call that failed with `code`; empty where no limit of this
  /// process makes calls fail so.
  static func hint(_ code: CInt) -> String {
    ResourceLimit.text(for: code).map { "; \($0): raise it" } ?? ""
  }

  private static func tooSmall(
    _ limit: ResourceLimit, _ value: Int, _ unit: String, needed: Int
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
    ResourceLimit.addressSpace.soft.map { max(0, $0 - sizes().addresses - spareBytes) }
  }

  /// What the log is to know of a limit that ends the process; nil: there is none.
  static func processorTimeWarning() -> String? {
    let limit = ResourceLimit.processorTime
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
    let limit = ResourceLimit.processorTime
    let end = limit.hard.map { "; at \($0) s the kernel kills it" } ?? ""
    return "relayd has used the processor time that its limit allows (\(limit.names))\(end)"
  }
}
