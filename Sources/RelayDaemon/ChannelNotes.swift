// SPDX-License-Identifier: Apache-2.0
// What the daemon writes beside a channel's geometry, to know it again after a restart: where it
// came from, its options as text, and which owners write into it.

internal import Relay

/// A view of a channel's notes page, which must outlive it.
struct ChannelNotes {
  private static let magic: UInt64 = 0x3145_544f_4e59_4c52  // "RLYNOTE1" in memory
  private static let textOffset = 64
  private static let ownersOffset = 2048

  private let page: UnsafeMutableRawBufferPointer

  /// nil for a channel in private memory.
  init?(_ channel: Channel) {
    guard let page = channel.notes else { return nil }
    precondition(page.count >= ChannelNotes.ownersOffset + (Int(Channel.highestOwner) + 8) / 8)
    self.page = page
  }

  /// The owner table and the life page that the channel's writers are in.
  struct Kin: Equatable {
    var owners: UInt64
    var life: UInt64
  }

  var kin: Kin { Kin(owners: word(4), life: word(5)) }

  /// Which losses of earlier memories, that the file of losses may still name, this memory has
  /// counted. 0: none.
  var countedLosses: UInt64 {
    get { word(6) }
    nonmutating set { set(6, newValue) }
  }

  /// Stores what the next relayd has to know, before the channel is kept. The longest options of
  /// all keys together take less than half of the room.
  func store(_ options: ChannelOptions, _ origin: ServedChannel.Origin, _ kin: Kin) {
    let text = Array(options.text.utf8)
    precondition(text.count <= ChannelNotes.ownersOffset - ChannelNotes.textOffset)
    var kind: UInt64 = 0
    if case .created(let uid, let isKept) = origin {
      kind = 1 | (isKept ? 2 : 0) | UInt64(uid) << 32
    }
    set(1, kind)
    set(2, UInt64(text.count))
    set(3, ChannelNotes.checksum(kind, text))
    let room = UnsafeMutableRawBufferPointer(rebasing: page[ChannelNotes.textOffset...])
    room.copyBytes(from: text)
    set(4, kin.owners)
    set(5, kin.life)
    set(0, ChannelNotes.magic)
  }

  /// What was stored; nil where that is damaged, or nothing.
  func load(name: String) -> (options: ChannelOptions, origin: ServedChannel.Origin)? {
    let (kind, count) = (word(1), word(2))
    guard word(0) == ChannelNotes.magic,
      count <= UInt64(ChannelNotes.ownersOffset - ChannelNotes.textOffset)
    else { return nil }
    let start = ChannelNotes.textOffset
    let text = Array(page[start..<(start + Int(count))])
    guard word(3) == ChannelNotes.checksum(kind, text),
      let options = ChannelNotes.options(name, String(decoding: text, as: UTF8.self))
    else { return nil }
    let created = ServedChannel.Origin.created(
      uid: UInt32(kind >> 32), isKept: kind & 2 != 0)
    return (options, kind & 1 == 0 ? .configured : created)
  }

  /// A user or group that is gone by now is left out: the channel is the daemon's own then.
  private static func options(_ name: String, _ text: String) -> ChannelOptions? {
    let known = text.split(separator: ",").filter { option in
      let key = option.prefix { $0 != "=" }
      guard ["owner", "group", "writers"].contains(key) else { return true }
      return (try? ChannelOptions(parsing: "\(name):\(option)")) != nil
    }
    return try? ChannelOptions(parsing: "\(name):\(known.joined(separator: ","))")
  }

  private static func checksum(_ kind: UInt64, _ text: [UInt8]) -> UInt64 {
    Checksum.of(text.lazy.map(UInt64.init), seed: kind)
  }

  private func word(_ index: Int) -> UInt64 {
    page.load(fromByteOffset: index * 8, as: UInt64.self)
  }

  private func set(_ index: Int, _ value: UInt64) {
    page.storeBytes(of: value, toByteOffset: index * 8, as: UInt64.self)
  }

  /// Whether a process with this owner id attached to the channel.
  subscript(owner: UInt16) -> Bool {
    get { page[ChannelNotes.ownersOffset + Int(owner / 8)] & bit(owner) != 0 }
    nonmutating set {
      let index = ChannelNotes.ownersOffset + Int(owner / 8)
      if newValue { page[index] |= bit(owner) } else { page[index] &= ~bit(owner) }
    }
  }

  /// Whether anybody ever attached.
  var wasAttached: Bool {
    // The bit of owner 0, which nobody is.
    get { self[0] }
    nonmutating set { self[0] = newValue }
  }

  private func bit(_ owner: UInt16) -> UInt8 { 1 << UInt8(owner % 8) }
}
