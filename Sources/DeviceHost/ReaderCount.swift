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

  /// Its place in the order in which they came; no other one of this process's gets the same.
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
    milliseconds = ReaderEntry.now(CLOCK_REALTIME)
    uptimeMilliseconds = ReaderEntry.now(CLOCK_BOOTTIME)
    currentKind = Atomic(kind.rawValue)
  }

  private static func now(_ clock: clockid_t) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec / 1_000_000)
  }

  /// As of a moment ago, from any thread; changed by the device's.
  // Relaxed, both: a value that stands for itself.
  public internal(set) var kind: Kind {
    get { Kind(rawValue: currentKind.load(ordering: .relaxed))! }
    set { currentKind.store(newValue.rawValue, ordering: .relaxed) }
  }
}

/// All of them, over all threads.
final class ReaderCount: Sendable {
  private struct State {
    var share: Share
    // In the order of their serial numbers.
    var entries: [ReaderEntry] = []
    var use = ShareUse()
    var nextSerial: UInt64 = 1
  }

  private let state: Mutex<State>
  private let delivered = Atomic(0)

  init(_ share: Share) { state = Mutex(State(share: share)) }

  var share: Share {
    get { state.withLock { $0.share } }
    set { state.withLock { $0.share = newValue } }
  }

  var current: Int { state.withLock { $0.entries.count } }

  /// Reads that were answered with data.
  // Relaxed, both: a count of its own.
  var deliveries: Int { delivered.load(ordering: .relaxed) }
  func noteDelivery() { delivered.wrappingAdd(1, ordering: .relaxed) }

  /// One more, of that user; or why there may be no more.
  func add(
    _ device: Device, uid: UInt32, pid: Int32, _ kind: ReaderEntry.Kind
  ) -> Result<ReaderEntry, ReaderRefusal> {
    state.withLock { state in
      if let shortage = state.use.shortage(of: state.share, uid) {
        return .failure(ReaderCount.refusal(shortage, device.name, uid, state.share))
      }
      let entry = ReaderEntry(state.nextSerial, device, uid: uid, pid: pid, kind)
      state.nextSerial += 1
      state.entries.append(entry)
      state.use.change(uid, by: 1)
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
    state.withLock { state in
      let index = ReaderCount.index(from: entry.serial, state.entries)
      guard index < state.entries.count, state.entries[index] === entry else { return }
      state.entries.remove(at: index)
      state.use.change(entry.uid, by: -1)
    }
  }

  /// Of those that are wanted, the first whose serial number is `serial` or higher.
  func first(from serial: UInt64, where isWanted: (ReaderEntry) -> Bool) -> ReaderEntry? {
    state.withLock { state in
      state.entries[ReaderCount.index(from: serial, state.entries)...].first(where: isWanted)
    }
  }

  /// Where the first one stands whose serial number is `serial` or higher.
  private static func index(from serial: UInt64, _ entries: [ReaderEntry]) -> Int {
    var (low, high) = (0, entries.count)
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].serial < serial { low = middle + 1 } else { high = middle }
    }
    return low
  }
}

/// Why an open file or a mapped consumer is one too many.
struct ReaderRefusal: Error {
  /// An errno value: EDQUOT of the user's share, EMFILE of all.
  let code: CInt
  /// For the log.
  let line: String
}
