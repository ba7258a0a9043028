// SPDX-License-Identifier: Apache-2.0
// relayfs: a FUSE mount with one file for each device, for kernels and containers without CUSE.

internal import CFuse
internal import Glibc
internal import LinuxIO

/// One session, so one thread.
// Sendable: everything but start and stop happens on the thread, or inside its `run`.
final class RelayfsFrontEnd: FrontEnd, SessionOwner, @unchecked Sendable {
  private let mountPoint: String
  private let logMessage: DeviceLog
  /// The mount's; nil while there is none.
  private var session: Session?
  private var watch: MountWatch?
  /// Where other mounts are in this one, and the paths of the files that they hide.
  private var mounts: Set<String> = []
  private var hidden: Set<String> = []
  private var isCovered = false
  /// Of mounts that are not at their place any more, and whose files somebody still has open.
  private var detached: [Session] = []
  private var thread: ServingThread?
  private var tree = RelayfsTree()
  // What lost its name and may still be open.
  private var unlinked: [ObjectIdentifier: UInt64] = [:]

  private let startTime = time(nil)
  private var lookups: UInt64 = 0

  init(mountPoint: String, log: @escaping DeviceLog) {
    self.mountPoint = mountPoint
    logMessage = log
  }

  private func log(_ message: String) { _ = logMessage(message, 0, false) }

  var pathPrefix: String { mountPoint + "/" }

  func start(on thread: ServingThread) throws(HostError) {
    self.thread = thread
    let isForOthers = mayServeOthers
    if !isForOthers {
      log(
        """
        nobody but this user can read what is in \(mountPoint): relayd does not run as root, and \
        /etc/fuse.conf has no user_allow_other
        """)
    }
    do throws(HostError) {
      try mount(isForOthers, left: "a killed relayd")
    } catch {
      stop()
      throw error
    }
  }

  // Each change is one line, of root's.
  func sayOverdue() {}

  private func mount(_ isForOthers: Bool, left by: String) throws(HostError) {
    try checkMountPoint(left: by)
    let result = thread!.run {
      Result { () throws(SystemError) in
        let session = try Session(
          loop: thread!.loop, owner: self, mountPoint: mountPoint, isForOthers: isForOthers)
        try session.start()
        self.session = session
        watch = MountWatch(mountPoint, on: thread!.loop) { [unowned self] in mountChanged($0) }
        noteFiles()
      }
    }
    do throws(SystemError) {
      try result.get()
    } catch {
      throw HostError(
        "\(error); is /dev/fuse open to this user, and may it mount there?")
    }
  }

  var hasLostFiles: Bool { thread?.run { session == nil } ?? false }

  func restore() throws(HostError) {
    if hasLostFiles { try mount(mayServeOthers, left: "an abort") }
  }

  func add(_ device: Device, on thread: ServingThread) throws(HostError) {
    do throws(HostError) {
      try restore()
    } catch {
      throw HostError(
        "device \(device.name): somebody unmounted \(mountPoint), and it cannot be mounted again: "
          + "\(error)", code: error.code)
    }
    let isAdded = thread.run {
      guard tree.add(device) else { return false }
      noteFile(of: device)
      return true
    }
    guard isAdded else {
      throw HostError(
        """
        device \(device.name): \(pathPrefix)\(device.name) exists already; choose another \
        channel name
        """)
    }
  }

  func remove(_ device: Device) {
    thread?.run {
      device.remove()
      unlinked[ObjectIdentifier(device)] = tree.unlink(device)
      hidden.remove(pathPrefix + device.name)
    }
  }

  func letGo(_ device: Device) {
    thread?.run {
      if let node = unlinked.removeValue(forKey: ObjectIdentifier(device)) { tree.drop(node) }
    }
  }

  func stop() {
    thread?.run {
      watch?.stop()
      watch = nil
      // The mount first: its end finds it at its place.
      if let session { end(session) }
      for session in detached { end(session) }
    }
  }

  /// On the thread.
  private func end(_ session: Session) {
    // Before the session: its requests have to be answered while it is there.
    for device in tree.devices { device.abandon(ObjectIdentifier(session)) }
    session.destroy()
    detached.removeAll { $0 === session }
    if self.session === session { self.session = nil }
  }

  private func checkMountPoint(left by: String) throws(HostError) {
    var status = stat()
    // A daemon that was killed leaves its mount behind, and so does an abort.
    // Attributes may be remembered from when it lived; how much room there is is not.
    while cfuse_is_fuse(mountPoint) == -ENOTCONN {
      guard unmount() else {
        throw HostError(
          """
          mount point \(mountPoint): \(by) left its mount there, and this user cannot \
          remove it; run `umount -l \(mountPoint)` as root
          """, code: ENOTCONN)
      }
      log("removed the mount that \(by) left on \(mountPoint)")
    }
    guard stat(mountPoint, &status) == 0 else {
      throw HostError(
        """
        mount point \(mountPoint): \(SystemError.message(errno)); create the directory, or name \
        another with --mount
        """)
    }
    guard status.st_mode & S_IFMT == S_IFDIR else {
      throw HostError("mount point \(mountPoint) is not a directory")
    }
    var parent = stat()
    let isMounted =
      stat(mountPoint + "/..", &parent) != 0 || parent.st_dev != status.st_dev
    guard !isMounted || cfuse_is_fuse(mountPoint) == 0 else {
      throw HostError(
        """
        mount point \(mountPoint): a FUSE file system is mounted there already; does another \
        relayd run? Name another directory with --mount
        """)
    }
    guard access("/dev/fuse", F_OK) == 0 else {
      throw HostError("/dev/fuse is missing: load the module with `modprobe fuse`")
    }
  }

  /// Root may let others in; another user where fusermount's configuration allows it.
  private var mayServeOthers: Bool {
    if geteuid() == 0 { return true }
    guard let bytes = try? Files.contents(of: "/etc/fuse.conf", atMost: 1 << 20) else {
      return false
    }
    return String(decoding: bytes, as: UTF8.self).split(separator: "\n").contains {
      $0.split { $0 == " " || $0 == "\t" }.first == "user_allow_other"
    }
  }

  /// Root may; another user's own mount is fusermount's business.
  private func unmount() -> Bool {
    if umount2(mountPoint, CInt(MNT_DETACH)) == 0 { return true }
    return (try? ChildProcess(["fusermount3", "-u", "-z", "--", mountPoint]))?.wait() == 0
  }
}

// The session's requests.
extension RelayfsFrontEnd {
  func device(_ node: UInt64) -> Device? { tree.device(number(of: node)) }

  /// The kernel holds a file's lock while a write waits, and who waits for that lock cannot be
  /// interrupted: each open of a file that can be written to is another file to it.
  private func node(_ number: UInt64) -> UInt64 {
    guard tree.device(number)?.options.isWritable == true else { return number }
    lookups &+= 1
    return lookups << 32 | number
  }

  private func number(of node: UInt64) -> UInt64 { node & 0xffff_ffff }

  func served(_ session: Session) {}

  /// On the thread.
  private func mountChanged(_ state: MountWatch.State) {
    switch state {
    case .gone: mountWentAway()
    case .covered:
      isCovered = true
      noteFiles()
      log(
        """
        somebody mounted something over \(mountPoint): nobody can open the files in it until that \
        is unmounted
        """)
    case .visible(let places):
      if isCovered { log("the files in \(mountPoint) can be opened again") }
      isCovered = false
      mounts = places
      noteFiles()
    }
  }

  private func noteFiles() {
    for device in tree.devices { noteFile(of: device) }
  }

  /// Whether the device's file is where it can be opened; the log says what is new of that.
  private func noteFile(of device: Device) {
    let path = pathPrefix + device.name
    let isHidden = mounts.contains { (path + "/").hasPrefix($0 + "/") }
    device.noteFile(isThere: session != nil && !isCovered && !isHidden)
    // What hides all of them has a line of its own; a removed one has no path any more.
    guard !isCovered, !device.isRemoved else { return }
    if isHidden, hidden.insert(path).inserted {
      log(DeviceText.covered(path))
    } else if !isHidden, hidden.remove(path) != nil {
      log(DeviceText.again(path))
    }
  }

  /// The files cannot be opened any more; those that are open work on.
  private func mountWentAway() {
    guard let session else { return }
    session.forgetMount()
    detached.append(session)
    self.session = nil
    filesWentAway()
  }

  func sessionEnded(_ session: Session) {
    let isMount = self.session === session
    // What is at that place now may be another mount.
    session.forgetMount()
    end(session)
    if isMount { filesWentAway() }
  }

  private func filesWentAway() {
    watch?.stop()
    watch = nil
    mounts = []
    hidden = []
    isCovered = false
    noteFiles()
    log("somebody unmounted or aborted \(mountPoint): it is mounted again")
    thread?.filesWentAway()
  }

  func lookup(_ request: OpaquePointer, parent: UInt64, name: String) {
    guard let number = tree.lookup(name, in: parent), var attributes = attributes(number) else {
      return cfuse_reply_error(request, ENOENT)
    }
    cfuse_reply_entry(request, node(number), &attributes)
  }

  func attributes(_ request: OpaquePointer, node: UInt64) {
    guard var attributes = attributes(number(of: node)) else {
      return cfuse_reply_error(request, ENOENT)
    }
    cfuse_reply_attributes(request, &attributes)
  }

  func list(_ request: OpaquePointer, node: UInt64, size: Int, offset: UInt64) {
    guard let directory = tree[node], case .directory = directory.content else {
      return cfuse_reply_error(request, ENOTDIR)
    }
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
    defer { bytes.deallocate() }
    var used = 0
    // An entry's offset is that of what follows it: for a child its number, and "." and ".." are
    // before all of them.
    let dots = [(".", node, UInt64(0)), ("..", directory.parent, UInt64(1))]
    let entries = dots + tree.children(of: node).map { ($0.name, $0.number, $0.number) }
    for (name, number, place) in entries where place >= offset {
      guard var attributes = attributes(number) else { continue }
      let needed = cfuse_directory_entry(
        request, bytes + used, size - used, name, &attributes, place + 1)
      guard used + needed <= size else { break }
      used += needed
    }
    var vector = iovec(iov_base: bytes, iov_len: used)
    cfuse_reply_vectors(request, &vector, used > 0 ? 1 : 0)
  }

  private func attributes(_ number: UInt64) -> cfuse_attributes? {
    guard let node = tree[number] else { return nil }
    switch node.content {
    case .directory:
      return cfuse_attributes(
        node: number, mode: S_IFDIR | 0o555, uid: geteuid(), gid: getegid(),
        time: Int64(startTime))
    case .device(let device):
      let options = device.options
      return cfuse_attributes(
        node: number, mode: S_IFREG | options.permissions, uid: options.uid, gid: options.gid,
        time: Int64(startTime))
    }
  }
}
