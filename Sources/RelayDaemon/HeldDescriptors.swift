// SPDX-License-Identifier: Apache-2.0
// The store's side of DescriptorStore, in relayd --hold: descriptors by name, and the messages that
// bring them and take them away. Not where messages come from, nor who may send them.

internal import Glibc
internal import LinuxIO

final class HeldDescriptors {
  let capacity: Int
  private var raws: [String: CInt] = [:]
  private var names = KeptNames()
  private let log: (String) -> Void

  init(capacity: Int, log: @escaping (String) -> Void) {
    self.capacity = capacity
    self.log = log
  }

  var count: Int { raws.count }

  /// For the next process.
  var handOver: [(name: String, raw: CInt)] { raws.map { (name: $0.key, raw: $0.value) } }

  /// Does what a message says of descriptors. Returns its other lines: how the service is.
  func obey(_ message: String, _ descriptors: consuming DescriptorList) -> [Substring] {
    var others: [Substring] = []
    var name: String?
    var isKept = false
    var isDropped = false
    for line in message.split(separator: "\n") {
      switch line {
      case "FDSTORE=1": isKept = true
      case "FDSTOREREMOVE=1": isDropped = true
      // Nothing is polled here, ever; and a barrier is its descriptor, closed by now.
      case "FDPOLL=0", "FDPOLL=1", "BARRIER=1": break
      case let line where line.hasPrefix("FDNAME="): name = String(line.dropFirst(7))
      default: others.append(line)
      }
    }
    if isDropped, let name { drop(name) }
    if isKept { keep(name ?? "stored", descriptors) }
    return others
  }

  private func keep(_ name: String, _ descriptors: consuming DescriptorList) {
    guard descriptors.count == 1, let descriptor = descriptors.take(0) else {
      log("\(name) came with \(descriptors.count) descriptors instead of 1: not kept")
      return
    }
    guard KeptNames.isValid(name) else {
      log("a descriptor came with no name that can be: not kept")
      return
    }
    drop(name)
    guard count < capacity, names.hasRoom(for: name) else {
      log("\(name) is more than the \(count) descriptors that can be kept: not kept")
      return
    }
    names.insert(name)
    raws[name] = descriptor.take()
  }

  private func drop(_ name: String) {
    guard let raw = raws.removeValue(forKey: name) else { return }
    names.remove(name)
    close(raw)
  }

  deinit {
    for raw in raws.values { close(raw) }
  }
}
