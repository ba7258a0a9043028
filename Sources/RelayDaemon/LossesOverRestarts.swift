// SPDX-License-Identifier: Apache-2.0
// What the daemon says at its start of what the one before left unread, and what it leaves at its
// end for the next one to say.

internal import Logging
internal import Relay

extension Daemon {
  /// Says what of the relayd before was lost with memory that this one was not handed. It is
  /// counted already.
  func tellLosses() {
    if ledger.wasKilled, !start.isHanded {
      logger.warning(
        """
        the last relayd was killed, and its memory was not handed over: what nobody had read is \
        lost; producers that live on count it in lost_restart, others cannot
        """)
    }
    ledger.begin()
    table.onOpen = { [ledger] _ in ledger.tell() }
  }

  /// Has the next relayd know what is lost if it is not handed this one's memory.
  func leaveLosses() {
    let losses = table.lossesAtEnd()
    for (entry, _) in losses {
      logger.notice(
        """
        channel \(entry.channel), CPU \(entry.cpu): \(entry.records) unread \
        record\(entry.records == 1 ? "" : "s") in memory \(String(entry.incarnation, radix: 16))
        """)
    }
    guard ledger.end(losses.map(\.entry)) else { return }
    for (_, markCounted) in losses { markCounted() }
  }
}
