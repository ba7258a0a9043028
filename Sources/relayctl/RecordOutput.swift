// SPDX-License-Identifier: Apache-2.0
// What devices gave, on standard output: each record once, whatever a device repeats after its
// daemon died.

import CRelayIoctl
import Glibc
import LinuxIO

final class RecordOutput {
  /// Each record begins with its time.
  let showsTimes: Bool
  private let tellsLosses: Bool
  /// By CPU.
  private var progress: [Int: StreamProgress] = [:]
  private var bytes: [UInt8] = []

  private static let limit = 128 << 10

  init(showsTimes: Bool, tellsLosses: Bool) {
    self.showsTimes = showsTimes
    self.tellsLosses = tellsLosses
    bytes.reserveCapacity(RecordOutput.limit)
  }

  /// Goes on where the last device of this CPU's buffer stopped, if this is the same memory.
  func begin(_ device: DeviceReader) throws {
    guard !showsTimes || device.hasTimes else {
      throw CommandFailure.failed(
        """
        --time: the records of this channel have no times; create it with --timestamps, or \
        configure timestamps = true
        """)
    }
    if let known = progress[device.cpu], known.incarnation == device.incarnation {
      device.progress = known
    }
    progress[device.cpu] = device.progress
  }

  /// Prints what is left of the device's last read.
  func put(_ device: DeviceReader) throws {
    while let piece = try device.take() { try put(piece, device) }
  }

  /// Prints what comes next.
  func putOne(_ device: DeviceReader) throws {
    if let piece = try device.take() { try put(piece, device) }
  }

  private func put(_ piece: Piece, _ device: DeviceReader) throws {
    switch piece {
    case .bytes(let bytes): try append(bytes)
    case .loss(let frame, let loss):
      guard tellsLosses, frame.sequence >= device.progress.next else { return }
      try flush()
      for (count, cause) in [
        (loss.overwritten, "overwritten"), (loss.full, "refused, the buffer was full"),
        (loss.stalled, "passed, their writer had stopped"), (loss.restart, "by relayd's restart"),
      ] where count > 0 {
        complain("\(device.path): \(count) records lost here: \(cause)")
      }
    case .record(let frame, let payload): try put(frame, payload, device.progress)
    }
  }

  private func put(
    _ frame: relay_frame, _ payload: UnsafeRawBufferPointer, _ progress: StreamProgress
  ) throws {
    guard let known = progress.take(frame) else { return }
    let isBeginning = frame.offset == 0 && known == 0
    if showsTimes, isBeginning, !payload.isEmpty { try append(time: frame.time) }
    try append(UnsafeRawBufferPointer(rebasing: payload[known...]))
  }

  /// As dmesg does: [    1.000002]
  private func append(time: UInt64) throws {
    func padded(_ value: UInt64, _ width: Int, _ filler: Character) -> String {
      let digits = String(value)
      return String(repeating: filler, count: max(0, width - digits.count)) + digits
    }
    let microseconds = time / 1000
    let text =
      "[\(padded(microseconds / 1_000_000, 5, " ")).\(padded(microseconds % 1_000_000, 6, "0"))] "
    var utf8 = text
    try utf8.withUTF8 { try append(UnsafeRawBufferPointer($0)) }
  }

  private func append(_ new: UnsafeRawBufferPointer) throws {
    if bytes.count + new.count > RecordOutput.limit { try flush() }
    bytes.append(contentsOf: new)
  }

  /// Writes what was put.
  func flush() throws {
    var done = 0
    defer { bytes.removeAll(keepingCapacity: true) }
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        write(STDOUT_FILENO, $0.baseAddress! + done, $0.count - done)
      }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { throw SystemError(code: errno, operation: "write standard output") }
      done += count
    }
  }
}
