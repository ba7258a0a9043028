// SPDX-License-Identifier: Apache-2.0
// Character devices: one CUSE session for each device, all with one major number.

internal import Glibc
internal import LinuxIO

final class CuseFrontEnd: FrontEnd {
  private var nodes: [CuseNode] = []
  private var list: NodeList?
  /// Devices whose nodes somebody aborted, with their threads.
  private var lost: [(device: Device, thread: ServingThread)] = []

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
      try node.register(major: major, in: list)
    } catch {
      thread.run { node.end() }
      prune()
      throw error
    }
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
    for node in nodes { node.thread.run { node.end() } }
    prune()
  }

  func letGo(_ device: Device) {
    prune()
    lost.removeAll { $0.device === device }
  }

  var hasLostFiles: Bool { !lost.isEmpty || nodes.contains(where: \.isLost) }

  func restore() throws(HostError) {
    prune()
    var failure: HostError?
    for (device, thread) in lost {
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

  private func prune() {
    nodes.removeAll { node in
      if node.isGone, node.isListed { list?.remove(node.device) }
      if node.isLost { lost.append((node.device, node.thread)) }
      return node.isGone
    }
  }
}
