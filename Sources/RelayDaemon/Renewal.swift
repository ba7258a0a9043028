// SPDX-License-Identifier: Apache-2.0
// Channels whose memory a producer damaged: who may have been that is logged, and a reset gives the
// channel fresh memory, into which its writers move over.

internal import DeviceHost
internal import Glibc
internal import LinuxIO
internal import Relay
internal import RelayControl

extension ChannelTable {
  /// Logs, once until the next reset, that a buffer is damaged, and who could have done it.
  func reportDamage(_ served: ServedChannel, cpu: Int) {
    let isNew = served.losses.damagedCPUs.insert(cpu).inserted
    guard isNew || served.losses.overdueDamage.contains(cpu) else { return }
    let name = served.channel.name
    let isLogged = limiter.log(
      .damage, by: served.logUser, isOverdue: !isNew,
      """
      \(name)\(cpu): a process that writes to channel \(name) damaged its shared memory; this \
      buffer delivers nothing more; attached \(writersOf(served.channel)); \
      `relayctl reset \(name)` gives the channel fresh memory
      """)
    if isLogged {
      served.losses.overdueDamage.remove(cpu)
    } else {
      served.losses.overdueDamage.insert(cpu)
    }
  }

  /// Logs what the limiter left out before.
  func reportOverdueDamage() {
    for served in channels {
      for cpu in served.losses.overdueDamage.sorted() { reportDamage(served, cpu: cpu) }
    }
  }

  /// What the host has found since the last call.
  func reportDamage() {
    for device in host.takeDamaged() {
      // Closed channels are left out: they take no more records.
      for served in channels {
        guard let cpu = served.devices.first(where: { $0.device === device })?.cpu else { continue }
        reportDamage(served, cpu: cpu)
      }
    }
  }

  /// Forgets all data and counts of a channel. Where its memory cannot go on after that, it gets
  /// fresh memory.
  /// - Parameter owners: those that living processes write with.
  /// - Throws: why it cannot go on, and why it cannot get other memory.
  func reset(_ served: ServedChannel, owners: Set<UInt16>) throws(ControlRefusal) {
    onEnd(served, "the channel was reset", true)
    defer { for (_, device) in served.devices { served.losses.begin(device) } }
    var reason: String?
    for (_, device) in served.devices {
      let damagesBefore = host.statistics(of: device).corrupt
      let found = host.use(device) { reader in
        reader.reset()
        return reader.damage(owners: owners)
      }
      reason =
        reason ?? found ?? (damagesBefore > 0 ? "damage was found in it" : nil)
        ?? served.channel.indexDamage(device.buffer, owners: owners)
    }
    guard let reason else { return }
    try renew(served, reason)
  }

  private func renew(_ served: ServedChannel, _ reason: String) throws(ControlRefusal) {
    let old = served.channel
    let name = old.name
    let new = try openRenewed(old, reason)
    prefaultAdopted(new, served.options)
    let readers = served.devices.map { host.use($0.device) { $0 } }
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
    limiter.log(
      .damage, by: served.logUser,
      "channel \(name): reset with fresh memory, because in the one it had \(reason); its writers "
        + "move over with their next records" + countLosses(readers, new))
  }

  /// Counts what writers did in the old memory after the reset, and says it.
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

extension Producers {
  /// Those that may write into a channel, for a message: a list of the first few.
  func names(of channel: Channel) -> String {
    let all = byHandle.values.filter { $0.uses.contains { $0.channel === channel } }
      .sorted { $0.pid < $1.pid }
    guard !all.isEmpty else { return "is no process now" }
    let some = all.prefix(8).map { "\($0.name)" }.joined(separator: ", ")
    let verb = all.count == 1 ? "is" : "are"
    return all.count > 8 ? "\(verb) \(some) and \(all.count - 8) more" : "\(verb) \(some)"
  }

  /// A channel's memory was replaced: those who wrote into it will write there, with the same owner
  /// ids.
  func move(from old: Channel, to new: Channel) {
    for producer in byHandle.values {
      guard let place = producer.uses.firstIndex(where: { $0.channel === old }) else { continue }
      producer.uses[place] = ChannelUse(new)
      ChannelNotes(new)?[producer.owner] = true
    }
  }

  /// Channels that somebody writes into.
  var written: Set<ObjectIdentifier> {
    Set(byHandle.values.flatMap { $0.uses.map { ObjectIdentifier($0.channel) } })
  }
}
