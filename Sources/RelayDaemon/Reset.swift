// SPDX-License-Identifier: Apache-2.0
// A channel's reset: its data and counts are forgotten. Where its memory cannot go on after that,
// it gets fresh memory, into which its writers move over.
//
// What takes long (the look at the whole index, the prefault of fresh memory) is background work:
// the loop, writers and readers go on meanwhile. What writers still put into memory that is
// replaced in the end is counted as lost.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

/// Looks at the index of all buffers of a channel, unless it is known already that there is damage.
// Unchecked: the background thread's until it is done, the loop's after that.
private final class InspectionJob: BackgroundJob, @unchecked Sendable {
  private var inspection: IndexInspection
  private(set) var result = IndexInspection.Result.unfinished

  init(_ inspection: IndexInspection, _ knownDamage: String?) {
    self.inspection = inspection
    if let knownDamage { result = .damaged(knownDamage) }
  }

  func step() -> Bool {
    if case .damaged = result { return true }
    result = inspection.step()
    return result != .unfinished
  }

  func confirm(owners: Set<UInt16>) { result = inspection.confirm(owners: owners) }
}

/// The resets of one channel that are not finished. One look at a time, for all who asked before it
/// began: however many ask, no more than two looks are to come.
struct Resets {
  typealias Then = (ControlRefusal?) -> Void

  /// The resets that the look under way, or the memory that is being made, answers.
  private(set) var current: [Then] = []
  private(set) var turn = BackgroundWork.Turn.privileged
  /// What is done for them.
  var job: BackgroundWork.JobID?
  /// The channel is gone, and its memory to be given back once nobody looks at it.
  var isLast = false
  private var next: [Then] = []
  private var nextTurn: BackgroundWork.Turn?

  var isActive: Bool { !current.isEmpty }
  var isWaiting: Bool { !next.isEmpty }

  mutating func add(_ then: @escaping Then, of user: UInt32) {
    next.append(then)
    let turn = BackgroundWork.Turn(of: user)
    if case .privileged = turn { nextTurn = turn }
    nextTurn = nextTurn ?? turn
    // What is under way comes before it.
    if case .privileged = turn { self.turn = turn }
  }

  mutating func beginNext() {
    current += next
    next = []
    turn = nextTurn ?? .privileged
    nextTurn = nil
  }

  mutating func endCurrent() { (current, job) = ([], nil) }
}

extension ChannelTable {
  /// Forgets all data and counts of a channel; once `then` is called its memory is in order, or
  /// there is a refusal: why it cannot go on, and why there is no other.
  func reset(_ served: ServedChannel, for user: UInt32, then: @escaping Resets.Then) {
    served.resets.add(then, of: user)
    if let job = served.resets.job { work.setTurn(of: job, served.resets.turn) }
    if !served.resets.isActive { inspect(served) }
  }

  /// For all who have asked by now: what it costs, it costs once.
  private func inspect(_ served: ServedChannel) {
    served.resets.beginNext()
    let damage = forgetData(of: served)
    goOn(InspectionJob(IndexInspection(served.channel, owners: owners()), damage), served)
  }

  /// Returns the damage that was met.
  private func forgetData(of served: ServedChannel) -> String? {
    onEnd(served, "the channel was reset", true)
    var damage: String?
    for (_, device) in served.devices {
      let damagesBefore = host.statistics(of: device).corrupt
      let found = host.use(device) { reader in
        reader.reset()
        return reader.damage(owners: owners())
      }
      damage = damage ?? found ?? (damagesBefore > 0 ? "damage was found in it" : nil)
      served.losses.begin(device)
    }
    return damage
  }

  private func goOn(_ job: InspectionJob, _ served: ServedChannel) {
    served.resets.job = work.submit(job, served.resets.turn) { [unowned self] in
      if job.result == .suspect { job.confirm(owners: owners()) }
      switch job.result {
      case .unfinished, .suspect: goOn(job, served)
      case .sound: finish(served, nil)
      case .damaged(let reason): renew(served, reason)
      }
    }
  }

  private func renew(_ served: ServedChannel, _ reason: String) {
    guard isOpen(served) else { return finish(served, nil) }
    let new: Channel
    do throws(ControlRefusal) {
      new = try openRenewed(served.channel, reason)
    } catch { return finish(served, error) }
    guard served.options.isPrefaulted else { return replace(served, new, reason) }
    served.resets.job = prefault(new, served.resets.turn) { [unowned self] refusal in
      if let refusal { logUnprefaulted(refusal) }
      replace(served, new, reason)
    }
  }

  /// Whether it was not closed meanwhile.
  private func isOpen(_ served: ServedChannel) -> Bool { self[served.channel.name] === served }

  private func replace(_ served: ServedChannel, _ new: Channel, _ reason: String) {
    var refusal: ControlRefusal?
    var unused = new
    if isOpen(served) {
      let old = served.channel
      do throws(ControlRefusal) {
        try replaceMemory(of: served, by: new, reason)
        unused = old
        // It is in order for those that came since, too.
        served.resets.beginNext()
      } catch { refusal = error }
    }
    release(unused)
    finish(served, refusal)
  }

  private func finish(_ served: ServedChannel, _ refusal: ControlRefusal?) {
    var refusal = refusal
    // Nobody looks at a channel that was closed.
    if !isOpen(served) {
      served.resets.beginNext()
      refusal = self.refusal(
        served.channel.name, ENOENT, "was closed before its reset came to its end")
    }
    for then in served.resets.current { then(refusal) }
    served.resets.endCurrent()
    if served.resets.isWaiting { return inspect(served) }
    if served.resets.isLast { release(served.channel) }
  }

  private func replaceMemory(
    of served: ServedChannel, by new: Channel, _ reason: String
  ) throws(ControlRefusal) {
    let old = served.channel
    let name = old.name
    let readers = served.devices.map { host.use($0.device) { $0 } }
    addMissingBuffers(to: new, served)
    new.setGeneration(kept.life.nextGeneration)
    ChannelNotes(new)?.store(served.options, served.origin, kept.kin)
    ChannelNotes(new)?.wasAttached = ChannelNotes(old)?.wasAttached ?? false
    ChannelNotes(new)?.countedLosses = ChannelNotes(old)?.countedLosses ?? 0
    for (cpu, device) in served.devices {
      do throws(HostError) {
        // The first of them meets what can fail.
        try host.replace(device, Reader(new, new.buffer(cpu: cpu)))
      } catch {
        throw refusal(name, error.code, "its memory is damaged (\(reason)), and stays so: \(error)")
      }
    }
    served.renew(new)
    onRenewed(old, new)
    // Only now are writers sent away: whenever this process dies, there is one memory that is whole
    // and not given up.
    kept.keep(new, for: served.logUser)
    old.giveUp()
    kept.drop(old)
    // A reader may have met the damage again since the reset began.
    served.losses.forget()
    for (_, device) in served.devices { served.losses.begin(device) }
    // Counted whether the line is logged or not.
    let losses = countLosses(readers, new)
    limiter.log(
      .damage, by: served.logUser,
      "channel \(name): reset with fresh memory, because in the one it had \(reason); its writers "
        + "move over with their next records" + losses)
  }

  /// Those of CPUs that came up since it was opened.
  private func addMissingBuffers(to new: Channel, _ served: ServedChannel) {
    let missing = served.devices.map(\.cpu).filter { !new.cpus.contains($0) }
    if served.options.isPrefaulted, !missing.isEmpty {
      do throws(ControlRefusal) {
        try prefault(new, cpus: missing)
      } catch { logUnprefaulted(error) }
    }
    for cpu in missing { _ = new.addBuffer(cpu: cpu) }
  }

  /// Counts what writers did in the old memory after the reset; returns words for a message.
  private func countLosses(_ readers: [Reader], _ new: Channel) -> String {
    var lost: UInt64 = 0
    var isKnown = true
    for reader in readers {
      if let count = reader.countLosses(in: new.buffer(cpu: reader.buffer.cpu)) {
        lost &+= count
      } else {
        isKnown = false
      }
    }
    let records = lost == 1 ? "1 record" : "\(lost) records"
    return
      (lost > 0
      ? "; \(records) written into the old memory since the reset began, counted in lost_restart"
      : "")
      + (isKnown
        ? "" : "; how many were written into its damaged buffers meanwhile cannot be known")
  }

  private func openRenewed(_ old: Channel, _ reason: String) throws(ControlRefusal) -> Channel {
    do throws(ChannelError) {
      return try old.renewed()
    } catch {
      var code = EINVAL
      if case .system(let error) = error { code = error.code }
      throw refusal(
        old.name, code,
        "its memory is damaged (\(reason)), and there is no other for it: \(error)"
          + ProcessLimits.hint(code))
    }
  }
}
