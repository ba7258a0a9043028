// SPDX-License-Identifier: Apache-2.0
// The end that a signal or the limit on CPU time asks of a command which still has something to
// write.

import Glibc
import LinuxIO
import Synchronization

/// SIGHUP, SIGINT, SIGTERM and SIGXCPU, unless they were ignored: the command learns of it, ends in
/// order, and then dies of the signal. In three steps, so that a command which cannot end in order
/// (nobody takes its output, say) still counts what it loses:
/// 1. `isAsked`, with the first signal: it stops reading and writes what it has.
/// 2. `isForced`, 5 s later or with another signal that is no part of the first wish: calls that
///    wait are interrupted, it gives up what is not written, says how much that is, and dies.
/// 3. A second later, where the main thread is in a call that no signal interrupts, the process
///    dies, and this says what was last noted as held.
final class Ending: Sendable {
  private let signal = Atomic<CInt>(0)
  private let forced = Atomic<Bool>(false)
  private let heldRecords = Atomic<Int>(0)
  private let heldBytes = Atomic<Int>(0)
  private let event: EventFD

  /// Nanoseconds to end in.
  private static let patience = 5_000_000_000
  /// timeout(1) sends its signal to the command and to its process group; a terminal's driver may
  /// send a second one, too. Within this time both are one wish.
  private static let oneWish = 1_000_000_000

  /// From now on. In the main thread, before any other thread is started.
  init() throws(SystemError) {
    event = try EventFD()
    Ending.prepareInterruption()
    var blocked = sigset_t()
    sigemptyset(&blocked)
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGXCPU] where !Ending.isIgnored(signal) {
      sigaddset(&blocked, signal)
    }
    pthread_sigmask(SIG_BLOCK, &blocked, nil)
    let signals = blocked
    let main = pthread_self()
    _ = try Thread(name: "signals") { [self] in wait(for: signals, main) }
    Ending.startCPUTimer()
  }

  private static func isIgnored(_ signal: CInt) -> Bool {
    var action = sigaction()
    guard sigaction(signal, nil, &action) == 0 else { return false }
    return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
      == unsafeBitCast(SIG_IGN, to: Int.self)
  }

  /// SIGURG does nothing by itself, but with a handler it interrupts a call that waits.
  private static func prepareInterruption() {
    var action = sigaction()
    action.__sigaction_handler.sa_handler = { _ in }
    sigaction(SIGURG, &action, nil)
    var interruption = sigset_t()
    sigemptyset(&interruption)
    sigaddset(&interruption, SIGURG)
    pthread_sigmask(SIG_UNBLOCK, &interruption, nil)
  }

  private static func now() -> Int {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1_000_000_000 + time.tv_nsec
  }

  private func wait(for signals: sigset_t, _ main: pthread_t) {
    var signals = signals
    var received: CInt = 0
    guard sigwait(&signals, &received) == 0 else { return }
    signal.store(received, ordering: .releasing)
    event.signal()
    let start = Ending.now()
    var next = received
    while true {
      let age = Ending.now() - start
      // The limit on CPU time goes on to tell; who is asked to end because of it does.
      if next > 0, next != SIGXCPU, age >= Ending.oneWish { break }
      guard age < Ending.patience else { break }
      let left = Ending.patience - age
      var limit = timespec(tv_sec: left / 1_000_000_000, tv_nsec: left % 1_000_000_000)
      next = sigtimedwait(&signals, nil, &limit)
    }
    forced.store(true, ordering: .releasing)
    // Again and again: one may come just before the call that it should interrupt.
    for _ in 0..<100 {
      pthread_kill(main, SIGURG)
      usleep(10_000)
    }
    let held = (
      records: heldRecords.load(ordering: .acquiring), bytes: heldBytes.load(ordering: .acquiring)
    )
    // Standard error may be what cannot be written.
    if held.records > 0, Readiness.wait(STDERR_FILENO, .write, timeoutMilliseconds: 0) != [] {
      complain(
        """
        ended by \(Ending.name(of: received)) while it waited: up to \(held.records) records \
        (\(held.bytes) bytes) that were read were not written and are lost
        """)
    }
    Ending.die(of: received)
  }

  /// Pairs with the store of the thread that waits.
  var isAsked: Bool { signal.load(ordering: .acquiring) != 0 }

  /// What is not written now is given up. Pairs with the store of the thread that waits.
  var isForced: Bool { forced.load(ordering: .acquiring) }

  /// What was read and is not written, before a call that may wait. For the thread that waits.
  func note(held: Unwritten) {
    heldRecords.store(held.records, ordering: .releasing)
    heldBytes.store(held.bytes, ordering: .releasing)
  }

  /// Readable once it is asked.
  var poller: pollfd { pollfd(fd: event.raw, events: Int16(POLLIN), revents: 0) }

  /// Waits, but not once it is asked.
  func pause(milliseconds: CInt) {
    var poller = poller
    poll(&poller, 1, milliseconds)
  }

  var signalNumber: CInt { signal.load(ordering: .acquiring) }

  /// What asked for the end: "SIGTERM".
  var reason: String { Ending.name(of: signal.load(ordering: .acquiring)) }

  /// Ends the process as the signal would have, if one came. The limit on CPU time is a failure, of
  /// which `rest` says what was not done.
  func dieIfAsked(_ rest: @autoclosure () -> String) throws {
    let received = signal.load(ordering: .acquiring)
    if received == SIGXCPU { throw CommandFailure.failed("ended by \(reason); \(rest())") }
    if received != 0 { Ending.die(of: received) }
  }

  static func die(of signal: CInt) -> Never {
    if signal == SIGXCPU { _exit(EXIT_FAILURE) }
    Glibc.signal(signal, SIG_DFL)
    var unblocked = sigset_t()
    sigemptyset(&unblocked)
    sigaddset(&unblocked, signal)
    pthread_sigmask(SIG_UNBLOCK, &unblocked, nil)
    raise(signal)
    // Not reached: its action is the default one.
    _exit(128 + signal)
  }

  private static func name(of signal: CInt) -> String {
    switch signal {
    case SIGHUP: return "SIGHUP"
    case SIGINT: return "SIGINT"
    case SIGTERM: return "SIGTERM"
    default:
      let limit = cpuLimit.map { ", which is \($0) s" } ?? ""
      return "the limit on CPU time (RLIMIT_CPU, ulimit -t)\(limit)"
    }
  }
}

// The limit on CPU time. Where the soft limit is the hard one, as `ulimit -t` has it, the kernel
// kills without SIGXCPU; so a timer sends that a little earlier.
extension Ending {
  /// In seconds; nil: none.
  private static var cpuLimit: Int? {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_CPU.rawValue), &limit) == 0 else { return nil }
    return Int(exactly: limit.rlim_cur)
  }

  private static func startCPUTimer() {
    guard let limit = cpuLimit, limit < 1 << 32 else { return }
    var event = sigevent()
    event.sigev_notify = CInt(SIGEV_SIGNAL)
    event.sigev_signo = SIGXCPU
    var timer: timer_t?
    // Without a timer (RLIMIT_SIGPENDING) the kernel's own signal is left, where there is one.
    guard timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer) == 0 else { return }
    // A limit of 0 counts as one of a second.
    var when = itimerspec()
    when.it_value = timespec(tv_sec: max(1, limit) - 1, tv_nsec: 700_000_000)
    timer_settime(timer, TIMER_ABSTIME, &when, nil)
  }
}
