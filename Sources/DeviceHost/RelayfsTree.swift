// SPDX-License-Identifier: Apache-2.0
// The names of a relayfs mount: directories and files, numbered once and for all. Nothing here
// talks to the kernel.

/// A tree of devices by path. Node numbers are never given twice.
struct RelayfsTree {
  static let root: UInt64 = 1

  enum Content {
    /// Names to node numbers.
    case directory([String: UInt64])
    case device(Device)
  }

  struct Node {
    /// Empty for the root, and for what has no name any more.
    var name: String
    var parent: UInt64
    var content: Content
  }

  private var nodes: [UInt64: Node] = [
    root: Node(name: "", parent: root, content: .directory([:]))
  ]
  private var lastNumber = root

  subscript(number: UInt64) -> Node? { nodes[number] }

  /// The node of a name in a directory.
  func lookup(_ name: String, in directory: UInt64) -> UInt64? {
    guard case .directory(let entries)? = nodes[directory]?.content else { return nil }
    return entries[name]
  }

  func device(_ number: UInt64) -> Device? {
    guard case .device(let device)? = nodes[number]?.content else { return nil }
    return device
  }

  /// All of them, those without a name too.
  var devices: [Device] {
    nodes.values.compactMap {
      guard case .device(let device) = $0.content else { return nil }
      return device
    }
  }

  /// What a directory holds, by ascending number: new ones come last, so that a listing in several
  /// parts misses nothing that was there all the time.
  func children(of directory: UInt64) -> [(name: String, number: UInt64)] {
    guard case .directory(let entries)? = nodes[directory]?.content else { return [] }
    return entries.map { (name: $0.key, number: $0.value) }.sorted { $0.number < $1.number }
  }

  /// Adds a device under its name, with the directories that lead there. False, and nothing done,
  /// if the name is taken or leads through a file.
  mutating func add(_ device: Device) -> Bool {
    let path = device.name.split(separator: "/").map(String.init)
    guard isFree(path) else { return false }
    var directory = RelayfsTree.root
    for name in path.dropLast() {
      directory = lookup(name, in: directory) ?? insert(name, in: directory, .directory([:]))
    }
    _ = insert(path.last!, in: directory, .device(device))
    return true
  }

  private func isFree(_ path: [String]) -> Bool {
    var directory = RelayfsTree.root
    for (depth, name) in path.enumerated() {
      guard let number = lookup(name, in: directory) else { return true }
      guard depth < path.count - 1, case .directory? = nodes[number]?.content else { return false }
      directory = number
    }
    return false
  }

  private mutating func insert(
    _ name: String, in directory: UInt64, _ content: Content
  ) -> UInt64 {
    lastNumber += 1
    nodes[lastNumber] = Node(name: name, parent: directory, content: content)
    setEntry(name, in: directory, to: lastNumber)
    return lastNumber
  }

  private mutating func setEntry(_ name: String, in directory: UInt64, to number: UInt64?) {
    guard case .directory(var entries)? = nodes[directory]?.content else { return }
    // Its only owner changes it in place: a directory of thousands is not copied for each.
    nodes[directory]!.content = .directory([:])
    entries[name] = number
    nodes[directory]!.content = .directory(entries)
  }

  /// Takes a device's name away, and the directories that are empty then; the node stays for who
  /// has it open, until `drop`. Returns its number.
  mutating func unlink(_ device: Device) -> UInt64? {
    var directory = RelayfsTree.root
    for name in device.name.split(separator: "/") {
      guard let number = lookup(String(name), in: directory) else { return nil }
      directory = number
    }
    let number = directory
    guard self.device(number) === device else { return nil }
    var node = nodes[number]!
    setEntry(node.name, in: node.parent, to: nil)
    while node.parent != RelayfsTree.root, isEmpty(node.parent) {
      let parent = node.parent
      node = nodes[parent]!
      setEntry(node.name, in: node.parent, to: nil)
      nodes[parent] = nil
    }
    return number
  }

  private func isEmpty(_ directory: UInt64) -> Bool {
    guard case .directory(let entries)? = nodes[directory]?.content else { return false }
    return entries.isEmpty
  }

  mutating func drop(_ number: UInt64) { nodes[number] = nil }
}
