// SPDX-License-Identifier: Apache-2.0
// Which CPUs run what: this thread's set, and threads that start together, one on each CPU.

import Glibc
import LinuxIO
import Synchronization

enum Affinity {
  // Not imported: glibc declares the two under _GNU_SOURCE only.
  private typealias Call = @convention(c) (pid_t, Int, UnsafeMutableRawPointer?) -> CInt

  private static func call(_ name: String, _ set: inout cpu_set_t) throws(SystemError) {
    guard let symbol = dlsym(nil, name) else { throw SystemError(code: ENOSYS, operation: name) }
    let function = unsafeBitCast(symbol, to: Call.self)
    guard function(0, MemoryLayout<cpu_set_t>.size, &set) == 0 else {
      throw SystemError(code: errno, operation: name)
    }
  }

  /// The CPUs this thread may run on, ascending.
  static func current() throws(SystemError) -> [Int] {
    var set = cpu_set_t()
    try call("sched_getaffinity", &set)
    return withUnsafeBytes(of: &set) { bytes in
      (0..<bytes.count * 8).filter { bytes[$0 / 8] & 1 << UInt8($0 % 8) != 0 }
    }
  }

  /// Keeps this thread, and what it starts from now on, on `cpus`.
  static func set(_ cpus: [Int]) throws(SystemError) {
    var set = cpu_set_t()
    withUnsafeMutableBytes(of: &set) { bytes in
      for cpu in cpus where cpu / 8 < bytes.count { bytes[cpu / 8] |= 1 << UInt8(cpu % 8) }
    }
    try call("sched_setaffinity", &set)
  }
}

/// Where threads wait for each other before the clock starts. They spin: each has its CPU.
final class StartLine: Sendable {
  private let missing: Atomic<Int>

  init(_ count: Int) { missing = Atomic(count) }

  func wait() {
    missing.subtract(1, ordering: .acquiringAndReleasing)
    while missing.load(ordering: .acquiring) > 0 {}
  }
}

/// One of several threads that run the same work at the same time.
// Sendable: `result` is written by the thread and read after it was joined.
final class PinnedThread: @unchecked Sendable {
  typealias Work = @Sendable (_ index: Int, _ line: StartLine) throws -> Double
  private let index: Int
  private let cpu: Int
  private let line: StartLine
  private let work: Work
  private var result: Result<Double, any Error> = .success(0)

  private init(_ index: Int, _ cpu: Int, _ line: StartLine, _ work: @escaping Work) {
    self.index = index
    self.cpu = cpu
    self.line = line
    self.work = work
  }

  /// Runs `work` on each of `cpus` in a thread of its own; it gets warm, waits at the line
  /// (and throws only after that) and returns a number. The mean of the numbers.
  static func mean(on cpus: [Int], _ work: @escaping Work) throws -> Double {
    let line = StartLine(cpus.count)
    let threads = cpus.indices.map { PinnedThread($0, cpus[$0], line, work) }
    let handles = threads.map { $0.start() }
    for handle in handles { pthread_join(handle, nil) }
    return try threads.reduce(0) { try $0 + $1.result.get() } / Double(cpus.count)
  }

  private func start() -> pthread_t {
    var handle = pthread_t()
    let code = pthread_create(
      &handle, nil, runPinnedThread, Unmanaged.passRetained(self).toOpaque())
    precondition(code == 0, "pthread_create: \(code)")
    return handle
  }

  fileprivate func run() {
    let pinned = Result { try Affinity.set([cpu]) }
    // Even where pinning failed: the others wait for this thread.
    let measured = Result { try work(index, line) }
    result = pinned.flatMap { measured }
  }
}

private func runPinnedThread(_ thread: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
  Unmanaged<PinnedThread>.fromOpaque(thread!).takeRetainedValue().run()
  return nil
}
