// SPDX-License-Identifier: Apache-2.0
// What outlives this relayd, and what it goes on with of what the one before left: which descriptor
// has which name in the store. What is in the files is the business of who owns them.

internal import Glibc
internal import LinuxIO
internal import Relay

/// The names of a channel's descriptors: + is in no channel's name, : in no descriptor's.
private enum Part: String, CaseIterable {
  case opener = "g+"
  case ring = "r+"
  case listener = "l+"
  case button = "b+"

  func name(_ channel: String) -> String { rawValue + channel }
}

final class KeptState {
  private static let ownersName = "owners+"
  private static let lifeName = "life+"

  private let store: DescriptorStore
  private let log: (ChannelTable.Level, String) -> Void
  let owners: OwnerTable
  /// By which producers see whether this relayd lives, and whether it is the one they knew.
  let life: LifePage
  /// Why no channel can be gone on with; nil: they can.
  private var obstacle: String?

  init(
    _ store: DescriptorStore, log: @escaping (ChannelTable.Level, String) -> Void
  ) throws {
    self.store = store
    self.log = log
    var (isOwnersNew, isLifeNew) = (false, false)
    // Who writes into the channels would not be known, and owner ids could be given twice.
    let owners = store.take(KeptState.ownersName)
    if let owners, let table = OwnerTable(adopting: owners) {
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

  /// Whether channels outlive this process.
  var isThere: Bool { store.isThere }

  private func keep(_ name: String, _ fd: CInt) {
    do { try store.keep(name, fd) } catch { log(.warning, "\(error)") }
  }

  /// Channels that the relayd before left and that nobody has taken.
  var channelNames: [String] {
    store.names.filter { $0.hasPrefix(Part.opener.rawValue) }
      .map { String($0.dropFirst(Part.opener.rawValue.count)) }
  }

  /// What is there of a channel that the relayd before left.
  struct Left {
    let channel: Channel
    /// Why it cannot be gone on with, whatever it is.
    let obstacle: String?
  }

  /// What is left of the channel of that name; nil if there is nothing, or nothing that can be
  /// used, which is said.
  func takeChannel(_ name: String) -> Left? {
    guard store.names.contains(Part.opener.name(name)) else { return nil }
    let opener = store.take(Part.opener.name(name))
    let ring = store.take(Part.ring.name(name))
    let listener = store.take(Part.listener.name(name))
    let button = store.take(Part.button.name(name))
    guard let opener, let ring, let listener, let button else {
      log(.warning, refusal(name, "not all of its descriptors were kept"))
      return nil
    }
    do throws(ChannelError) {
      let channel = try Channel.adopt(
        name, opener: opener, ring: ring, bell: Doorbell(listener: listener, button: button))
      return Left(channel: channel, obstacle: obstacle)
    } catch {
      log(.warning, refusal(name, "\(error)"))
      return nil
    }
  }

  func refusal(_ name: String, _ reason: String) -> String {
    "channel \(name): what it held is not gone on with: \(reason)"
  }

  /// Keeps a channel for the next relayd. What cannot be kept ends with this one, which is said.
  func keep(_ channel: Channel) {
    guard isThere, let opener = channel.openerDescriptor, let files = channel.descriptors else {
      return
    }
    let all: [(Part, CInt)] = [
      (.opener, opener), (.ring, files.ring), (.listener, channel.wakeDescriptor),
      (.button, files.wake),
    ]
    do {
      for (part, fd) in all { try store.keep(part.name(channel.name), fd) }
    } catch {
      log(.warning, "channel \(channel.name) ends with this relayd: \(error)")
      drop(channel.name)
    }
  }

  func drop(_ name: String) { for part in Part.allCases { store.drop(part.name(name)) } }

  /// A process outside our pid namespace can be found again by its handle only.
  func keep(_ process: borrowing ProcessHandle, owner: UInt16) { keep("p+\(owner)", process.raw) }

  func drop(owner: UInt16) { store.drop("p+\(owner)") }

  func takeProcess(owner: UInt16) -> ProcessHandle? {
    guard let handle = store.take("p+\(owner)") else { return nil }
    return ProcessHandle(handle)
  }

  /// Nothing is adopted after this.
  func dropUnclaimed() { _ = store.dropUnclaimed() }
}
