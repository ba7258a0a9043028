// SPDX-License-Identifier: Apache-2.0
// One process that writes: its owner id, the handle through which its death is seen, and what is
// known of each channel that it writes into.

internal import LinuxIO
internal import Relay

final class Producer {
  let owner: UInt16
  let process: ProcessHandle
  /// 0: it has no number in this pid namespace.
  let pid: Int32
  let uid: UInt32
  /// To whose limit it counts: the user by whose right it attached. Where that were its own, a user
  /// with many user ids (of a user namespace) could take all producers there may be by tokens.
  let account: UInt32
  /// Its place in the order in which processes came.
  let serial: Int
  var uses: [ChannelUse] = []

  init(
    owner: UInt16, process: consuming ProcessHandle, pid: Int32, uid: UInt32, account: UInt32,
    serial: Int
  ) {
    self.owner = owner
    self.process = process
    self.pid = pid
    self.uid = uid
    self.account = account
    self.serial = serial
  }

  /// What it writes into a channel with; nil: nothing.
  func use(of channel: Channel) -> ChannelUse? { uses.first { $0.channel === channel } }

  var name: ProcessName { ProcessName(pid: pid, uid: uid) }
}

/// A process's attachment to one channel.
final class ChannelUse {
  let channel: Channel
  /// The process's oldest open record in it, as the last look found it, and when it was found, in
  /// milliseconds of the monotonic clock.
  var open: (record: OpenRecord, since: Int)?
  /// The log has named the process for a record that it left open in this channel.
  var isNamed = false
  /// The log was to, and left it out.
  var isOverdue = false

  init(_ channel: Channel) { self.channel = channel }
}
