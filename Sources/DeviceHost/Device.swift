// SPDX-License-Identifier: Apache-2.0
// One served channel buffer: what open, read, poll and release mean, whichever front end they come
// through. No request waits, so each is answered within its callback.

internal import CFuse
internal import Glibc
public import Relay

/// A channel buffer with a name, and the readers that have it open.
public final class Device {
  /// The file's name: channel and CPU, such as "relay0".
  public let name: String
  let reader: Reader
  private var files: [OpenFile] = []
  /// Told when the first reader starts to wait.
  var onAwaited: () -> Void = {}

  /// - Parameter reader: this device becomes the only one to use it for claims.
  public init(name: String, reader: Reader) {
    self.name = name
    self.reader = reader
  }

  /// One open(2) of the device.
  final class OpenFile {
    let device: Device
    /// The latest wish to be told, and whether it still is to be.
    fileprivate var poll: OpaquePointer?
    fileprivate var isAwaited = false

    init(_ device: Device) { self.device = device }

    deinit { if let poll { cfuse_poll_destroy(poll) } }

    /// The kernel's name for this file, which keeps it alive until release.
    fileprivate var handle: UInt64 {
      UInt64(UInt(bitPattern: Unmanaged.passUnretained(self).toOpaque()))
    }

    /// - Parameter handle: what an open was answered with, not released yet.
    static func of(_ handle: UInt64) -> Unmanaged<OpenFile> {
      .fromOpaque(UnsafeRawPointer(bitPattern: UInt(handle))!)
    }
  }
}

extension Device {
  /// Answers an open with `reply`, or EACCES where it is not for reading only.
  func open(
    _ request: OpaquePointer, flags: CInt, reply: (OpaquePointer, UInt64) -> CInt
  ) {
    guard flags & O_ACCMODE == O_RDONLY else {
      cfuse_reply_error(request, EACCES)
      return
    }
    let file = OpenFile(self)
    _ = Unmanaged.passRetained(file)
    files.append(file)
    // A reply that the kernel did not take was for a reader that is gone: no release will come.
    if reply(request, file.handle) != 0 { forget(file) }
  }

  /// Answers a read with what there is, straight from the ring.
  func read(_ request: OpaquePointer, size: Int) {
    let claim = reader.claim(limit: size)
    let result = cfuse_reply_vectors(request, claim.vectors.baseAddress, claim.vectors.count)
    guard claim.byteCount > 0 else { return }
    if result == 0 { reader.consume() } else { reader.giveBack() }
    armIfAwaited()
  }

  /// Answers a poll, and remembers who wants to be told.
  func poll(_ request: OpaquePointer, _ file: OpenFile, _ poll: OpaquePointer?) {
    // Stored before the events are computed: a wake in between finds it.
    if let poll {
      if let replaced = file.poll { cfuse_poll_destroy(replaced) }
      file.poll = poll
      file.isAwaited = true
      armIfAwaited()
    }
    cfuse_reply_poll(request, events)
  }

  /// Answers a release; always at once, because close(2) cannot be interrupted.
  func release(_ request: OpaquePointer, _ file: OpenFile) {
    cfuse_reply_error(request, 0)
    forget(file)
  }

  private func forget(_ file: OpenFile) {
    files.removeAll { $0 === file }
    Device.OpenFile.of(file.handle).release()
  }

  /// Forgets all open files, once no release can come any more.
  func abandon() { for file in files { forget(file) } }

  /// POLLIN whenever a read would return data; POLLHUP once the channel is closed.
  private var events: UInt32 {
    if reader.hasData {
      return UInt32(POLLIN | POLLRDNORM | (reader.isClosed ? POLLHUP : 0))
    }
    return reader.isDrained ? UInt32(POLLHUP) : 0
  }

  var isOpen: Bool { !files.isEmpty }

  var isAwaited: Bool { files.contains { $0.isAwaited } }

  private func armIfAwaited() {
    guard isAwaited else { return }
    // Not armed: there is data, and the next read that drains it comes here again. Looking first
    // saves the barrier.
    if !reader.hasData { _ = reader.arm() }
    onAwaited()
  }

  /// Tells the readers that wait, if there is something to tell; after a writer's signal, and from
  /// time to time in case one was lost.
  func wake() {
    guard isAwaited else { return }
    guard reader.hasData || reader.isDrained else {
      if !reader.isArmed { armIfAwaited() }
      return
    }
    for file in files where file.isAwaited {
      file.isAwaited = false
      if let poll = file.poll { cfuse_poll_notify(poll) }
    }
  }
}
