// SPDX-License-Identifier: Apache-2.0
// Which process writes under which owner id, in memory that outlives this one: the next relayd has
// to know whom to watch and whom to sweep. Producers never see it.

internal import Glibc
internal import LinuxIO
internal import Relay
internal import Synchronization

/// A table in a memory file: one entry for each owner id. An entry is there before its producer
/// may write, and until it has been swept.
final class OwnerTable {
  /// A producer as the table has it.
  struct Entry: Equatable {
    /// 0 for a process outside this pid namespace.
    var pid: Int32
    var uid: UInt32
    /// In clock ticks since boot, as /proc says: a number that was given again has another one.
    var startTime: UInt64
  }

  private static let magic: UInt64 = 0x3152_4e57_4f59_4c52  // "RLYOWNR1" in memory
  // The magic, then for each owner: 0 or a checksum, pid and uid, start time.
  private static let entryWords = 3
  private static let byteCount = (1 + (Int(Channel.highestOwner) + 1) * entryWords) * 8

  private let file: FileDescriptor
  private let memory: Mapping

  /// An empty one.
  init() throws(SystemError) {
    file = try MemoryFile.create(name: "relay-owners", count: OwnerTable.byteCount)
    try MemoryFile.restrict(file.raw)
    try MemoryFile.seal(file.raw, [.shrink, .grow, .seal])
    memory = try Mapping.shared(
      file.raw, count: OwnerTable.byteCount, writable: true, inheritedByChildren: false)
    word(0).pointee.store(OwnerTable.magic, ordering: .releasing)
  }

  /// One that another relayd left. nil: that is no such table.
  init?(adopting file: consuming FileDescriptor) {
    guard let seals = try? MemoryFile.seals(of: file.raw), seals.contains([.shrink, .grow]),
      (try? MemoryFile.count(of: file.raw)) == OwnerTable.byteCount,
      let memory = try? Mapping.shared(
        file.raw, count: OwnerTable.byteCount, writable: true, inheritedByChildren: false),
      memory.base.load(as: UInt64.self) == OwnerTable.magic
    else { return nil }
    self.file = file
    self.memory = memory
  }

  /// To be kept where it outlives this process. Borrowed.
  var descriptor: CInt { file.raw }

  private func word(_ index: Int) -> UnsafePointer<Atomic<UInt64>> {
    UnsafePointer((memory.base + index * 8).assumingMemoryBound(to: Atomic<UInt64>.self))
  }

  /// All entries. Read from the file: pages that nobody wrote to stay away. nil: one is damaged,
  /// and with it all are worth nothing, as nobody knows whose owner id that is.
  func entries() -> [(owner: UInt16, entry: Entry)]? {
    var words = [UInt64](repeating: 0, count: OwnerTable.byteCount / 8)
    guard pread(file.raw, &words, OwnerTable.byteCount, 0) == OwnerTable.byteCount else {
      return nil
    }
    var entries: [(owner: UInt16, entry: Entry)] = []
    for owner in 1...Channel.highestOwner {
      let first = 1 + Int(owner) * OwnerTable.entryWords
      let (state, ids, startTime) = (words[first], words[first + 1], words[first + 2])
      guard state != 0 else { continue }
      let entry = Entry(
        pid: Int32(truncatingIfNeeded: ids), uid: UInt32(ids >> 32), startTime: startTime)
      guard state == OwnerTable.checksum(entry, owner) else { return nil }
      entries.append((owner, entry))
    }
    return entries
  }

  func set(_ owner: UInt16, _ entry: Entry) {
    let words = word(1 + Int(owner) * OwnerTable.entryWords)
    // Sequentially consistent: invalid before anything below changes, whenever we are killed.
    words[0].store(0, ordering: .sequentiallyConsistent)
    let ids = UInt64(UInt32(bitPattern: entry.pid)) | UInt64(entry.uid) << 32
    // Relaxed, both: published by the release below.
    words[1].store(ids, ordering: .relaxed)
    words[2].store(entry.startTime, ordering: .relaxed)
    words[0].store(OwnerTable.checksum(entry, owner), ordering: .releasing)
  }

  /// Nobody writes under this id any more.
  func free(_ owner: UInt16) {
    // Release: after the sweep.
    word(1 + Int(owner) * OwnerTable.entryWords).pointee.store(0, ordering: .releasing)
  }

  /// Never 0.
  private static func checksum(_ entry: Entry, _ owner: UInt16) -> UInt64 {
    Checksum.of([
      UInt64(owner), UInt64(UInt32(bitPattern: entry.pid)), UInt64(entry.uid), entry.startTime,
    ]) | 1
  }
}
