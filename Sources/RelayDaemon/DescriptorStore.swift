// SPDX-License-Identifier: Apache-2.0
// Where open descriptors outlive this process: systemd's file descriptor store, or relayd --hold.
// Both are told through sd_notify(3) what to keep, and hand it to the next process as
// sd_listen_fds(3) has it. Not what is kept.

internal import Glibc
internal import LinuxIO

/// Descriptors kept by name for the relayd that comes after this one. For one thread.
final class DescriptorStore {
  /// What the environment says of a store, and of what it hands over.
  struct Variables {
    var notifySocket: String?
    var capacity: String?
    var listenPID: String?
    var listenFDs: String?
    var listenFDNames: String?
  }

  /// How many descriptors it keeps; 0: there is none.
  let capacity: Int
  /// What was handed over and nobody has taken yet.
  private(set) var names: [String] = []
  private var handed: [String: CInt] = [:]
  private var kept = KeptNames()
  private let socketName: String
  private let log: (String) -> Void

  /// Whether there is one. If not, `keep` and `drop` do nothing.
  var isThere: Bool { capacity > 0 }

  /// How many descriptors it keeps now.
  var count: Int { kept.count }

  /// Takes over what this process was handed, and takes it out of the environment: before there is
  /// a second thread. `log` hears complaints.
  convenience init(log: @escaping (String) -> Void) {
    let variables = Variables(
      notifySocket: ServiceManager.socketName, capacity: value("FDSTORE"),
      listenPID: value("LISTEN_PID"), listenFDs: value("LISTEN_FDS"),
      listenFDNames: value("LISTEN_FDNAMES"))
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsetenv(name) }
    self.init(variables, log: log)
  }

  /// - Parameter first: the lowest descriptor that is handed over.
  init(_ variables: Variables, first: CInt = 3, log: @escaping (String) -> Void) {
    self.log = log
    socketName = variables.notifySocket ?? ""
    let capacity = variables.capacity.map { number($0) }
    if let text = variables.capacity, capacity == .some(nil) {
      log("FDSTORE=\(text) is not a number of descriptors: nothing is kept for the next relayd")
    }
    self.capacity = variables.notifySocket == nil ? 0 : (capacity ?? nil) ?? 0
    takeOver(variables, first)
  }

  /// Takes a descriptor that was handed over; nil if there is none of that name. It stays in the
  /// store, too.
  func take(_ name: String) -> FileDescriptor? {
    guard let raw = handed.removeValue(forKey: name) else { return nil }
    names.removeAll { $0 == name }
    return FileDescriptor(owning: raw)
  }

  /// Keeps an open file beyond this process's end, under a name of its own (a second name for the
  /// same descriptor would be ignored). What had the name before is dropped.
  /// - Parameter name: up to 255 bytes of printable ASCII without a colon.
  func keep(_ name: String, _ descriptor: CInt) throws(DaemonError) {
    guard isThere else { return }
    let cannot = "cannot keep \(name) for the next relayd"
    guard KeptNames.isValid(name) else {
      throw DaemonError(
        description: "\(cannot): a name is 1 to 255 bytes of printable ASCII without a colon")
    }
    if kept.contains(name) { drop(name) }
    guard kept.count < capacity else {
      throw DaemonError(
        description: "\(cannot): its \(capacity) descriptors are all taken; raise "
          + "FileDescriptorStoreMax= and FDSTORE= of its unit, or the holder's ulimit -n")
    }
    guard kept.hasRoom(for: name) else {
      throw DaemonError(
        description: "\(cannot): the names of \(kept.count) descriptors are as much as a process "
          + "can be told; have fewer channels, or shorter names")
    }
    do {
      try ServiceManager.send(
        "FDSTORE=1\nFDPOLL=0\nFDNAME=\(name)", descriptors: [descriptor], to: socketName)
    } catch {
      throw DaemonError(description: "\(cannot): \(error)")
    }
    kept.insert(name)
  }

  /// Whether the next process will find it.
  func isKept(_ name: String) -> Bool { isThere && kept.contains(name) }

  /// Has the store let go of a name. What it does not hear is logged.
  func drop(_ name: String) {
    guard isKept(name) else { return }
    do {
      try ServiceManager.send("FDSTOREREMOVE=1\nFDNAME=\(name)", to: socketName)
      kept.remove(name)
    } catch {
      log("\(name) stays kept for the next relayd: \(error)")
    }
  }

  /// Lets go of all that was handed over and not taken. Returns its names.
  func dropUnclaimed() -> [String] {
    let unclaimed = names
    for name in unclaimed {
      _ = take(name)
      drop(name)
    }
    return unclaimed
  }

  deinit {
    for raw in handed.values { close(raw) }
  }
}

// What was handed over.
extension DescriptorStore {
  private func takeOver(_ variables: Variables, _ first: CInt) {
    guard let fds = variables.listenFDs, let pid = variables.listenPID else { return }
    guard let process = number(pid) else {
      log("LISTEN_PID=\(pid) is not a process: what was handed over is not taken")
      return
    }
    // Meant for a process that started this one.
    guard process == Int(getpid()) else { return }
    // No process has more. Its soft limit may be lower than what it is handed.
    guard let count = number(fds), count <= 1 << 20 else {
      log("LISTEN_FDS=\(fds) is not a number of descriptors: what was handed over is not taken")
      return
    }
    let names = (variables.listenFDNames ?? "").split(
      separator: ":", omittingEmptySubsequences: false)
    if names.count != count {
      log("LISTEN_FDNAMES has \(names.count) names for \(count) descriptors")
    }
    for (index, name) in names.prefix(count).enumerated() {
      takeOver(first + CInt(index), String(name))
    }
    for index in min(names.count, count)..<count {
      guard close(first + CInt(index)) == 0 else { break }
    }
  }

  private func takeOver(_ raw: CInt, _ name: String) {
    guard fcntl(raw, F_SETFD, FD_CLOEXEC) == 0 else {
      log("descriptor \(raw) was to be handed over, but is not open")
      return
    }
    guard KeptNames.isValid(name), handed[name] == nil else {
      let what = handed[name] == nil ? "with no name that can be" : "as a second \(name)"
      log("descriptor \(raw) was handed over \(what): closed")
      close(raw)
      return
    }
    handed[name] = raw
    names.append(name)
    kept.insert(name)
  }
}

/// The names of what a store keeps, and how many of them the next process can be told.
struct KeptNames {
  /// One string of an environment is at most 32 pages, LISTEN_FDNAMES= and a zero byte included.
  private static let room = (32 << 12) - 16
  private var names: Set<String> = []
  private var byteCount = 0

  var count: Int { names.count }
  func contains(_ name: String) -> Bool { names.contains(name) }
  func hasRoom(for name: String) -> Bool { byteCount + name.utf8.count < KeptNames.room }

  mutating func insert(_ name: String) {
    if names.insert(name).inserted { byteCount += name.utf8.count + 1 }
  }

  mutating func remove(_ name: String) {
    if names.remove(name) != nil { byteCount -= name.utf8.count + 1 }
  }

  /// sd_pid_notify_with_fds(3) has it so.
  static func isValid(_ name: String) -> Bool {
    (1...255).contains(name.utf8.count)
      && name.utf8.allSatisfy { (0x20...0x7e).contains($0) && $0 != UInt8(ascii: ":") }
  }
}

/// A positive decimal number without a sign.
private func number(_ text: String) -> Int? {
  guard text.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = Int(text), number > 0
  else { return nil }
  return number
}

private func value(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }
