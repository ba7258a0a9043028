// SPDX-License-Identifier: Apache-2.0
// What the kernel says about its devices: uevents, for example that a CPU came up. Only reports;
// what is true now is asked elsewhere (Processors).

import CLinux
import Glibc

/// One uevent of the kernel.
public struct Uevent: Equatable, Sendable {
  /// "add", "remove", "change", "online", "offline", …
  public let action: String
  /// Below /sys, such as "/devices/system/cpu/cpu1".
  public let devpath: String
  /// "cpu", "misc", …; empty where the kernel names none.
  public let subsystem: String
  /// All of its KEY=value pairs, those above included.
  public let values: [String: String]

  /// A message as the kernel sends it: "ACTION@DEVPATH", then KEY=value pairs, each ended by a
  /// zero byte. nil for anything else.
  public init?(message: UnsafeRawBufferPointer) {
    var values: [String: String] = [:]
    let parts = message.split(separator: 0)
    guard let title = parts.first, title.contains(UInt8(ascii: "@")) else { return nil }
    for part in parts.dropFirst() {
      guard let equals = part.firstIndex(of: UInt8(ascii: "=")) else { return nil }
      let key = String(decoding: part[..<equals], as: UTF8.self)
      values[key] = String(decoding: part[part.index(after: equals)...], as: UTF8.self)
    }
    guard let action = values["ACTION"], let devpath = values["DEVPATH"],
      title.elementsEqual("\(action)@\(devpath)".utf8)
    else { return nil }
    self.action = action
    self.devpath = devpath
    subsystem = values["SUBSYSTEM"] ?? ""
    self.values = values
  }
}

/// Receives the uevents of the kernel from its creation on; never blocks. Readable (and in error
/// after a loss) as long as `next` has something.
public struct Uevents: ~Copyable, Sendable {
  private let socket: FileDescriptor

  /// What `next` found.
  public enum Next: Equatable, Sendable {
    case event(Uevent)
    /// More came than the buffer held: what they told has to be found out otherwise.
    case lost
  }

  // The kernel's own limit is 2 KiB of pairs after the title.
  private static let longestMessage = 8192

  /// - Parameters:
  ///   - prefixes: the kernel passes on only messages ("ACTION@DEVPATH") that begin with one of
  ///     these; none: all.
  ///   - receiveBytes: how much may wait before events are lost; costs only what waits.
  ///     Without CAP_NET_ADMIN the kernel's net.core.rmem_max bounds it.
  public init(
    _ prefixes: [StaticString] = [], receiveBytes: Int = 4 << 20
  ) throws(SystemError) {
    // Static strings end with a zero byte.
    let texts: [UnsafePointer<CChar>?] = prefixes.map {
      UnsafeRawPointer($0.utf8Start).assumingMemoryBound(to: CChar.self)
    }
    socket = FileDescriptor(
      owning: try check(
        clinux_uevents(CInt(clamping: receiveBytes), texts, texts.count), "listen to uevents"))
  }

  public var raw: CInt { socket.raw }

  /// The next uevent; nil when there is none. What other processes sent is passed over.
  public func next() throws(SystemError) -> Next? {
    var bytes = [UInt8](repeating: 0, count: Uevents.longestMessage)
    while true {
      var isFromKernel: CInt = 0
      var isTruncated: CInt = 0
      let count = clinux_uevents_receive(
        raw, &bytes, bytes.count, &isFromKernel, &isTruncated)
      if count == -EAGAIN { return nil }
      if count == -ENOBUFS { return .lost }
      try check(count, "receive a uevent")
      guard isFromKernel != 0 else { continue }
      let event =
        isTruncated != 0
        ? nil
        : bytes.withUnsafeBytes {
          Uevent(message: UnsafeRawBufferPointer(rebasing: $0[..<count]))
        }
      // A message of the kernel that cannot be understood may have been the one that matters.
      return event.map { .event($0) } ?? .lost
    }
  }
}
