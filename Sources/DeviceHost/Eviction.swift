// SPDX-License-Identifier: Apache-2.0
// Takes a buffer from a reader that others wait for: readers can be evicted. A user whose reader
// lost a buffer, by eviction or by a consumer's timeout while another user asked for it, comes
// behind all other users.
//
// 1. Behind others means: for `Device.waitMilliseconds`, each of the user's opens for reading,
//    mappings and RELAY_IOC_EXCLs of this buffer fails. Files that the user has open read on.
// 2. root and relayd's own user never wait.
// 3. An evicted file is good for nothing but its close; an evicted consumer is one that was late.

internal import CFuse
internal import Glibc
internal import LinuxIO
internal import Relay

extension Device {
  /// A user who comes behind others until then, in milliseconds of the monotonic clock.
  struct Wait {
    let uid: UInt32
    let end: Int
  }

  static let waitMilliseconds = 10_000

  /// Whether this user's file may read, or its consumer map; a consumer that has the buffer is
  /// asked whether it lives.
  func mayHave(_ uid: UInt32) -> Bool {
    guard !isBehindOthers(uid) else { return false }
    if let lease { askAfter(lease, for: uid) }
    return soleReader == nil && lease == nil
  }

  func isBehindOthers(_ uid: UInt32) -> Bool {
    guard !waits.isEmpty else { return false }
    let now = Clock.milliseconds()
    return waits.contains { $0.uid == uid && $0.end > now }
  }

  func putBehindOthers(_ uid: UInt32) {
    guard !Share.isPrivileged(uid) else { return }
    let now = Clock.milliseconds()
    waits.removeAll { $0.uid == uid || $0.end <= now }
    waits.append(Wait(uid: uid, end: now + Device.waitMilliseconds))
    keeper?.startWaking(self)
  }

  /// Somebody is to be told of the end of a wait.
  var isAwaitedBehindOthers: Bool { !waits.isEmpty && !formerLeases.isEmpty }

  /// Milliseconds until the first of them ends; nil: nobody is to be told.
  var waitLeft: Int? {
    guard isAwaitedBehindOthers, let end = waits.map(\.end).min() else { return nil }
    return max(0, end - Clock.milliseconds())
  }

  func endWaits() {
    guard !waits.isEmpty else { return }
    let now = Clock.milliseconds()
    let count = waits.count
    waits.removeAll { $0.end <= now }
    if waits.count < count { callFormerLeases() }
  }

  /// Takes the buffer from that reader. False: it is gone.
  func evict(_ entry: ReaderEntry) -> Bool {
    if let file = files.first(where: { $0.entry === entry }) {
      putBehindOthers(entry.uid)
      evict(file)
      return true
    }
    if let lease, lease.entry === entry {
      putBehindOthers(entry.uid)
      takeBuffer(from: lease)
      return true
    }
    guard formerLeases.contains(where: { $0.entry === entry }) else { return false }
    putBehindOthers(entry.uid)
    return true
  }

  private func evict(_ file: OpenFile) {
    guard !file.isEvicted else { return }
    file.evict()
    file.noteKind()
    dismiss(waiters.remove(file), ESTALE)
    evictWrites(of: file)
    if file.awaitsRoom { output.awaitedPolls -= 1 }
    file.awaitsRoom = false
    if let poll = file.poll { cfuse_poll_notify(poll) }
    noteUse(of: file)
    noteReadersLeft()
    if soleReader === file { endSoleReading() }
    callFormerLeases()
    // Others may have waited behind it.
    wake()
  }
}

extension Device.OpenFile {
  /// After what it does to the buffer changed.
  func noteKind() {
    entry?.kind =
      if isEvicted { .evicted } else if !reads { .write } else if device.soleReader === self {
        .exclusive
      } else if peeker != nil { .peek } else { .file }
  }
}
