// SPDX-License-Identifier: Apache-2.0
// Writing all of something to a stream that may be slow, non-blocking, full or closed, and why it
// failed. Standard input, output and error that a program was started without.

internal import CLinux
internal import Glibc

/// Writes to descriptors that others opened and may have made non-blocking.
public enum Stream {
  /// Opens each closed one of standard input, output and error as a place holder, so that no
  /// socket, device or shared memory gets its number. Using it fails as using a closed one does.
  /// Call it before anything else opens a descriptor.
  public static func reserveStandard() { clinux_reserve_standard() }

  /// Writes `bytes`; where the stream takes nothing now, waits until it does.
  /// - Parameter isCancelled: asked after each signal that interrupts, and each second of waiting.
  /// - Returns: how many bytes the stream accepted, exactly, and why it did not accept the rest
  ///   (an errno value; ECANCELED when `isCancelled` said so; 0 when it accepted all).
  public static func write(
    _ bytes: UnsafeRawBufferPointer, to fd: CInt, isCancelled: () -> Bool = { false }
  ) -> (count: Int, code: CInt) {
    var done = 0
    while done < bytes.count {
      let count = Glibc.write(fd, bytes.baseAddress! + done, bytes.count - done)
      if count > 0 {
        done += count
        continue
      }
      let code = count < 0 ? errno : EIO
      guard code == EINTR || code == EAGAIN else { return (done, code) }
      if isCancelled() { return (done, ECANCELED) }
      if code == EAGAIN {
        var poller = pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)
        poll(&poller, 1, 1000)
      }
    }
    return (done, 0)
  }

  /// Why `fd` can surely not be written (an errno value); 0: it may be possible.
  public static func writeRefusal(_ fd: CInt) -> CInt {
    let flags = fcntl(fd, F_GETFL)
    return flags < 0 || clinux_is_place_holder(fd) != 0 || flags & O_ACCMODE == O_RDONLY ? EBADF : 0
  }

  /// Writes a text to standard output or standard error (`fd`).
  public static func print(_ text: String, to fd: CInt) throws(StreamError) {
    var text = text
    let outcome = text.withUTF8 { write(UnsafeRawBufferPointer($0), to: fd) }
    guard outcome.code == 0 else {
      throw StreamError(
        code: outcome.code, operation: "write",
        name: fd == STDERR_FILENO ? "standard error" : "standard output", fd: fd)
    }
  }
}

/// A stream that could not be read or written.
public struct StreamError: Error, CustomStringConvertible {
  /// An errno value, positive.
  public let code: CInt
  /// What happened, to what and why, with the limit that was reached if one was.
  public let description: String

  /// - Parameter name: the stream's, such as "standard output" or a path.
  public init(code: CInt, operation: String, name: String, fd: CInt) {
    self.code = code
    if code == EBADF, clinux_is_place_holder(fd) != 0 {
      description = "\(name) is closed"
      return
    }
    let reason = "\(SystemError(code: code, operation: "\(operation) \(name)"))"
    description = ResourceLimit.text(for: code).map { "\(reason): \($0)" } ?? reason
  }
}
