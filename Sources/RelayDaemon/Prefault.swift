// SPDX-License-Identifier: Apache-2.0
// Channels whose memory relayd takes when it makes them, so that its control group is charged and
// not that of whichever producer writes to a page first. That takes about half a second for a GiB:
// for a client's request it is background work, at a start, a reload, or for a CPU that comes up,
// others wait. And memory of channels that are gone, which takes a quarter of that to give back.

internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl
internal import Synchronization

/// Bytes that background work has begun to take and does not have yet.
final class PromisedMemory: Sendable {
  // Relaxed everywhere: nothing is published by it.
  private let bytes = Atomic(0)

  func add(_ count: Int) { bytes.add(count, ordering: .relaxed) }

  func subtract(_ count: Int) { bytes.subtract(count, ordering: .relaxed) }

  /// Why there are not `needed` bytes for a channel; nil: there are.
  func shortage(_ name: String, needed: Int) -> ControlRefusal? {
    let left = MemoryLimit.left()
    let available = max(0, left.bytes - bytes.load(ordering: .relaxed))
    guard needed > available else { return nil }
    return ControlRefusal(
      code: ENOMEM,
      message: """
        channel \(name): prefault takes \(needed) bytes now, and \(left.source) \(available); \
        make the channel smaller, or leave prefault out: then its memory is taken as it is written \
        to
        """)
  }

  static func refusal(_ name: String, _ error: SystemError) -> ControlRefusal {
    ControlRefusal(code: ENOMEM, message: "channel \(name): prefault: \(error)")
  }
}

/// Takes the memory of all buffers that a channel has.
// Unchecked: the background thread's until it is done, the loop's after that.
private final class PrefaultJob: BackgroundJob, @unchecked Sendable {
  private let name: String
  private let promised: PromisedMemory
  private var prefaulting: Prefaulting
  /// nil: not begun.
  private var left: Int?
  private(set) var refusal: ControlRefusal?

  init(_ channel: Channel, _ promised: PromisedMemory) {
    name = channel.name
    self.promised = promised
    prefaulting = Prefaulting(channel, cpus: channel.cpus)
  }

  func step() -> Bool {
    // Only now: what was given back until then is there.
    if left == nil {
      refusal = promised.shortage(name, needed: prefaulting.byteCount)
      guard refusal == nil else { return true }
      left = prefaulting.byteCount
      promised.add(prefaulting.byteCount)
    }
    do throws(SystemError) {
      let taken = try prefaulting.step()
      promised.subtract(taken)
      left! -= taken
      return taken == 0
    } catch {
      promised.subtract(left!)
      refusal = PromisedMemory.refusal(name, error)
      return true
    }
  }
}

/// Gives the memory of a channel back, unless another process has it mapped.
// Unchecked: only the background thread uses it.
private final class ReleaseJob: BackgroundJob, @unchecked Sendable {
  private var channel: Channel?
  private var offset: Int? = 0
  /// Milliseconds to wait for other references to go: the last one frees the memory.
  private var patience = 100

  init(_ channel: consuming Channel) { self.channel = channel }

  func step() -> Bool {
    // The address space is locked only for a step at a time; the unmapping then finds it empty.
    if let offset {
      self.offset = channel!.leavePages(from: offset)
      return false
    }
    // The loop is about to, in the call that submitted this job.
    if !isKnownUniquelyReferenced(&channel), patience > 0 {
      patience -= 1
      poll(nil, 0, 1)
      return false
    }
    channel = nil
    return true
  }
}

extension ChannelTable {
  /// Takes the memory of these buffers now; all of it or none.
  func prefault(
    _ channel: Channel, cpus: [Int], resident: Int = 0
  ) throws(ControlRefusal) {
    let needed = max(0, cpus.count * channel.geometry.prefaultedBytes - resident)
    if let shortage = promised.shortage(channel.name, needed: needed) { throw shortage }
    do throws(SystemError) {
      for cpu in cpus { try channel.prefault(cpu: cpu) }
    } catch {
      throw PromisedMemory.refusal(channel.name, error)
    }
  }

  /// What is in an adopted channel counts for more than where its memory is charged: it is served
  /// in any case.
  func prefaultAdopted(_ channel: Channel) {
    do throws(ControlRefusal) {
      try prefault(channel, cpus: channel.cpus, resident: channel.residentBytes)
    } catch { logUnprefaulted(error) }
  }

  func logUnprefaulted(_ refusal: ControlRefusal) {
    log(.warning, "\(refusal); it is served as if prefault were false")
  }

  /// Takes the memory of a new channel's buffers while the loop goes on; then says why that could
  /// not be, or nil.
  @discardableResult
  func prefault(
    _ channel: Channel, _ turn: BackgroundWork.Turn, then: @escaping (ControlRefusal?) -> Void
  ) -> BackgroundWork.JobID? {
    let job = PrefaultJob(channel, promised)
    return work.submit(job, turn) { then(job.refusal) }
  }

  /// Gives the memory of a channel back while the loop goes on. Nobody else keeps it.
  func release(_ channel: consuming Channel) { work.submit(ReleaseJob(channel), .first) }
}
