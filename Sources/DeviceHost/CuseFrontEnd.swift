// SPDX-License-Identifier: Apache-2.0
// Character devices: one CUSE session for each device, all with one major number.

internal import Glibc
internal import LinuxIO
internal import Synchronization

final class CuseFrontEnd: FrontEnd {
  private var nodes: [CuseNode] = []
  private var list: NodeList?
  /// Devices whose nodes somebody took away, with their threads.
  private var lost: [(device: Device, thread: ServingThread)] = []
  /// One for each thread; nil where its nodes cannot be watched.
  private var watches: [ObjectIdentifier: NodeWatch?] = [:]

  static var isAvailable: Bool { (try? CuseNode.openChannel()) != nil }

  var pathPrefix: String { "/dev/" }

  func start(on thread: ServingThread) { list = NodeList() }

  func add(_ device: Device, on thread: ServingThread) throws(HostError) {
    prune()
    // The first device gets a major number of its own; the rest share it, as long as one is there.
    let major = try nodes.first?.number().major ?? 0
    let node = CuseNode(device, minor: freeMinor, thread: thread)
    nodes.append(node)
    do throws(HostError) {
      try node.register(major: major, in: list, watch: watch(thread))
    } catch {
      thread.run { node.end() }
      prune()
      throw error
    }
  }

  private func watch(_ thread: ServingThread) -> NodeWatch? {
    if let known = watches[ObjectIdentifier(thread)] { return known }
    let watch: NodeWatch?
    do throws(SystemError) {
      watch = try thread.run {
        Result { () throws(SystemError) in try NodeWatch(on: thread.loop) }
      }.get()
    } catch {
      watch = nil
      thread.log("relayd will not notice that somebody removes or replaces device nodes: \(error)")
    }
    watches[ObjectIdentifier(thread)] = .some(watch)
    return watch
  }

  /// The lowest minor number that none of our nodes has.
  private var freeMinor: UInt32 {
    let taken = Set(nodes.map(\.minor))
    return (0...UInt32(nodes.count)).first { !taken.contains($0) }!
  }

  func remove(_ device: Device) {
    lost.removeAll { $0.device === device }
    guard let node = nodes.first(where: { $0.device === device }) else { return }
    node.thread.run { node.remove() }
  }

  func stop() {
    for node in nodes {
      node.thread.run {
        node.end()
        watches[ObjectIdentifier(node.thread)]??.stop()
      }
    }
    watches = [:]
    prune()
  }

  func letGo(_ device: Device) {
    prune()
    lost.removeAll { $0.device === device }
  }

  // A place that somebody's file has taken is not ours to clear.
  var hasLostFiles: Bool {
    lost.contains { CuseFrontEnd.isFree("/dev/" + $0.device.name) }
      // Relaxed: the node's thread looks again before anything is done.
      || nodes.contains { $0.isLost || $0.isMissing.load(ordering: .relaxed) }
  }

  private static func isFree(_ path: String) -> Bool {
    var status = stat()
    return lstat(path, &status) != 0
  }

  func restore() throws(HostError) {
    // Relaxed: as above.
    for node in nodes where node.isMissing.load(ordering: .relaxed) {
      node.thread.run { node.giveUpIfMissing() }
    }
    prune()
    var failure: HostError?
    for (device, thread) in lost where CuseFrontEnd.isFree("/dev/" + device.name) {
      do throws(HostError) {
        try add(device, on: thread)
        lost.removeAll { $0.device === device }
      } catch {
        // The others have no part in it.
        failure = failure ?? error
      }
    }
    if let failure { throw failure }
  }

  func sayOverdue() {
    // Relaxed: the node's thread looks again before it logs anything.
    for node in nodes where node.hasOverdueNews.load(ordering: .relaxed) {
      node.thread.run { node.look() }
    }
  }

  private func prune() {
    nodes.removeAll { node in
      if node.isLost { lost.append((node.device, node.thread)) }
      return node.isGone
    }
  }
}
