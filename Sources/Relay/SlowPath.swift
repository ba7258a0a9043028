// SPDX-License-Identifier: Apache-2.0
// A record off the fast path: in the memory that is the channel's now, whatever that was when the
// writer began.

internal import CRelayABI
internal import Synchronization

extension Channel {
  @inline(never)
  func reserveSlowly(_ length: Int) -> ChannelBuffer.Reserved {
    reserveSlowly(length, NoTestPoints.self)
  }

  @usableFromInline @inline(never)
  func reserveSlowly<P: TestPoints>(_ length: Int, _ points: P.Type) -> ChannelBuffer.Reserved {
    var looksForNext = true
    while true {
      if let lifeline, lifeline.pointee.isSuspended, !lifeline.pointee.look() {
        return .stopped(.unserved)
      }
      let era = era
      let slot = thisSlot(of: era)
      switch slot.reserveOffPath(
        length, owner: era.pointee.owner, wakeFD: wakeTarget, looksForNext ? era : nil, points)
      {
      case .reserved(let reservation): return .reserved(reservation)
      case .stopped(.orphaned):
        // A record goes into the memory there is, as long as that is allowed.
        looksForNext = lifeline?.pointee.look(urgency(slot.home)) ?? false
      case .stopped(.closed):
        // Its writers may have been sent elsewhere just now.
        if self.era == era { return .stopped(isClosing(era) ? .unserved : .closed) }
        looksForNext = true
      case .stopped(let stop): return .stopped(stop)
      }
    }
  }

  /// Whether the buffers were closed by a daemon that ends, and not for good.
  private func isClosing(_ era: UnsafeMutablePointer<Era>) -> Bool {
    guard let lifeline, !LiveWords(page: era.pointee.page).isEnded else { return false }
    // Relaxed: it stays until there is other memory.
    return !lifeline.pointee.outage.isReplaced.load(ordering: .relaxed)
  }

  private func urgency(_ buffer: ChannelBuffer) -> Urgency {
    guard buffer.loadCurrent().isClosed else { return .none }
    // Relaxed: as in `isClosing`. What is there now is another channel: not worth waiting for.
    if lifeline?.pointee.outage.isReplaced.load(ordering: .relaxed) == true { return .closed }
    // Acquire: pairs with the exchange by which somebody left it.
    return buffer.orphaned.pointee.load(ordering: .acquiring) != 0 ? .left : .closed
  }

  /// Counts a refused record where it would have gone.
  @usableFromInline
  func countRefusal(_ result: WriteResult) {
    if result == .unserved {
      lifeline?.pointee.noteRefused()
    } else {
      let era = era
      let home = thisSlot(of: era).home
      home.countRefusal(result)
      lifeline?.pointee.noteRefused(result, in: era)
    }
  }

  /// Where this thread's records go.
  var home: ChannelBuffer { thisSlot(of: era).home }

  /// The slot of the CPU this thread runs on. Whether there is a buffer in it is looked at only
  /// here, off the fast path.
  private func thisSlot(of era: UnsafeMutablePointer<Era>) -> ChannelBuffer {
    slot(Int(relay_cpu(relay_rseq_offset())), of: era)
  }

  /// A CPU beyond all slots uses the first.
  private func slot(_ cpu: Int, of era: UnsafeMutablePointer<Era>) -> ChannelBuffer {
    era.buffer(cpu < geometry.slotCount ? cpu : 0)
  }

  func slot(_ cpu: Int) -> ChannelBuffer { slot(cpu, of: era) }
}
