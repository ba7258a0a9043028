// SPDX-License-Identifier: Apache-2.0
// What a device is told by who makes it, and what it asks of who serves it.

internal import Glibc
public import Relay

/// How the file of a channel buffer looks and behaves.
public struct FileOptions: Equatable, Sendable {
  /// It may be opened for writing.
  public var isWritable = false
  /// A read waits while there is nothing, instead of returning 0.
  public var blocks = false
  /// When a reader that waits is told.
  public var wakeup = Wakeup.data
  public var uid: UInt32 = geteuid()
  public var gid: UInt32 = getegid()
  /// relay's default: its owner may read.
  public var permissions: UInt32 = 0o400
  public init() {}
}

/// What a device asks of the thread that serves it.
protocol DeviceKeeper: AnyObject {
  /// One more open file, or mapped consumer, instead of `old`; an errno value when there are too
  /// many.
  func admit(
    _ device: Device, uid: UInt32, pid: Int32, _ kind: ReaderEntry.Kind, replacing old: ReaderEntry?
  ) -> Result<ReaderEntry, ReaderRefusal>
  /// It is closed.
  func release(_ entry: ReaderEntry)
  /// Some reader got data.
  func delivered()
  /// Nobody has the device open any more, and nobody ever will.
  func lastFileClosed(of device: Device)
  /// Somebody has begun to wait: the device wants `wake()` after a signal, and from time to time.
  func startWaking(_ device: Device)
  /// The device has more to do than one turn is for: it wants `goOn()` once others were served.
  func goOnLater(_ device: Device)
  /// Its losses have grown.
  func lossesFound()
  /// Its memory is damaged; once.
  func damageFound(_ device: Device)
  func logUse(_ message: String, by user: UInt32)
}
