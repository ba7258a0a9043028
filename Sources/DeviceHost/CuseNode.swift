// SPDX-License-Identifier: Apache-2.0
// One device node: a CUSE session of its own. The kernel reports no failure of a registration, so
// each is looked for afterwards, and the node's owner and mode too. What somebody does to the node
// later is in NodePlace.swift.

internal import CFuse
internal import Glibc
internal import LinuxIO
internal import Synchronization

/// Registered by the owner, then used by its thread.
// Sendable: handed over by ServingThread.run; the flag is atomic.
final class CuseNode: SessionOwner, @unchecked Sendable {
  let device: Device
  let thread: ServingThread
  let minor: UInt32
  private(set) var session: Session?
  /// What udev's program reads, once this node has its entry there.
  private var list: NodeList?
  private let hasGone = Atomic(false)
  private let wasAborted = Atomic(false)
  /// What is at its path, and how that is known. Its thread's.
  var place: NodePlace?
  /// Whether the place is empty and nobody has the node open: it can be made again.
  let isMissing = Atomic(false)
  /// Whether the log left out what is to be said of its place.
  let hasOverdueNews = Atomic(false)
  var path: String { "/dev/" + device.name }
  /// sysfs writes the slashes of a name as exclamation marks.
  private var sysfsPath: String { "/sys/class/cuse/" + device.name.replacing("/", with: "!") }

  init(_ device: Device, minor: UInt32, thread: ServingThread) {
    self.device = device
    self.minor = minor
    self.thread = thread
  }

  /// Whether the node was taken down, by `remove` or because somebody took it away.
  // Acquire: pairs with the release in `end`; the session is destroyed before.
  var isGone: Bool { hasGone.load(ordering: .acquiring) }

  /// Whether somebody took it away whose channel is still there.
  // Relaxed: `isGone`, looked at first, orders it.
  var isLost: Bool { isGone && wasAborted.load(ordering: .relaxed) }

  static func openChannel() throws(SystemError) -> FileDescriptor {
    let channel = try FileDescriptor.open("/dev/cuse", O_RDWR | O_NONBLOCK | O_CLOEXEC)
    var status = stat()
    // Somebody's echo into it, where there was no CUSE, leaves a plain file.
    guard fstat(channel.raw, &status) == 0, status.st_mode & S_IFMT == S_IFCHR else {
      throw SystemError(code: EINVAL, operation: "open /dev/cuse, which is no device")
    }
    return channel
  }

  private static func openChannelOrExplain() throws(HostError) -> FileDescriptor {
    do {
      return try openChannel()
    } catch {
      switch error.code {
      case ENOENT, ENODEV, ENXIO:
        throw HostError(
          """
          /dev/cuse is missing: load the module with `modprobe cuse`, or start with \
          --wait-for-cuse; a kernel without it serves the same files with --backend fuse
          """)
      case EACCES, EPERM:
        throw HostError(
          """
          no permission to open /dev/cuse: run as root, or give the daemon's user write access \
          to it
          """)
      default: throw HostError("\(error)", code: error.code)
      }
    }
  }

  /// Creates the node with its owner and mode, makes sure that it is there and ours, and lets its
  /// thread serve it.
  func register(
    major: UInt32, in list: NodeList?, watch: NodeWatch?
  ) throws(HostError) {
    let channel = try CuseNode.openChannelOrExplain()
    guard access(sysfsPath, F_OK) != 0 else {
      throw refusal(
        "another CUSE device of this name exists; does another relayd run?", code: EEXIST)
    }
    var status = stat()
    guard lstat(path, &status) != 0 else {
      throw refusal("\(path) exists already; choose another channel name", code: EEXIST)
    }
    // The kernel would register a device whose node cannot be made.
    guard errno == ENOENT else {
      throw refusal(
        "there can be no \(path): \(SystemError.message(errno)); choose another channel name")
    }
    try checkFileSystem()
    // udev may ask as soon as the node is there.
    list?.add(device)
    self.list = list
    do {
      let session = try Session(
        loop: thread.loop, owner: self, cuse: channel, name: device.name, major: major,
        minor: minor)
      self.session = session
      // The kernel asks once; the device is registered inside the write of the answer.
      let isAsked = Readiness.wait(session.fd, .read, timeoutMilliseconds: 5000).contains(.read)
      let isAlive = isAsked && session.step()
      guard isAlive, Readiness.wait(session.fd, [], timeoutMilliseconds: 0).isEmpty else {
        throw refusal(
          """
          the kernel did not register it (number \(major):\(minor)); is its name or its number \
          taken?
          """)
      }
      let number = try number()
      try awaitNode(number)
      list?.complete(device, number)
      try NodeOwner(path, device.options).settle()
      device.noteFile(isThere: true)
      try thread.run {
        Result { () throws(SystemError) in
          try session.start()
          place = NodePlace(path, number, watch)
          look()
        }
      }.get()
    } catch let error as HostError {
      throw error
    } catch {
      throw refusal("\(error)")
    }
  }

  /// The node appears in the file system of /dev: below a mount (/dev/shm) nobody sees it.
  private func checkFileSystem() throws(HostError) {
    var top = stat()
    guard stat("/dev", &top) == 0 else { return }
    var parent = path[..<path.lastIndex(of: "/")!]
    while parent.count > "/dev".count {
      var status = stat()
      if stat(String(parent), &status) == 0, status.st_dev != top.st_dev {
        throw refusal(
          "there can be no \(path): \(parent) is another file system; choose another channel name")
      }
      parent = parent[..<parent.lastIndex(of: "/")!]
    }
  }

  private func refusal(_ reason: String, code: CInt = EIO) -> HostError {
    HostError("device \(device.name): \(reason)", code: code)
  }

  /// A name that clashes with somebody else's node registers all the same: compare the numbers.
  private func awaitNode(_ number: DeviceNumber) throws(HostError) {
    var status = stat()
    // devtmpfs makes the node within the registration; another manager of /dev may take a moment.
    for _ in 0..<200 {
      if lstat(path, &status) == 0 {
        guard status.st_mode & S_IFMT == S_IFCHR, DeviceNumber(UInt64(status.st_rdev)) == number
        else {
          throw refusal("\(path) is somebody else's; choose another channel name", code: EEXIST)
        }
        return
      }
      Glibc.poll(nil, 0, 10)
    }
    throw refusal("\(path) did not appear; is /dev a devtmpfs?")
  }

  /// The device number, as sysfs has it.
  func number() throws(HostError) -> DeviceNumber {
    let path = sysfsPath + "/dev"
    let text = try? Files.contents(of: path, atMost: 64)
    let number = text.flatMap { DeviceNumber(sysfs: String(decoding: $0, as: UTF8.self)) }
    if let number { return number }
    throw refusal("cannot read its number from \(path); is sysfs mounted on /sys?")
  }
}

// On the thread, or before it serves the node.
extension CuseNode {
  /// Takes the node down once nobody has it open; CUSE would cut its readers off.
  func remove() {
    device.remove()
    endIfUnused()
  }

  func end() {
    // All before the session: another program's device may have the name as soon as it is free, and
    // its requests have to be answered while it is there.
    list?.remove(device)
    list = nil
    place?.stop()
    place = nil
    device.noteFile(isThere: false)
    if let session { device.abandon(ObjectIdentifier(session)) }
    session?.destroy()
    session = nil
    hasGone.store(true, ordering: .releasing)
  }

  private func endIfUnused() {
    if device.isRemoved, !device.isOpen { end() }
  }

  func device(_ node: UInt64) -> Device? { device }

  func served(_ session: Session) {
    endIfUnused()
    if place?.state == .empty { noteWhetherMissing() }
  }

  /// Ends it so that it can be made again.
  func giveUp() {
    // Relaxed: the release in `end` publishes it.
    if !device.isRemoved { wasAborted.store(true, ordering: .relaxed) }
    end()
  }

  // Somebody aborted the connection through sysfs.
  func sessionEnded(_ session: Session) {
    giveUp()
    guard isLost else { return }
    thread.log("somebody aborted \(path): it is made again")
    thread.filesWentAway()
  }

  // A character device has no directory.
  func lookup(_ request: OpaquePointer, parent: UInt64, name: String) {
    cfuse_reply_error(request, ENOSYS)
  }
  func attributes(_ request: OpaquePointer, node: UInt64) { cfuse_reply_error(request, ENOSYS) }
  func list(_ request: OpaquePointer, node: UInt64, size: Int, offset: UInt64) {
    cfuse_reply_error(request, ENOSYS)
  }
}
