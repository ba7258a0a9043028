// SPDX-License-Identifier: Apache-2.0
// relayfs: a FUSE mount with one file for each device, for kernels and containers without CUSE.

internal import CFuse
internal import Glibc
internal import LinuxIO

final class RelayfsFrontEnd: FrontEnd, SessionOwner {
  private let mountPoint: String
  private let loop: EventLoop
  private let log: (String) -> Void
  private var session: Session?
  private var devices: [Device] = []
  // Names and inode numbers do not change while it is mounted.
  private var nodeByName: [String: UInt64] = [:]

  private let startTime = time(nil)

  private static let root: UInt64 = 1
  private static let firstFile: UInt64 = 2

  init(mountPoint: String, loop: EventLoop, log: @escaping (String) -> Void) {
    self.mountPoint = mountPoint
    self.loop = loop
    self.log = log
  }

  func serve(_ devices: [Device]) throws {
    self.devices = devices
    for (index, device) in devices.enumerated() {
      nodeByName[device.name] = RelayfsFrontEnd.firstFile + UInt64(index)
    }
    try checkMountPoint()
    let session = try openSession()
    self.session = session
    try session.start()
  }

  func stop() {
    session?.destroy()
    session = nil
    for device in devices { device.abandon() }
  }

  private func checkMountPoint() throws(HostError) {
    var status = stat()
    if stat(mountPoint, &status) != 0 {
      // A daemon that was killed leaves its mount behind.
      if errno == ENOTCONN, umount2(mountPoint, CInt(MNT_DETACH)) == 0 {
        log("removed the mount that a killed relayd left on \(mountPoint)")
      } else {
        throw HostError(
          description: """
            mount point \(mountPoint): \(String(cString: strerror(errno))); create the directory, \
            or name another with --mount
            """)
      }
    } else if status.st_mode & S_IFMT != S_IFDIR {
      throw HostError(description: "mount point \(mountPoint) is not a directory")
    }
    guard cfuse_is_fuse(mountPoint) == 0 else {
      throw HostError(
        description: """
          mount point \(mountPoint): a FUSE file system is mounted there already; does another \
          relayd run? Name another directory with --mount
          """)
    }
    guard access("/dev/fuse", F_OK) == 0 else {
      throw HostError(description: "/dev/fuse is missing: load the module with `modprobe fuse`")
    }
  }

  private func openSession() throws(HostError) -> Session {
    do {
      return try Session(loop: loop, owner: self, mountPoint: mountPoint)
    } catch {
      throw HostError(
        description: "\(error); is /dev/fuse open to this user, and may it mount there?")
    }
  }

  func device(_ node: UInt64) -> Device? {
    guard node >= RelayfsFrontEnd.firstFile,
      node - RelayfsFrontEnd.firstFile < UInt64(devices.count)
    else { return nil }
    return devices[Int(node - RelayfsFrontEnd.firstFile)]
  }

  func sessionEnded(_ session: Session) {
    for device in devices { device.abandon() }
    log("somebody unmounted \(mountPoint): its files are gone until relayd is started again")
  }

  func lookup(_ request: OpaquePointer, parent: UInt64, name: String) {
    guard parent == RelayfsFrontEnd.root, let node = nodeByName[name] else {
      cfuse_reply_error(request, ENOENT)
      return
    }
    var attributes = attributes(node)
    cfuse_reply_entry(request, &attributes)
  }

  func attributes(_ request: OpaquePointer, node: UInt64) {
    guard node == RelayfsFrontEnd.root || device(node) != nil else {
      cfuse_reply_error(request, ENOENT)
      return
    }
    var attributes = attributes(node)
    cfuse_reply_attributes(request, &attributes)
  }

  func list(_ request: OpaquePointer, node: UInt64, size: Int, offset: UInt64) {
    guard node == RelayfsFrontEnd.root else {
      cfuse_reply_error(request, ENOTDIR)
      return
    }
    let bytes = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 8)
    defer { bytes.deallocate() }
    let names =
      [(".", RelayfsFrontEnd.root), ("..", RelayfsFrontEnd.root)]
      + devices.enumerated().map { ($1.name, RelayfsFrontEnd.firstFile + UInt64($0)) }
    var used = 0
    for index in Int(clamping: offset)..<max(Int(clamping: offset), names.count) {
      var attributes = attributes(names[index].1)
      let needed = cfuse_directory_entry(
        request, bytes + used, size - used, names[index].0, &attributes, UInt64(index + 1))
      guard used + needed <= size else { break }
      used += needed
    }
    var vector = iovec(iov_base: bytes, iov_len: used)
    cfuse_reply_vectors(request, &vector, used > 0 ? 1 : 0)
  }

  /// relay's default mode for a file: its owner may read.
  private func attributes(_ node: UInt64) -> cfuse_attributes {
    cfuse_attributes(
      node: node, mode: node == RelayfsFrontEnd.root ? S_IFDIR | 0o555 : S_IFREG | 0o400,
      uid: geteuid(), gid: getegid(), time: Int64(startTime))
  }
}
