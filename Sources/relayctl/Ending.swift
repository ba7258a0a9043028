// SPDX-License-Identifier: Apache-2.0
// The end that a signal asks of a command which still has something to print.

import Glibc
import LinuxIO
import Synchronization

/// SIGHUP, SIGINT and SIGTERM, unless they were ignored: the command is told, ends in order, and
/// then dies of the signal. Where it cannot (nobody takes its output, say), or a second signal
/// comes, it dies all the same.
final class Ending: Sendable {
  private let signal = Atomic<CInt>(0)
  private let event: EventFD

  /// Seconds to end in.
  private static let patience = 5

  /// From now on. Before any other thread is started.
  init() throws(SystemError) {
    event = try EventFD()
    var blocked = sigset_t()
    sigemptyset(&blocked)
    for signal in [SIGHUP, SIGINT, SIGTERM] where !Ending.isIgnored(signal) {
      sigaddset(&blocked, signal)
    }
    pthread_sigmask(SIG_BLOCK, &blocked, nil)
    let signals = blocked
    _ = try Thread(name: "signals") { [self] in wait(for: signals) }
  }

  private static func isIgnored(_ signal: CInt) -> Bool {
    var action = sigaction()
    guard sigaction(signal, nil, &action) == 0 else { return false }
    return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
      == unsafeBitCast(SIG_IGN, to: Int.self)
  }

  private func wait(for signals: sigset_t) {
    var signals = signals
    var received: CInt = 0
    guard sigwait(&signals, &received) == 0 else { return }
    signal.store(received, ordering: .releasing)
    event.signal()
    var limit = timespec(tv_sec: Ending.patience, tv_nsec: 0)
    while sigtimedwait(&signals, nil, &limit) < 0, errno == EINTR {}
    complain("ended before all that was read was written")
    Ending.die(of: received)
  }

  /// Pairs with the store of the thread that waits.
  var isAsked: Bool { signal.load(ordering: .acquiring) != 0 }

  /// Readable once it is asked.
  var poller: pollfd { pollfd(fd: event.raw, events: Int16(POLLIN), revents: 0) }

  /// Waits, but not once it is asked.
  func pause(milliseconds: CInt) {
    var poller = poller
    poll(&poller, 1, milliseconds)
  }

  /// Ends the process as the signal would have, if one came.
  func dieIfAsked() {
    let received = signal.load(ordering: .acquiring)
    if received != 0 { Ending.die(of: received) }
  }

  private static func die(of signal: CInt) -> Never {
    var unblocked = sigset_t()
    sigemptyset(&unblocked)
    sigaddset(&unblocked, signal)
    pthread_sigmask(SIG_UNBLOCK, &unblocked, nil)
    raise(signal)
    // Not reached: its action is the default one.
    _exit(128 + signal)
  }
}
