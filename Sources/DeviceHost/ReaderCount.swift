// SPDX-License-Identifier: Apache-2.0
// The open files and mapped consumers of all devices: how many there may be of whom, and who they
// are. Which of them may read what is the device's.

internal import Glibc
internal import LinuxIO
internal import Relay
internal import Synchronization

/// One open file, or one mapped consumer, of one device.
// Unchecked: `device` is of a class that only its own thread uses, and here it is only compared and
// handed on. All else is constant or atomic.
public final class ReaderEntry: @unchecked Sendable {
  /// What it does to the buffer.
  public enum Kind: UInt8, Sendable {
    /// Reads, and shares the buffer with other files.
    case file
    /// Is the only file that may read (RELAY_IOC_EXCL).
    case exclusive
    /// Reads and consumes nothing (RELAY_IOC_PEEK).
    case peek
    /// Is open for writing only.
    case write
    /// Is the mapped consumer that has the buffer.
    case mapped
    /// Is a mapped consumer that lost the buffer, or has not asked for it again.
    case lost
    /// Is a file that was evicted, and not closed yet.
    case evicted

    public var name: String { "\(self)" }
  }

  /// Its place in the order in which they came; no other one gets the same while this machine runs.
  public let serial: UInt64
  /// The device's name, and the user who owns its file.
  public let deviceName: String
  public let deviceOwner: UInt32
  /// Whose limit it counts to: the user who opened or mapped it.
  public let uid: UInt32
  /// The process, or the thread of one, that did. 0: it has no number in this pid namespace.
  public let pid: Int32
  /// When that was: since 1970, and since this machine started.
  public let milliseconds: UInt64
  public let uptimeMilliseconds: UInt64
  /// nil: gone.
  weak let device: Device?
  private let currentKind: Atomic<UInt8>

  init(_ serial: UInt64, _ device: Device, uid: UInt32, pid: Int32, _ kind: Kind) {
    self.serial = serial
    self.device = device
    deviceName = device.name
    deviceOwner = device.options.uid
    self.uid = uid
    self.pid = pid
    milliseconds = microseconds(CLOCK_REALTIME) / 1000
    uptimeMilliseconds = microseconds(CLOCK_BOOTTIME) / 1000
    currentKind = Atomic(kind.rawValue)
  }

  /// Whether this user may know of it: the user who owns the device's file, and its own.
  public func isSeen(by uid: UInt32) -> Bool { uid == deviceOwner || uid == self.uid }

  /// As of a moment ago, from any thread; changed by the device's.
  // Relaxed, both: a value that stands for itself.
  public internal(set) var kind: Kind {
    get { Kind(rawValue: currentKind.load(ordering: .relaxed))! }
    set { currentKind.store(newValue.rawValue, ordering: .relaxed) }
  }
}

private func microseconds(_ clock: clockid_t) -> UInt64 {
  var time = timespec()
  clock_gettime(clock, &time)
  return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec / 1000)
}

/// Readers in the order of their serial numbers.
private struct ReaderList {
  private var entries: [ReaderEntry] = []

  var count: Int { entries.count }

  /// - Precondition: its number is higher than that of any other one.
  mutating func append(_ entry: ReaderEntry) { entries.append(entry) }

  /// False: it is not there.
  mutating func remove(_ entry: ReaderEntry) -> Bool {
    let index = index(from: entry.serial)
    guard index < entries.count, entries[index] === entry else { return false }
    entries.remove(at: index)
    return true
  }

  /// The first whose serial number is `serial` or higher.
  func first(from serial: UInt64) -> ReaderEntry? {
    let index = index(from: serial)
    return index < entries.count ? entries[index] : nil
  }

  private func index(from serial: UInt64) -> Int {
    var (low, high) = (0, entries.count)
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].serial < serial { low = middle + 1 } else { high = middle }
    }
    return low
  }
}

/// All of them, over all threads.
final class ReaderCount: Sendable {
  private struct State {
    var share: Share
    var nextSerial: UInt64
    var all = ReaderList()
    // The same entries by their users, and by the owners of their devices: a user who may see few
    // entries finds them without a scan of the others.
    var byUser: [UInt32: ReaderList] = [:]
    var byOwner: [UInt32: ReaderList] = [:]
    var use = ShareUse()

    mutating func add(_ entry: ReaderEntry) {
      all.append(entry)
      byUser[entry.uid, default: ReaderList()].append(entry)
      byOwner[entry.deviceOwner, default: ReaderList()].append(entry)
      use.change(entry.uid, by: 1)
    }

    mutating func remove(_ entry: ReaderEntry) {
      guard all.remove(entry) else { return }
      State.remove(entry, of: entry.uid, from: &byUser)
      State.remove(entry, of: entry.deviceOwner, from: &byOwner)
      use.change(entry.uid, by: -1)
    }

    private static func remove(
      _ entry: ReaderEntry, of uid: UInt32, from lists: inout [UInt32: ReaderList]
    ) {
      _ = lists[uid]?.remove(entry)
      if lists[uid]?.count == 0 { lists[uid] = nil }
    }

    /// Which part of the share has no room for one more of that user, which replaces `old`.
    func shortage(_ uid: UInt32, replacing old: ReaderEntry?) -> Share.Shortage? {
      var use = use
      if let old, all.first(from: old.serial) === old { use.change(old.uid, by: -1) }
      return use.shortage(of: share, uid)
    }
  }

  private let state: Mutex<State>
  private let delivered = Atomic(0)
  /// The number of its first reader: the microseconds since this machine started. An open takes
  /// longer than one, so no process before this one has come as far, and a number that it gave
  /// names nobody here.
  let firstSerial = microseconds(CLOCK_BOOTTIME)

  init(_ share: Share) { state = Mutex(State(share: share, nextSerial: firstSerial)) }

  var share: Share {
    get { state.withLock { $0.share } }
    set { state.withLock { $0.share = newValue } }
  }

  var current: Int { state.withLock { $0.all.count } }

  /// Reads that were answered with data.
  // Relaxed, both: a count of its own.
  var deliveries: Int { delivered.load(ordering: .relaxed) }
  func noteDelivery() { delivered.wrappingAdd(1, ordering: .relaxed) }

  /// One more, of that user; or why there may be no more.
  /// - Parameter old: one whose place it takes; where there may be no more, that one stays.
  func add(
    _ device: Device, uid: UInt32, pid: Int32, _ kind: ReaderEntry.Kind,
    replacing old: ReaderEntry? = nil
  ) -> Result<ReaderEntry, ReaderRefusal> {
    state.withLock { state in
      if let shortage = state.shortage(uid, replacing: old) {
        return .failure(ReaderCount.refusal(shortage, device.name, uid, state.share))
      }
      if let old { state.remove(old) }
      let entry = ReaderEntry(state.nextSerial, device, uid: uid, pid: pid, kind)
      state.nextSerial += 1
      state.add(entry)
      return .success(entry)
    }
  }

  private static func refusal(
    _ shortage: Share.Shortage, _ name: String, _ uid: UInt32, _ share: Share
  ) -> ReaderRefusal {
    let begin = "\(name): an open by user \(uid) was refused, because "
    switch shortage {
    case .ofUser:
      let what =
        "the user has \(share.ofUser) files open or buffers mapped already and that is the limit "
        + "of a user (max_readers_per_user)"
      return ReaderRefusal(code: EDQUOT, line: begin + what)
    case .ofOthers:
      let what =
        "users other than root have \(share.ofOthers) files open or buffers mapped already and "
        + "the rest is kept for root (max_readers is \(share.whole))"
      return ReaderRefusal(code: EMFILE, line: begin + what)
    case .whole:
      let what = "\(share.whole) files are open already and that is the limit (max_readers)"
      return ReaderRefusal(code: EMFILE, line: begin + what)
    }
  }

  /// It is closed, or unmapped.
  func remove(_ entry: ReaderEntry) {
    state.withLock { $0.remove(entry) }
  }

  /// Of those that this user may see (nil: of all), the first whose serial number is `serial` or
  /// higher. It costs as little where that is none of many: opens wait meanwhile.
  func first(from serial: UInt64, seenBy uid: UInt32?) -> ReaderEntry? {
    state.withLock { state in
      guard let uid else { return state.all.first(from: serial) }
      let own = state.byUser[uid]?.first(from: serial)
      let ofDevices = state.byOwner[uid]?.first(from: serial)
      guard let own, let ofDevices else { return own ?? ofDevices }
      return own.serial < ofDevices.serial ? own : ofDevices
    }
  }
}

/// Why an open file or a mapped consumer is one too many.
struct ReaderRefusal: Error {
  /// An errno value: EDQUOT of the user's share, EMFILE of all.
  let code: CInt
  /// For the log.
  let line: String
}
