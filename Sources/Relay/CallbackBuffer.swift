// SPDX-License-Identifier: Apache-2.0
// A channel buffer whose user is asked before each sub-buffer is started, as relay's subbuf_start
// is. In-process channels only. The user's lock serializes everything here, reading included;
// buffers without callbacks never come here.

/// One buffer of a channel in private memory, with its callback.
///
/// Not thread-safe: one call at a time, and none of the channel's own writing, flushing, closing
/// and resetting beside it. Reservations may end at any time.
final class CallbackBuffer {
  /// Whether to start `subbuf`; `previous` is being left, its last `padding` bytes unused. nil at
  /// the start and after a reset, where the answer does not matter.
  typealias Start = (
    _ subbuf: UnsafeMutableRawPointer, _ previous: UnsafeMutableRawPointer?, _ padding: Int
  ) -> Bool

  let buffer: ChannelBuffer
  private let owner: UInt16
  private let wakeFD: WakeTarget
  private let start: Start
  /// What the callback reserved at the start of the current sub-buffer: not committed before the
  /// next start, so that it may still be written to, and nothing behind it can be read.
  private var header: Reservation?
  private var headerLength = 0
  /// What was reset is still the current sub-buffer, sealed: reservations hold all others.
  private var hasLeftNothing = false
  /// The callback is running.
  private(set) var isStarting = false
  /// The sub-buffer it is asked about holds data.
  private(set) var isOverwriting = false
  /// It is asked at the start, or after a reset.
  private(set) var isLeavingNothing = false

  /// - Precondition: `channel` is in private memory, in overwrite mode, and was never written to.
  init(_ channel: Channel, _ buffer: ChannelBuffer, start: @escaping Start) {
    self.buffer = buffer
    owner = channel.owner
    wakeFD = channel.wakeTarget
    self.start = start
  }

  /// Starts the first sub-buffer. To be called once, before anything else.
  func begin() { _ = switchSubbuf() }

  /// From inside the callback: `length` more bytes at its start are the caller's, as far as there
  /// are so many.
  func reserveHeader(_ length: Int) {
    if isStarting { headerLength += min(length, buffer.layout.subbufSize - headerLength) }
  }

  /// Not counted if refused.
  func reserve(_ length: Int) -> ReserveResult {
    guard length <= buffer.layout.subbufSize else { return .refused(.tooBig) }
    for attempt in 0... {
      let current = buffer.loadCurrent()
      guard !current.isClosed else { break }
      if let reservation = take(length, in: current) { return .reserved(reservation) }
      // Behind a header there is less room than in a sub-buffer.
      guard attempt == 0 else { return .refused(.tooBig) }
      if let stop = leave(current) { return .refused(stop.result) }
    }
    return .refused(.closed)
  }

  private func take(_ length: Int, in current: Current) -> Reservation? {
    guard let (place, seen) = buffer.nextPlace(length, in: current),
      case .reserved(let reservation) = buffer.takeStamped(
        place, length, current, seen, owner, wakeFD)
    else { return nil }
    return reservation
  }

  /// Leaves the current sub-buffer, even if it is empty, as relay_switch_subbuf does.
  func switchSubbuf() -> FlushResult {
    switch leave(buffer.loadCurrent()) {
    case nil: .flushed
    case .full: .full
    case .closed: .closed
    default: .corrupt
    }
  }

  /// Seals the current sub-buffer, asks, and starts the next one.
  private func leave(_ current: Current) -> ChannelBuffer.Stop? {
    guard !current.isClosed else { return .closed }
    var sealed = ChannelBuffer.Sealed(entries: 0, bytes: 0)
    var previous: UnsafeMutableRawPointer?
    if current.seq != 0 {
      guard case .sealed(let totals) = buffer.seal(current) else {
        return .corrupt
      }
      sealed = totals
      if !hasLeftNothing { previous = buffer.payload(current.subbuf) }
    }
    var patience = Patience()
    // The header stays open: with no sub-buffer to ask about the callback has not had its chance to
    // write the padding into it. A flush or the close delivers it all the same.
    guard let (next, state) = buffer.chooseNext(after: current, &patience) else { return .full }
    let claim = SubbufState(.claimed, seq: current.seq &+ 1, owner: owner)
    guard buffer.exchangeState(next, state, claim) else { return .full }
    isOverwriting = previous != nil && state.phase != .free
    let goesOn = ask(next, previous, buffer.layout.subbufSize - sealed.bytes)
    finishHeader()
    guard goesOn || previous == nil else {
      _ = buffer.exchangeState(next, claim, state)
      return .full
    }
    let stop = buffer.publish(
      next, claim, over: state, after: current, sealed, wakeFD, NoTestPoints.self)
    hasLeftNothing = false
    takeHeader()
    return stop
  }

  private func ask(_ subbuf: Int, _ previous: UnsafeMutableRawPointer?, _ padding: Int) -> Bool {
    headerLength = 0
    isLeavingNothing = previous == nil
    isStarting = true
    defer { isStarting = false }
    return start(buffer.payload(subbuf), previous, previous == nil ? 0 : padding)
  }

  private func takeHeader() {
    guard headerLength > 0 else { return }
    header = take(headerLength, in: buffer.loadCurrent())
  }

  private func finishHeader() {
    if let header = header.take() { header.commit() }
  }

  /// As a channel's flush. A sub-buffer that holds nothing but its header is left alone.
  func flush() -> FlushResult {
    let current = buffer.loadCurrent()
    if case .empty(_, let count, _) = buffer.frontier(current), count == (header == nil ? 0 : 1) {
      return current.isClosed ? .closed : .flushed
    }
    switch leave(current) {
    case nil: return .flushed
    case .full:
      finishHeader()
      return .full
    case .closed: return .closed
    default: return .corrupt
    }
  }

  /// As the reader's reset, after which the callback is asked as at the start: now, or, where
  /// reservations hold every sub-buffer, once one is to be had.
  func reset(_ reader: Reader) {
    finishHeader()
    reader.reset()
    let current = buffer.loadCurrent()
    guard !current.isClosed else { return }
    guard case .empty(_, at: 0, _) = buffer.frontier(current) else {
      hasLeftNothing = true
      return
    }
    hasLeftNothing = false
    isOverwriting = false
    _ = ask(current.subbuf, nil, 0)
    takeHeader()
  }

  /// As the channel's close, for this buffer.
  func close() {
    finishHeader()
    buffer.close(wakeFD: wakeFD)
  }
}
