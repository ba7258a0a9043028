// SPDX-License-Identifier: Apache-2.0
// What a daemon gives a process that is to write into one of its channels, on its way from the one
// who asked for it to the one who uses it.

/// Everything for writing into one channel: for `Channel.attach`.
public struct AttachedChannel: ~Copyable, Sendable {
  public let name: String
  /// The owner id under which this process writes.
  public let owner: UInt16
  /// The sealed memory file with the channel's geometry.
  public let geometry: FileDescriptor
  /// The memory file with the ring.
  public let ring: FileDescriptor
  /// Wakes the daemon.
  public let wake: FileDescriptor
  /// The daemon's life page.
  public let life: FileDescriptor
  public let way: WayBack

  package init(
    name: String, owner: UInt16, geometry: consuming FileDescriptor,
    ring: consuming FileDescriptor, wake: consuming FileDescriptor,
    life: consuming FileDescriptor, way: WayBack
  ) {
    self.name = name
    self.owner = owner
    self.geometry = geometry
    self.ring = ring
    self.wake = wake
    self.life = life
    self.way = way
  }

  /// Gives the descriptors to `body`, which owns them from then on.
  package consuming func take<Result, Failure: Error>(
    _ body: (
      _ geometry: consuming FileDescriptor, _ ring: consuming FileDescriptor,
      _ wake: consuming FileDescriptor, _ life: consuming FileDescriptor
    ) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    try body(geometry, ring, wake, life)
  }
}

/// How to get the same of the next daemon.
public struct WayBack: Sendable {
  /// The connection that stands for the attachment, also for the next one: under the same number.
  package let connection: GuardedDescriptor
  package let path: String
  package let request: [UInt8]
  /// The reply is this, and the owner id in two bytes.
  package let replyHeader: [UInt8]

  package init(
    connection: GuardedDescriptor, path: String, request: [UInt8], replyHeader: [UInt8]
  ) {
    self.connection = connection
    self.path = path
    self.request = request
    self.replyHeader = replyHeader
  }
}
