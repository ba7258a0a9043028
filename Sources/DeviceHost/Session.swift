// SPDX-License-Identifier: Apache-2.0
// One libfuse session on a thread's event loop: its requests find their device and go there.

internal import CFuse
internal import Glibc
internal import LinuxIO

/// What a session serves. Called on the session's thread.
protocol SessionOwner: AnyObject {
  /// The device behind an inode number; 0 in a character device's session.
  func device(_ node: UInt64) -> Device?
  /// Some requests were processed; the session may be destroyed now.
  func served(_ session: Session)
  /// The kernel ended the session.
  func sessionEnded(_ session: Session)
  // File systems only.
  func lookup(_ request: OpaquePointer, parent: UInt64, name: String)
  func attributes(_ request: OpaquePointer, node: UInt64)
  func list(_ request: OpaquePointer, node: UInt64, size: Int, offset: UInt64)
}

/// Owns a libfuse session.
final class Session: EventHandler {
  private let loop: EventLoop
  private unowned let owner: any SessionOwner
  private var raw: OpaquePointer?
  private let isMount: Bool

  /// A character device over an open /dev/cuse.
  init(
    loop: EventLoop, owner: any SessionOwner, cuse: consuming FileDescriptor, name: String,
    major: UInt32, minor: UInt32
  ) throws(SystemError) {
    self.loop = loop
    self.owner = owner
    isMount = false
    var callbacks = Session.callbacks
    let context = Unmanaged.passUnretained(self).toOpaque()
    let code = cfuse_device_new(cuse.take(), name, major, minor, &callbacks, context, &raw)
    if code < 0 { throw SystemError(code: -code, operation: "create device \(name)") }
  }

  /// A file system mounted on a directory, for every user or for this one alone.
  init(
    loop: EventLoop, owner: any SessionOwner, mountPoint: String, isForOthers: Bool
  ) throws(SystemError) {
    self.loop = loop
    self.owner = owner
    isMount = true
    var callbacks = Session.callbacks
    let context = Unmanaged.passUnretained(self).toOpaque()
    let code = cfuse_mount_new(mountPoint, isForOthers ? 1 : 0, &callbacks, context, &raw)
    if code < 0 { throw SystemError(code: -code, operation: "mount relayfs on \(mountPoint)") }
  }

  deinit { destroy() }

  var fd: CInt { cfuse_session_fd(raw) }

  /// Serves the session's requests from now on; on the loop's thread.
  func start() throws(SystemError) { try loop.add(fd, .read, self) }

  /// Processes one request if there is one; false when the session is over.
  func step() -> Bool { cfuse_session_step(raw) != CFUSE_ENDED }

  /// Its files are not where they were mounted any more; those that are open still lead here.
  func forgetMount() { if let raw { cfuse_session_forget_mount(raw) } }

  /// Ends it: unmounts, removes the device.
  func destroy() {
    guard let raw else { return }
    loop.remove(fd)
    self.raw = nil
    cfuse_session_destroy(raw)
  }

  /// Requests served before other sessions get their turn.
  private static let requestsPerEvent = 16

  func handle(_ events: Events, from fd: CInt) {
    for _ in 0..<Session.requestsPerEvent {
      switch cfuse_session_step(raw) {
      case CFUSE_PROCESSED: continue
      case CFUSE_NOTHING: return owner.served(self)
      default:
        loop.remove(fd)
        return owner.sessionEnded(self)
      }
    }
    owner.served(self)
  }

  private static func of(_ context: UnsafeMutableRawPointer?) -> Session {
    Unmanaged<Session>.fromOpaque(context!).takeUnretainedValue()
  }

  private static let callbacks = cfuse_callbacks(
    open: { context, request, node, flags in
      let session = Session.of(context)
      guard let device = session.owner.device(node) else {
        cfuse_reply_error(request, ENOENT)
        return
      }
      device.open(
        request!, flags: flags, through: ObjectIdentifier(session),
        reply: session.isMount
          ? { cfuse_reply_open_file($0, $1) } : { cfuse_reply_open_device($0, $1) })
    },
    read: { _, request, handle, size, offset, flags in
      Device.OpenFile.of(handle)._withUnsafeGuaranteedRef {
        $0.device.read(request!, $0, size: size, isContinuation: offset > 0, flags: flags)
      }
    },
    write: { context, request, handle, bytes, size, offset, flags in
      // The kernel makes up an offset for a file of a mount that is open for appending.
      let isAppended = Session.of(context).isMount && flags & O_APPEND != 0
      Device.OpenFile.of(handle)._withUnsafeGuaranteedRef {
        $0.device.write(
          request!, $0, UnsafeRawBufferPointer(start: bytes, count: size),
          isContinuation: offset > 0 && !isAppended, flags: flags)
      }
    },
    interrupted: { _, request, handle in
      Device.OpenFile.of(handle)._withUnsafeGuaranteedRef { $0.device.interrupted(request!) }
    },
    poll: { _, request, handle, poll, events in
      Device.OpenFile.of(handle)._withUnsafeGuaranteedRef {
        $0.device.poll(request!, $0, poll, asked: events)
      }
    },
    release: { _, request, handle in
      let file = Device.OpenFile.of(handle).takeUnretainedValue()
      file.device.release(request!, file)
    },
    control: { _, request, handle, command, input, inputSize, outputSize in
      Device.OpenFile.of(handle)._withUnsafeGuaranteedRef {
        $0.device.control(
          request!, $0, command: command,
          input: UnsafeRawBufferPointer(start: input, count: input == nil ? 0 : inputSize),
          outputSize: outputSize)
      }
    },
    lookup: { context, request, parent, name in
      Session.of(context).owner.lookup(request!, parent: parent, name: String(cString: name!))
    },
    attributes: { context, request, node in
      Session.of(context).owner.attributes(request!, node: node)
    },
    list: { context, request, node, size, offset in
      Session.of(context).owner.list(request!, node: node, size: size, offset: offset)
    })
}
