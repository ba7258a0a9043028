// SPDX-License-Identifier: Apache-2.0
// One buffer of a daemon's channel as its mapped consumer has it: memory that can be read and not
// written. Where to look is the daemon's to say, and checked here.

internal import Glibc
public import LinuxIO

/// A buffer, mapped for reading only.
// Sendable: nothing in it changes; who reads the memory was handed it out.
public final class MappedBuffer: @unchecked Sendable {
  public let geometry: Geometry
  private let ring: Mapping
  private let file: Mapping
  /// From the ring's first byte to the first sub-buffer's.
  private let payload: Int
  /// From the file's first byte to the rests'.
  private let rests: Int

  /// - Parameters:
  ///   - geometry: the channel's geometry file, open for reading.
  ///   - ring: its ring file, open for reading.
  /// - Throws: `ChannelError`, also where the files are not what a relayd hands out.
  public init(
    channel: String, cpu: Int, geometry geometryFile: borrowing FileDescriptor,
    ring ringFile: borrowing FileDescriptor
  ) throws(ChannelError) {
    let page = try Channel.mapGeometry(geometryFile.raw)
    let geometry: Geometry
    do throws(GeometryError) {
      geometry = try Geometry(copyingUntrusted: page.base)
    } catch { throw .geometry(error) }
    try Channel.checkRing(channel, ringFile.raw, geometry)
    file = try MappedBuffer.map(geometryFile.raw, geometry.openerFileBytes)
    ring = try MappedBuffer.map(ringFile.raw, geometry.totalBytes)
    guard (0..<geometry.slotCount).contains(cpu) else {
      throw .untrusted("channel \(channel) has no buffer for CPU \(cpu)")
    }
    self.geometry = geometry
    payload = cpu * geometry.stride + geometry.payloadOffset
    rests = geometry.areasOffset + cpu * 2 * geometry.areaBytes
  }

  private static func map(_ fd: CInt, _ count: Int) throws(ChannelError) -> Mapping {
    try Channel.system { () throws(SystemError) in
      guard try MemoryFile.count(of: fd) >= count else {
        throw SystemError(code: EINVAL, operation: "map \(count) bytes of a shorter file")
      }
      return try Mapping.shared(fd, count: count, writable: false, inheritedByChildren: true)
    }
  }

  /// The bytes of what was lent; nil where that is not all in the buffer.
  public func bytes(of lent: LentSubbuf) -> [UnsafeRawBufferPointer]? {
    guard (0..<geometry.subbufCount).contains(lent.subbuf), !lent.pieces.isEmpty,
      (0...geometry.subbufSize).contains(lent.padding)
    else { return nil }
    let size = lent.isRest ? 2 * geometry.areaBytes : geometry.subbufSize
    let base =
      lent.isRest
      ? file.base + rests : ring.base + payload + lent.subbuf * geometry.subbufSize
    var end = 0
    var bytes: [UnsafeRawBufferPointer] = []
    for piece in lent.pieces {
      guard piece.offset >= end, piece.offset < size, piece.length > 0,
        piece.length <= size - piece.offset
      else { return nil }
      end = piece.offset + piece.length
      bytes.append(UnsafeRawBufferPointer(start: base + piece.offset, count: piece.length))
    }
    return bytes
  }
}

/// A part of a sub-buffer, as it lies in the memory that it keeps mapped.
public struct MappedSubbuf {
  /// What is known about it.
  public let lent: LentSubbuf
  /// Its bytes: committed records one behind the other; valid while this is kept, and unchanged
  /// while it is in hand.
  public let bytes: [UnsafeRawBufferPointer]
  private let memory: AnyObject

  package init(lent: LentSubbuf, bytes: [UnsafeRawBufferPointer], memory: AnyObject) {
    self.lent = lent
    self.bytes = bytes
    self.memory = memory
  }

  /// Gives each of its pieces to `body`.
  public func forEachPiece<E: Error>(_ body: (RawSpan) throws(E) -> Void) throws(E) {
    for piece in bytes { try body(piece.bytes) }
  }
}
