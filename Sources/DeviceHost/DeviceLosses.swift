// SPDX-License-Identifier: Apache-2.0
// Losses that only the reading side of a device sees, counted where its owner can look at them at
// any time: records that were overwritten under a reader, and those passed because their writer had
// stopped.

public import Relay
internal import Synchronization

/// Changed by the device's thread, read by any.
public final class DeviceLosses: Sendable {
  private let lappedCount = Atomic<UInt64>(0)
  private let stalledCount = Atomic<UInt64>(0)
  // For the device's thread alone, as are the two after it.
  private let lappedSeen = Atomic<UInt64>(0)
  private let stalledSeen = Atomic<UInt64>(0)
  /// Somebody has the buffer open or mapped, and was given something: what is overwritten from then
  /// on is lost for that reader. A flight recorder that nobody reads loses nothing.
  private let isFollowed = Atomic(false)

  // Relaxed, all in here: counts that stand for themselves.

  /// Records overwritten while somebody was reading.
  public var overwritten: UInt64 { lappedCount.load(ordering: .relaxed) }
  public var stalled: UInt64 { stalledCount.load(ordering: .relaxed) }

  func begin(_ reader: Reader) {
    // Relaxed: as above.
    lappedSeen.store(reader.lapped, ordering: .relaxed)
    stalledSeen.store(reader.stalled, ordering: .relaxed)
  }

  /// After something was delivered; true where losses have grown.
  func note(_ reader: Reader) -> Bool {
    // Relaxed: as above.
    let lapped = reader.lapped &- lappedSeen.exchange(reader.lapped, ordering: .relaxed)
    let stalledBefore = stalledSeen.exchange(reader.stalled, ordering: .relaxed)
    let wasFollowed = isFollowed.exchange(true, ordering: .relaxed)
    // Fewer than before: the writer of one that was passed died, which is another cause.
    let stalled = reader.stalled > stalledBefore ? reader.stalled - stalledBefore : 0
    // Relaxed: as above.
    if wasFollowed { lappedCount.wrappingAdd(lapped, ordering: .relaxed) }
    stalledCount.wrappingAdd(stalled, ordering: .relaxed)
    return wasFollowed && lapped > 0 || stalled > 0
  }

  /// Nobody reads any more.
  // Relaxed: as above.
  func noteEnd() { isFollowed.store(false, ordering: .relaxed) }
}

extension Device {
  /// After something was delivered to who consumes it.
  func noteLosses() { if losses.note(reader) { keeper?.lossesFound() } }

  func noteReadersLeft() {
    if lease == nil, uses.consuming == 0 { losses.noteEnd() }
  }

  /// What became of the records of this buffer that nobody will read.
  public var lossesOfReaders: DeviceLosses { losses }

  /// The memory it serves. For the host's owner.
  public var buffer: ChannelBuffer { reader.buffer }
}
