// SPDX-License-Identifier: Apache-2.0
// Writing for somebody who has nothing but a device: by the channel's opener, into the buffer that
// is behind it.

extension Channel {
  /// Copies one record into this buffer, whatever CPU the caller runs on, and never waits. A
  /// refusal is no loss: it is the caller's to tell. Damage is counted.
  ///
  /// If this process dies inside it, who adopts the channel discards the record.
  /// - Precondition: this side opened the channel.
  public func write(
    _ record: UnsafeRawBufferPointer, into buffer: ChannelBuffer
  ) -> WriteResult {
    write(record, into: buffer, NoTestPoints.self)
  }

  package func write<P: TestPoints>(
    _ record: UnsafeRawBufferPointer, into buffer: ChannelBuffer, _ points: P.Type
  ) -> WriteResult {
    precondition(isOpener, "an attached producer writes into the buffer of its CPU")
    switch buffer.reserve(record.count, owner: owner, wakeFD: wakeTarget, points) {
    case .stopped(let stop):
      if stop == .corrupt { buffer.count(buffer.corrupt) }
      return stop.result
    case .reserved(let reservation):
      reservation.bytes.copyMemory(from: record)
      _ = reservation.commit(points)
      return .written
    }
  }
}

extension ChannelBuffer {
  /// What a record of this length, which is not longer than a sub-buffer, would meet now.
  public func outlook(_ length: Int) -> WriteResult {
    var patience = Patience()
    while patience.lasts() {
      let current = loadCurrent()
      if current.isClosed { return .closed }
      if nextPlace(length, in: current) != nil { return .written }
      if current.seq != 0 {
        guard current.subbuf < layout.subbufCount else { return .corrupt }
        if case .corrupt = frontier(current) { return .corrupt }
      }
      if chooseNext(after: current, &patience) != nil { return .written }
      if loadCurrent() == current { return .full }
    }
    return .corrupt
  }
}
