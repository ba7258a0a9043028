// SPDX-License-Identifier: Apache-2.0
// Unix sockets that keep packets apart: bytes and descriptors. Knows nothing of what packets mean.

import CLinux
import Glibc

/// A packet that was received.
public struct ReceivedPacket: ~Copyable, Sendable {
  /// Bytes in the caller's buffer; 0 also stands for the end of the connection.
  public let count: Int
  /// The packet was longer than the buffer, or carried more descriptors than wanted.
  public let isTruncated: Bool
  /// Descriptors did not come: they were more than wanted, or than this process may have.
  public let lacksDescriptors: Bool
  /// The process that sent it; 0 where it was not asked for, or has no number here.
  public let sender: Int32
  public var descriptors: DescriptorList

  /// Moves the descriptors out.
  public mutating func takeDescriptors() -> DescriptorList {
    var taken = DescriptorList()
    swap(&taken, &descriptors)
    return taken
  }
}

/// A packet that was received with the process that sent it.
public struct SentPacket: ~Copyable, Sendable {
  /// As in `ReceivedPacket`.
  public let count: Int
  /// The packet was longer than the buffer, or carried descriptors.
  public let isTruncated: Bool
  public var sender: PacketSender
}

/// Two connected sockets, each closed when its owner lets go.
public struct SocketPair: ~Copyable, Sendable {
  public var first: FileDescriptor
  public var second: FileDescriptor
}

public enum UnixSocket {
  /// The longest path a Unix socket can have, in bytes.
  public static let maximumPathLength = 107
  /// Descriptors that one packet may carry.
  public static let maximumDescriptors = Int(CLINUX_MAX_DESCRIPTORS)

  /// Two connected sockets, blocking.
  public static func pair() throws(SystemError) -> SocketPair {
    var pair: (CInt, CInt) = (-1, -1)
    let result = withUnsafeMutableBytes(of: &pair) {
      clinux_seqpacket_pair($0.baseAddress!.assumingMemoryBound(to: CInt.self))
    }
    try check(result, "create a socket pair")
    return SocketPair(
      first: FileDescriptor(owning: pair.0), second: FileDescriptor(owning: pair.1))
  }

  /// Connects. ENOENT and ECONNREFUSED: nobody serves `path`. With `timeoutMilliseconds` (0: no
  /// limit) no call on the socket waits longer than that, this one included: EAGAIN.
  public static func connect(
    path: String, timeoutMilliseconds: Int = 0
  ) throws(SystemError) -> FileDescriptor {
    // At once: the program may be without standard descriptors, and write to their numbers.
    let socket = FileDescriptor(
      owning: try check(clinux_move_up(clinux_seqpacket(0)), "create a socket"))
    if timeoutMilliseconds > 0 {
      try check(
        clinux_set_timeout(socket.raw, UInt32(clamping: timeoutMilliseconds)),
        "set a socket's time-out")
    }
    try check(clinux_connect(socket.raw, path), "connect to \(path)")
    return socket
  }

  /// No call on the socket waits longer than that from now on: EAGAIN.
  public static func setTimeout(_ socket: CInt, milliseconds: Int) throws(SystemError) {
    try check(
      clinux_set_timeout(socket, UInt32(clamping: milliseconds)), "set a socket's time-out")
  }

  /// The next connection, non-blocking; nil when none waits, or it has gone already.
  public static func accept(_ listener: CInt) throws(SystemError) -> FileDescriptor? {
    let socket = clinux_accept(listener)
    if socket == -EAGAIN || socket == -ECONNABORTED { return nil }
    return FileDescriptor(owning: try check(socket, "accept a connection"))
  }

  /// Sends one packet, waiting for room unless `dontWait`. False: there was no room (in time).
  public static func send(
    _ socket: CInt, _ bytes: UnsafeRawBufferPointer, descriptors: [CInt] = [],
    dontWait: Bool = false
  ) throws(SystemError) -> Bool {
    let sent = clinux_send(
      socket, bytes.baseAddress, bytes.count, descriptors, descriptors.count, dontWait ? 1 : 0)
    if sent == -EAGAIN { return false }
    try check(sent, "send a packet")
    return true
  }

  /// True while the other side has not taken everything that was sent to it.
  public static func hasUnread(_ socket: CInt) -> Bool { clinux_unread(socket) > 0 }

  /// Receives one packet into `buffer`; nil when `dontWait` (or a non-blocking socket, or a
  /// time-out) and none is there. Descriptors beyond `maximumDescriptors` never reach this process.
  /// `withSender` is for sockets that are told it (`NotifySocket`).
  public static func receive(
    _ socket: CInt, into buffer: UnsafeMutableRawBufferPointer, maximumDescriptors: Int = 0,
    withSender: Bool = false, dontWait: Bool = false
  ) throws(SystemError) -> ReceivedPacket? {
    precondition((0...UnixSocket.maximumDescriptors).contains(maximumDescriptors))
    var descriptors = [CInt](repeating: -1, count: maximumDescriptors)
    var count = 0
    var truncated: CInt = 0
    var sender: Int32 = 0
    let received = withUnsafeMutablePointer(to: &sender) {
      clinux_receive(
        socket, buffer.baseAddress, buffer.count, &descriptors, maximumDescriptors, &count,
        &truncated, withSender ? $0 : nil, dontWait ? 1 : 0)
    }
    if received == -EAGAIN { return nil }
    try check(received, "receive a packet")
    descriptors.removeLast(maximumDescriptors - count)
    return ReceivedPacket(
      count: received, isTruncated: truncated != 0, lacksDescriptors: truncated & 2 != 0,
      sender: sender, descriptors: DescriptorList(owning: descriptors))
  }

  /// From now on, or no longer, packets that are sent to this socket say who sent them.
  public static func askSenders(_ socket: CInt, _ wanted: Bool) throws(SystemError) {
    try check(clinux_ask_senders(socket, wanted ? 1 : 0), "ask who sends")
  }

  /// Receives one packet of a socket that asks for senders; nil when none is there.
  public static func receiveWithSender(
    _ socket: CInt, into buffer: UnsafeMutableRawBufferPointer
  ) throws(SystemError) -> SentPacket? {
    var truncated: CInt = 0
    var sender = clinux_sender()
    let received = clinux_receive_from(
      socket, buffer.baseAddress, buffer.count, &truncated, &sender)
    if received == -EAGAIN { return nil }
    try check(received, "receive a packet")
    return SentPacket(
      count: received, isTruncated: truncated != 0, sender: PacketSender(sender))
  }
}
