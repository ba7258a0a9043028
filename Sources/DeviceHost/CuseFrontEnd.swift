// SPDX-License-Identifier: Apache-2.0
// Character devices: one CUSE session for each device, all with one major number. The kernel
// reports no failure of a registration, so each is looked for afterwards.

internal import CFuse
internal import Glibc
internal import LinuxIO

final class CuseFrontEnd: FrontEnd {
  private let loop: EventLoop
  private var nodes: [CuseNode] = []

  private let log: (String) -> Void

  init(loop: EventLoop, log: @escaping (String) -> Void) {
    self.loop = loop
    self.log = log
  }

  static var isAvailable: Bool { (try? openChannel()) != nil }

  private static func openChannel() throws(SystemError) -> FileDescriptor {
    try FileDescriptor.open("/dev/cuse", O_RDWR | O_NONBLOCK | O_CLOEXEC)
  }

  func serve(_ devices: [Device]) throws {
    do {
      var major: UInt32 = 0
      for (minor, device) in devices.enumerated() {
        let node = CuseNode(device, loop: loop, log: log)
        nodes.append(node)
        // The first one gets a major number of its own; the rest share it.
        try node.register(
          CuseFrontEnd.openChannelOrExplain(), major: major, minor: UInt32(minor))
        if minor == 0 { major = try node.number().major }
      }
      for node in nodes { try node.start() }
    } catch {
      stop()
      throw error
    }
  }

  func stop() {
    for node in nodes { node.stop() }
    nodes = []
  }

  private static func openChannelOrExplain() throws(HostError) -> FileDescriptor {
    do {
      return try openChannel()
    } catch {
      switch error.code {
      case ENOENT, ENODEV, ENXIO:
        throw HostError(
          description: """
            /dev/cuse is missing: load the module with `modprobe cuse`; a kernel without it serves \
            the same files with --backend fuse
            """)
      case EACCES, EPERM:
        throw HostError(
          description: """
            no permission to open /dev/cuse: run as root, or give the daemon's user write access \
            to it
            """)
      default: throw HostError(description: "\(error)")
      }
    }
  }
}

/// One device node.
final class CuseNode: SessionOwner {
  private let device: Device
  private let loop: EventLoop
  private let log: (String) -> Void
  private var session: Session?
  private var path: String { "/dev/" + device.name }
  /// sysfs writes the slashes of a name as exclamation marks.
  private var sysfsPath: String {
    "/sys/class/cuse/" + String(device.name.map { $0 == "/" ? "!" : $0 })
  }

  init(_ device: Device, loop: EventLoop, log: @escaping (String) -> Void) {
    self.device = device
    self.loop = loop
    self.log = log
  }

  /// Creates the node and makes sure that it is there and ours.
  func register(_ channel: consuming FileDescriptor, major: UInt32, minor: UInt32) throws {
    guard access(sysfsPath, F_OK) != 0 else {
      throw HostError(
        description: """
          device \(device.name): another CUSE device of this name exists; does another relayd run?
          """)
    }
    var status = stat()
    guard lstat(path, &status) != 0 else {
      throw HostError(
        description: "device \(device.name): \(path) exists already; choose another channel name")
    }
    // The kernel would register a device whose node cannot be made.
    guard errno == ENOENT else {
      throw HostError(
        description: """
          device \(device.name): there can be no \(path): \(SystemError.message(errno)); choose \
          another channel name
          """)
    }
    let session = try Session(
      loop: loop, owner: self, cuse: channel, name: device.name, major: major, minor: minor)
    self.session = session
    // The kernel asks once; the device is registered inside the write of the answer.
    let isAsked = Readiness.wait(session.fd, .read, timeoutMilliseconds: 5000).contains(.read)
    let isAlive = isAsked && session.step()
    guard isAlive, Readiness.wait(session.fd, [], timeoutMilliseconds: 0).isEmpty else {
      throw HostError(
        description: """
          device \(device.name): the kernel did not register it (number \(major):\(minor)); is \
          its name or its number taken?
          """)
    }
    try awaitNode()
  }

  /// A name that clashes with somebody else's node registers all the same: compare the numbers.
  private func awaitNode() throws {
    let number = try number()
    var status = stat()
    // devtmpfs makes the node within the registration; another manager of /dev may take a moment.
    for _ in 0..<200 {
      if lstat(path, &status) == 0 {
        guard status.st_mode & S_IFMT == S_IFCHR, DeviceNumber(UInt64(status.st_rdev)) == number
        else {
          throw HostError(
            description: """
              device \(device.name): \(path) is somebody else's; choose another channel name
              """)
        }
        return
      }
      poll(nil, 0, 10)
    }
    throw HostError(
      description: "device \(device.name): \(path) did not appear; is /dev a devtmpfs?")
  }

  /// The device number, as sysfs has it.
  func number() throws -> DeviceNumber {
    let path = sysfsPath + "/dev"
    var bytes = [UInt8](repeating: 0, count: 64)
    let file = try FileDescriptor.open(path, O_RDONLY)
    let count = read(file.raw, &bytes, bytes.count)
    guard let number = DeviceNumber(sysfs: String(decoding: bytes[..<max(0, count)], as: UTF8.self))
    else {
      throw HostError(description: "device \(device.name): cannot read its number from \(path)")
    }
    return number
  }

  func start() throws { try session?.start() }

  func stop() {
    session?.destroy()
    session = nil
    device.abandon()
  }

  func device(_ node: UInt64) -> Device? { device }

  // Somebody aborted the connection through sysfs; the descriptor stays until stop.
  func sessionEnded(_ session: Session) {
    device.abandon()
    log("somebody aborted \(path): it is gone until relayd is started again")
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
