// SPDX-License-Identifier: Apache-2.0
// Channels that were there for as long as somebody wrote: one is closed at a time, so that the loop
// serves others between two of them, however many one process leaves behind.

internal import LinuxIO

final class Closing: EventHandler {
  // Unowned: it closes channels only of a table that is there, which knows it.
  private unowned let table: ChannelTable
  private var waiting: [ServedChannel] = []
  private let bell: EventFD

  init(loop: EventLoop, table: ChannelTable) throws(SystemError) {
    self.table = table
    bell = try EventFD()
    // Requests first.
    try loop.add(bell.raw, .read, self, isLast: true)
  }

  /// Has an abandoned channel closed, unless somebody has attached by then.
  func expect(_ served: ServedChannel) {
    waiting.append(served)
    bell.signal()
  }

  func handle(_ events: Events, from fd: CInt) {
    bell.drain()
    guard !waiting.isEmpty else { return }
    table.closeAbandoned(waiting.removeFirst())
    if !waiting.isEmpty { bell.signal() }
  }
}
