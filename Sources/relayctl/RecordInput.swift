// SPDX-License-Identifier: Apache-2.0
// A stream cut into records: by lines or by blocks. Copies nothing but what a read leaves over.
// A signal that asks for the end is the end of the stream.

import Glibc
import LinuxIO

/// Reads records from a descriptor. A line longer than the longest record is cut short to one byte
/// more than that: enough for the channel to refuse and count it.
struct RecordInput: ~Copyable {
  private let fd: CInt
  private let block: Int?
  private let longest: Int
  private let ending: Ending
  private let buffer: UnsafeMutableRawBufferPointer
  private var start = 0
  private var end = 0
  private var isAtEnd = false
  /// In a line too long, up to its newline.
  private var isSkipping = false

  init(_ fd: CInt, block: Int?, longestRecord: Int, _ ending: Ending) {
    self.fd = fd
    self.ending = ending
    self.block = block
    longest = longestRecord
    buffer = .allocate(byteCount: max(1 << 20, 2 * (longestRecord + 1)), alignment: 64)
  }

  deinit { buffer.deallocate() }

  /// Bytes that were read and not returned as part of a record.
  var left: Int { end - start }

  /// The next record, valid until the next call; nil at the end.
  mutating func next() throws(StreamError) -> UnsafeRawBufferPointer? {
    while true {
      if let count = recordCount() {
        let record = UnsafeRawBufferPointer(rebasing: buffer[start..<start + count])
        start += count
        return record
      }
      guard !isAtEnd else { return nil }
      try fill()
    }
  }

  /// Bytes of the record at `start`; nil: more input is needed, or there is none.
  private mutating func recordCount() -> Int? {
    let available = end - start
    if let block {
      return available >= block ? block : isAtEnd && available > 0 ? available : nil
    }
    while true {
      let from = buffer.baseAddress! + start
      let found = memchr(from, Int32(UInt8(ascii: "\n")), end - start)
      let line = found.map { UnsafeMutableRawPointer($0) - from + 1 }
      if isSkipping {
        start = line.map { start + $0 } ?? end
        isSkipping = line == nil
        if isSkipping { return nil }
        continue
      }
      if let line {
        guard line > longest + 1 else { return line }
        isSkipping = true
        return longest + 1
      }
      if end - start > longest {
        isSkipping = true
        return longest + 1
      }
      return isAtEnd && end > start ? end - start : nil
    }
  }

  private mutating func fill() throws(StreamError) {
    if start == end {
      start = 0
      end = 0
    } else if buffer.count - end < buffer.count / 4 {
      memmove(buffer.baseAddress!, buffer.baseAddress! + start, end - start)
      end -= start
      start = 0
    }
    while true {
      var pollers = [pollfd(fd: fd, events: Int16(POLLIN), revents: 0), ending.poller]
      if poll(&pollers, nfds_t(pollers.count), -1) < 0, errno == EINTR { continue }
      guard !ending.isAsked else {
        isAtEnd = true
        return
      }
      let count = read(fd, buffer.baseAddress! + end, buffer.count - end)
      // A non-blocking descriptor that somebody else reads, too, may be empty again.
      if count < 0, errno == EINTR || errno == EAGAIN { continue }
      guard count >= 0 else {
        throw StreamError(code: errno, operation: "read", name: "standard input", fd: fd)
      }
      isAtEnd = count == 0
      end += count
      return
    }
  }
}
