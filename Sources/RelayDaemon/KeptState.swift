// SPDX-License-Identifier: Apache-2.0
// What outlives this relayd, and what it goes on with of what the one before left: which descriptor
// has which name in the store. What is in the files is the business of who owns them.

internal import Glibc
internal import LinuxIO
internal import Relay

/// The names of a channel's descriptors, with the number of their memory: one memory replaces
/// another only when all of it is kept. + is in no channel's name, : in no descriptor's.
private enum Part: String, CaseIterable {
  case opener = "g+"
  case ring = "r+"
  case listener = "l+"
  case button = "b+"

  func name(_ channel: String, _ number: String) -> String { "\(rawValue)\(channel)+\(number)" }
}

final class KeptState {
  private static let ownersName = "owners+"
  private static let lifeName = "life+"
  private static let settingsName = "settings+"

  private let store: DescriptorStore
  private let log: (String, _ user: UInt32) -> Void
  let owners: OwnerTable
  /// By which producers see whether this relayd lives, and whether it is the one they knew.
  let life: LifePage
  /// Why no channel can be gone on with; nil: they can.
  private var obstacle: String?

  /// - Parameter log: hears what cannot be kept, and which user that is for; 0: relayd itself.
  init(
    _ store: DescriptorStore, log: @escaping (String, _ user: UInt32) -> Void
  ) throws {
    self.store = store
    self.log = log
    var (isOwnersNew, isLifeNew) = (false, false)
    // Who writes into the channels would not be known, and owner ids could be given twice.
    let owners = store.take(KeptState.ownersName)
    if let owners, let table = OwnerTable(adopting: owners), table.entries() != nil {
      self.owners = table
    } else {
      self.owners = try OwnerTable()
      isOwnersNew = true
      obstacle = "the table of who writes is missing or damaged"
    }
    // Writers would not see that this relayd lives.
    if let file = store.take(KeptState.lifeName), let page = try? LifePage.adopt(file) {
      life = page
    } else {
      life = try LifePage.create()
      isLifeNew = true
      obstacle = obstacle ?? "the page by which writers see relayd's life is missing or damaged"
    }
    // What is kept already stays so: there is no moment without it.
    if isLifeNew { keep(KeptState.lifeName, life.storeDescriptor) }
    if isOwnersNew { keep(KeptState.ownersName, self.owners.descriptor) }
  }

  /// Whether channels were handed over, whatever is in them.
  static func hasChannels(_ store: DescriptorStore) -> Bool {
    store.names.contains { $0.hasPrefix(Part.opener.rawValue) }
  }

  /// The same, as the environment has it before a store takes it out.
  static var wereChannelsHanded: Bool {
    func value(_ name: String) -> String { getenv(name).map { String(cString: $0) } ?? "" }
    return value("LISTEN_PID") == "\(getpid())"
      && value("LISTEN_FDNAMES").split(separator: ":").contains {
        $0.hasPrefix(Part.opener.rawValue)
      }
  }

  /// The settings of the relayd before.
  static func takeSettings(_ store: DescriptorStore) -> KeptSettings? {
    guard let file = store.take(settingsName) else { return nil }
    return KeptSettings(adopting: file)
  }

  func keep(_ settings: KeptSettings) {
    guard isThere else { return }
    do {
      let file = try settings.file()
      try store.keep(KeptState.settingsName, file.raw)
    } catch { log("\(error)", 0) }
  }

  /// The memories that were handed over and taken, whole: no other relayd counts what is in them.
  private(set) var taken: Set<UInt64> = []

  /// Whether channels outlive this process.
  var isThere: Bool { store.isThere }

  private func keep(_ name: String, _ fd: CInt, for user: UInt32 = 0) {
    do { try store.keep(name, fd) } catch { log("\(error)", user) }
  }

  /// By which a channel's notes tell that these are the owner table and the life page it was
  /// written by.
  var kin: ChannelNotes.Kin {
    ChannelNotes.Kin(owners: inode(owners.descriptor), life: inode(life.storeDescriptor))
  }

  private func inode(_ fd: CInt) -> UInt64 {
    var status = stat()
    fstat(fd, &status)
    return UInt64(status.st_ino)
  }

  /// Of each channel's memory that the relayd before left and that nobody has taken: the channel's
  /// name, and its number.
  private var memories: [(channel: String, number: String)] {
    store.names.filter { $0.hasPrefix(Part.opener.rawValue) }.compactMap {
      let parts = $0.dropFirst(Part.opener.rawValue.count).split(separator: "+")
      return parts.count == 2 ? (String(parts[0]), String(parts[1])) : nil
    }
  }

  /// Channels that the relayd before left and that nobody has taken.
  var channelNames: [String] { Set(memories.map(\.channel)).sorted() }

  /// What is there of a channel that the relayd before left.
  struct Left {
    let channel: Channel
    /// Why it cannot be gone on with, whatever it is.
    let obstacle: String?
  }

  /// What is left of the channel of that name and can be used; the newest first, where a relayd
  /// died while it replaced one by another. What cannot be used is said.
  func takeChannel(_ name: String) -> [Left] {
    memories.filter { $0.channel == name }.compactMap { take($0.channel, $0.number) }
      .sorted { $0.channel.generation > $1.channel.generation }
  }

  private func take(_ name: String, _ number: String) -> Left? {
    let opener = store.take(Part.opener.name(name, number))
    let ring = store.take(Part.ring.name(name, number))
    let listener = store.take(Part.listener.name(name, number))
    let button = store.take(Part.button.name(name, number))
    guard let opener, let ring, let listener, let button else {
      log(refusal(name, "not all of its descriptors were kept"), 0)
      drop(name, number)
      return nil
    }
    do throws(ChannelError) {
      let channel = try Channel.adopt(
        name, opener: opener, ring: ring, bell: Doorbell(listener: listener, button: button))
      taken.insert(channel.incarnation)
      let isOurs = ChannelNotes(channel)?.kin == kin
      return Left(
        channel: channel,
        obstacle: obstacle ?? (isOurs ? nil : "it was left by a relayd of other writers"))
    } catch {
      log(refusal(name, "\(error)"), 0)
      drop(name, number)
      return nil
    }
  }

  func refusal(_ name: String, _ reason: String) -> String {
    "channel \(name): what it held is not gone on with: \(reason)"
  }

  /// Keeps a channel for the next relayd. What cannot be kept ends with this one, which is said.
  /// - Parameter user: who created it.
  func keep(_ channel: Channel, for user: UInt32) {
    guard isThere, let opener = channel.openerDescriptor, let files = channel.descriptors else {
      return
    }
    let all: [(Part, CInt)] = [
      (.opener, opener), (.ring, files.ring), (.listener, channel.wakeDescriptor),
      (.button, files.wake),
    ]
    do {
      for (part, fd) in all { try store.keep(part.name(channel.name, number(channel)), fd) }
    } catch {
      log("channel \(channel.name) ends with this relayd: \(error)", user)
      drop(channel)
    }
  }

  private func number(_ channel: Channel) -> String {
    String(channel.incarnation & 0xffff_ffff, radix: 16)
  }

  /// Whether the next relayd will find it.
  func isKept(_ channel: Channel) -> Bool {
    store.isKept(Part.opener.name(channel.name, number(channel)))
  }

  func drop(_ channel: Channel) { drop(channel.name, number(channel)) }

  private func drop(_ name: String, _ number: String) {
    for part in Part.allCases { store.drop(part.name(name, number)) }
  }

  /// A process outside our pid namespace can be found again by its handle only.
  func keep(_ process: borrowing ProcessHandle, owner: UInt16, for user: UInt32) {
    keep("p+\(owner)", process.raw, for: user)
  }

  func drop(owner: UInt16) { store.drop("p+\(owner)") }

  func takeProcess(owner: UInt16) -> ProcessHandle? {
    guard let handle = store.take("p+\(owner)") else { return nil }
    return ProcessHandle(handle)
  }

  /// Nothing is adopted after this.
  func dropUnclaimed() { _ = store.dropUnclaimed() }
}
