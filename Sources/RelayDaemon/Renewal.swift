// SPDX-License-Identifier: Apache-2.0
// Channels whose memory a producer damaged: who may have been that is logged, and its writers are
// known in the memory that replaces it.

internal import DeviceHost
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
