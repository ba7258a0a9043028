// SPDX-License-Identifier: Apache-2.0
// A reader that waits in one way and says what it got: for what ends the wait.

import ArgumentParser
import CLinux
import Glibc

struct Reader: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Waits for a device once and prints what each call returned.")

  enum State: String, ExpressibleByArgument, CaseIterable {
    /// In an open that its server does not answer; then in a read that blocks.
    case opening
    /// In a read that blocks.
    case read
    case poll, epoll
    case epollEdge = "epoll-edge"
    /// Has it open and is in no call of it; looks after a line of standard input.
    case open
  }

  @Option(help: "How it waits.") var state: State
  @Flag(help: "Handle SIGTERM, without SA_RESTART.") var handler = false
  @Argument var device: String

  func run() throws {
    if handler {
      var action = sigaction()
      action.__sigaction_handler.sa_handler = { _ in }
      sigaction(SIGTERM, &action, nil)
    }
    if state == .opening { say("ready") }
    let fd = Glibc.open(device, O_RDONLY)
    guard fd >= 0 else { return say("open \(name(errno))") }
    switch state {
    case .opening: break
    case .read: say("ready")
    case .poll:
      say("ready")
      report("poll", pollOnce(fd, -1))
    case .epoll, .epollEdge: epollOnce(fd)
    case .open:
      say("ready")
      _ = readLine()
      report("poll", pollOnce(fd, 0))
    }
    // Who waited in a read waits there; the others look what is to be had.
    if state != .read && state != .opening { _ = fcntl(fd, F_SETFL, O_NONBLOCK) }
    var buffer = [UInt8](repeating: 0, count: 65536)
    repeat {
      let count = Glibc.read(fd, &buffer, buffer.count)
      say(count >= 0 ? "read \(count)" : "read \(name(errno))")
      if count >= 0 || errno != EINTR { break }
    } while true
  }

  /// The events of a poll, waited for through interruptions; -1 after an error.
  private func pollOnce(_ fd: CInt, _ milliseconds: CInt) -> Int {
    var poller = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
    while Glibc.poll(&poller, 1, milliseconds) < 0 { say("poll \(name(errno))") }
    return Int(poller.revents)
  }

  private func epollOnce(_ fd: CInt) {
    let epoll = clinux_epoll()
    var event = epoll_event()
    let interest = EPOLLIN.rawValue | (state == .epollEdge ? EPOLLET.rawValue : 0)
    clinux_epoll_add(epoll, fd, interest, 0)
    say("ready")
    while clinux_epoll_wait(epoll, &event, 1, -1) == -EINTR { say("epoll EINTR") }
    // The bits are poll's.
    report("epoll", Int(event.events))
  }

  private func report(_ call: String, _ events: Int) {
    let names = [(POLLIN, "IN"), (POLLHUP, "HUP"), (POLLERR, "ERR")]
      .filter { events & Int($0.0) != 0 }.map(\.1)
    say("\(call) \(names.isEmpty ? "nothing" : names.joined(separator: "|"))")
  }

  private func name(_ code: CInt) -> String {
    switch code {
    case EINTR: "EINTR"
    case EAGAIN: "EAGAIN"
    case ENOTCONN: "ENOTCONN"
    case ECONNABORTED: "ECONNABORTED"
    case ENODEV: "ENODEV"
    case ENOENT: "ENOENT"
    default: String(cString: strerror(code))
    }
  }

  /// At once: who watches must not wait for a buffer to fill.
  private func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = write(STDOUT_FILENO, bytes, bytes.count)
  }
}
