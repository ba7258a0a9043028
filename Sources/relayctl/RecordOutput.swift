// SPDX-License-Identifier: Apache-2.0
// What devices gave, as it is printed: each record once, whatever a device repeats after its daemon
// died, and an account of what did not come.

import CRelayIoctl
import Glibc
import LinuxIO

/// What becomes of one CPU's records, whichever device they come from.
final class BufferOutput {
  fileprivate let path: String
  let file: OutputFile
  fileprivate var account = RecordAccount()

  fileprivate init(path: String, file: OutputFile) {
    self.path = path
    self.file = file
  }
}

final class RecordOutput {
  /// Each record begins with its time.
  private let showsTimes: Bool
  private let tellsLosses: Bool
  private let options: OutputOptions
  /// By CPU.
  private var buffers: [Int: BufferOutput] = [:]
  private var progress: [Int: StreamProgress] = [:]
  private var knowsRecords = true
  private var disorder = Disorder()
  /// What may interrupt a write; set once signals are waited for.
  var ending: Ending?

  init(showsTimes: Bool, tellsLosses: Bool, _ options: OutputOptions) {
    self.showsTimes = showsTimes
    self.tellsLosses = tellsLosses
    self.options = options
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
    guard options.rotation == nil || device.isFramed else {
      throw CommandFailure.failed(
        "--rotate-size: \(device.path) does not tell where records end; its relayd is too old")
    }
    if let known = progress[device.cpu], known.incarnation == device.incarnation {
      device.progress = known
    }
    progress[device.cpu] = device.progress
    device.output = buffers[device.cpu]
    if !device.isFramed { knowsRecords = false }
  }

  /// Opens what the device's records go to, so that a failure costs none of them.
  func open(for device: DeviceReader) throws {
    guard device.output == nil else { return }
    let file =
      try options.isPerCPU
      ? OutputFile(options.path.map { "\($0).cpu\(device.cpu)" }, options.rotation)
      : buffers.values.first?.file ?? OutputFile(options.path, options.rotation)
    let buffer = BufferOutput(path: device.path, file: file)
    buffers[device.cpu] = buffer
    device.output = buffer
  }

  /// Prints what is left of the device's last read. What cannot be written is counted.
  func put(_ device: DeviceReader) throws {
    let buffer = device.output!
    while let piece = try device.take() { put(piece, device, buffer) }
  }

  /// Prints what comes next, or counts it.
  func putOne(_ device: DeviceReader) throws {
    if let piece = try device.take() { put(piece, device, device.output!) }
  }

  private func put(_ piece: Piece, _ device: DeviceReader, _ buffer: BufferOutput) {
    switch piece {
    case .bytes(let bytes): buffer.file.append(bytes, continues: false, ending)
    case .loss(let frame, let loss):
      let loss = device.progress.take(frame, loss)
      buffer.account.add(loss)
      guard tellsLosses else { return }
      flushFiles()
      for (count, cause) in [
        (loss.overwritten, "overwritten"), (loss.full, "refused, the buffer was full"),
        (loss.stalled, "passed, their writer had stopped"), (loss.restart, "by relayd's restart"),
      ] where count > 0 {
        complain("\(device.path): \(count) records lost here: \(cause)")
      }
    case .record(let frame, let payload):
      put(frame, payload, device, buffer)
    }
  }

  private func put(
    _ frame: relay_frame, _ payload: UnsafeRawBufferPointer, _ device: DeviceReader,
    _ buffer: BufferOutput
  ) {
    let file = buffer.file
    let isBetweenRecords = device.progress.offset == 0 || frame.sequence != device.progress.next
    guard let known = device.progress.take(frame) else { return }
    let isBeginning = frame.offset == 0 && known == 0
    if device.progress.offset == 0 { buffer.account.read &+= 1 }
    let time = showsTimes && isBeginning ? text(ofTime: frame.time) : ""
    if isBetweenRecords, file.isNumbered {
      file.begin(
        recordOf: time.utf8.count + Int(frame.record_length) - Int(frame.offset), ending)
    }
    if showsTimes, isBeginning, !options.isPerCPU { disorder.note(time: frame.time) }
    file.append(
      UnsafeRawBufferPointer(rebasing: payload[known...]), prefix: payload.isEmpty ? "" : time,
      continues: !isBetweenRecords, ending)
  }

  /// As dmesg does: [    1.000002]
  private func text(ofTime time: UInt64) -> String {
    func padded(_ value: UInt64, _ width: Int, _ filler: Character) -> String {
      let digits = String(value)
      return String(repeating: filler, count: max(0, width - digits.count)) + digits
    }
    let microseconds = time / 1000
    return
      "[\(padded(microseconds / 1_000_000, 5, " ")).\(padded(microseconds % 1_000_000, 6, "0"))] "
  }

  /// One for all CPUs, or one for each.
  private var files: [OutputFile] {
    options.isPerCPU ? buffers.values.map(\.file) : buffers.values.first.map { [$0.file] } ?? []
  }

  private func flushFiles() {
    for file in files { file.flush(ending) }
  }

  /// Writes what was put. Throws where a file could not be written, now or before.
  func flush() throws {
    flushFiles()
    try throwFailure()
  }

  /// Writes what was put, and ends the files.
  func finish() throws {
    for file in files { file.finish(ending) }
    try throwFailure()
  }

  private func throwFailure() throws {
    if let failure = files.lazy.compactMap(\.failure).first { throw failure }
  }

  /// What was put and is not written.
  var pending: Unwritten { files.map(\.pending).reduce(Unwritten(), +) }

  /// What was put and could not be written.
  var unwritten: Unwritten { files.map(\.unwritten).reduce(Unwritten(), +) }

  /// As a message has it: "12 records (120 bytes) that were read from channel relay".
  func text(ofUnwritten channel: String) -> String {
    "\(unwritten.text(knowsRecords: knowsRecords)) that were read from channel \(channel)"
  }

  /// For poll: nobody takes standard output any more.
  var poller: pollfd { files.first?.poller ?? pollfd(fd: -1, events: 0, revents: 0) }

  /// Throws if poll found that nobody does.
  func check(_ poller: pollfd) throws {
    if poller.fd >= 0 { try files.first?.check(poller) }
  }
}

extension RecordOutput {
  /// Says what was read and what was not; without `--lost` only if something was not.
  func sayAccount(of channel: String) {
    let all = buffers.sorted { $0.key < $1.key }.map(\.value)
    let total = all.map(\.account).reduce(RecordAccount(), +)
    guard knowsRecords, tellsLosses || total.lost > 0 else { return }
    if all.count > 1 {
      for buffer in all where buffer.account.lost > 0 {
        complain("\(buffer.path): \(buffer.account.text)")
      }
    }
    let lost = unwritten
    complain(
      "channel \(channel): \(total.text)"
        + (lost.isEmpty ? "" : "; \(lost.records) of those read were not written"))
    guard tellsLosses, disorder.count > 0 else { return }
    complain(
      """
      channel \(channel): \(disorder.count) records out of order, \
      by up to \(disorder.most / 1_000_000 + 1) ms
      """)
  }
}
