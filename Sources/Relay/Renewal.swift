// SPDX-License-Identifier: Apache-2.0
// Memory that producers damaged: what is seen of that at once, and what replaces it. What takes
// longer to find is IndexInspection's.

internal import Glibc
internal import LinuxIO
internal import Synchronization

extension Reader {
  /// Damages found since the last reset.
  public var damages: UInt64 { Counters(buffer).corrupt.less(origin.counters.corrupt) }
}

extension Channel {
  /// An empty channel of the same name, sizes and CPUs in memory of its own.
  /// - Precondition: this side opened the channel in memory files.
  public func renewed() throws(ChannelError) -> Channel {
    let geometry: Geometry
    do throws(GeometryError) {
      geometry = try Geometry(
        subbufSize: self.geometry.subbufSize, subbufCount: self.geometry.subbufCount,
        entryCount: self.geometry.entryCount, mode: self.geometry.mode,
        isGlobal: self.geometry.isGlobal, clock: self.geometry.clock, cpus: cpus,
        slotCount: self.geometry.slotCount)
    } catch { throw .geometry(error) }
    return try Channel.openShared(name, geometry)
  }

  /// Sends the writers to other memory, which whoever serves the channel hands out from now on.
  /// Nothing in here is trusted; what is in it is gone.
  /// - Precondition: this side opened the channel.
  public func giveUp() {
    precondition(isOpener, "an attached producer cannot give the channel up")
    // No daemon's: producers see that this memory is not served any more.
    LiveWords(page: page.base).setGeneration(0)
    isClosed.withLock { isClosed in
      isClosed = true
      for buffer in buffers {
        // Release: pairs with the load by which a writer decides how long to look for the next
        // memory. Before the close, by which it learns that it has to.
        buffer.orphaned.pointee.store(1, ordering: .releasing)
        buffer.close(wakeFD: wakeTarget)
      }
    }
    wake()
  }
}

extension Reader {
  /// Counts in `heir` what was written, or refused, in memory that is given up since its reset.
  /// Returns the records that are lost; nil: the memory is damaged so that nobody can know.
  public func countLosses(in heir: ChannelBuffer) -> UInt64? {
    let counters = Counters(buffer)
    heir.count(heir.lostFull, counters.full.less(origin.counters.full))
    heir.count(heir.lostTooBig, counters.tooBig.less(origin.counters.tooBig))
    guard !isCorrupt else { return nil }
    let lost = buffer.lostForGood(store)
    let layout = buffer.layout
    // More cannot stand there; of what was overwritten nothing is left to compare with.
    guard
      channel.geometry.mode == .overwrite
        || lost <= UInt64(layout.subbufCount) * UInt64(layout.entryCount)
    else { return nil }
    heir.count(heir.lostRestart, lost)
    return lost
  }

  /// What is wrong with the buffer's words after a `reset`; nil: nothing that is seen without a
  /// look at the index.
  /// - Parameter owners: those that living processes write with.
  public func damage(owners: Set<UInt16>) -> String? {
    guard !isCorrupt else { return "its words contradict each other" }
    let current = buffer.loadCurrent()
    // Memory that was used does not become unused.
    guard current.seq != 0 || position.seq == 1 && position.entry == 0 else {
      return "it is as if it had never been used"
    }
    if current.isClosed, !channel.isClosedNow { return "a writer closed it" }
    // Acquire: as in `isRetired`. The next daemon would not go on with it.
    if buffer.orphaned.pointee.load(ordering: .acquiring) != 0 {
      return "a writer marked it as given up"
    }
    // Those behind the position that could not be freed.
    var stuck = 0
    for subbuf in 0..<buffer.layout.subbufCount {
      let state = buffer.loadState(subbuf)
      if state.isHeld, state.seq < position.seq { stuck += 1 }
      // Loaded after the state: it never goes back.
      guard state.seq <= buffer.loadCurrent().seq &+ 1 else {
        return "a sub-buffer has a number that is not reached yet"
      }
      // Nothing is lent or claimed after a reset.
      if state.isHeld, state.pins > 0 { return "a sub-buffer is held that nobody reads" }
      if state.phase == .claimed, !owners.contains(state.owner), state.owner != Channel.openerOwner,
        buffer.loadState(subbuf) == state
      {
        return "a sub-buffer is claimed by nobody"
      }
    }
    // A writer that cannot leave a sub-buffer for another one is at an end with the first.
    guard buffer.layout.subbufCount - stuck >= 2 else {
      return "records that were never finished leave no room"
    }
    // That it is full again is the writers' right.
    if buffer.outlook(1) == .corrupt { return "its words contradict each other" }
    return nil
  }
}
