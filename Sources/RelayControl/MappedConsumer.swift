// SPDX-License-Identifier: Apache-2.0
// A consumer that reads a channel's buffer where it lies, as relay's mmap consumers do: it asks for
// what comes next, looks at it, and says when it is done.

internal import Glibc
internal import LinuxIO
public import Relay

/// A buffer of the daemon's that this process has mapped for reading, and that nobody else reads
/// meanwhile. One thread at a time.
public final class MappedConsumer {
  public let channel: String
  public let cpu: Int
  /// What `next` handed out and `consumed` has not been told of yet, in order.
  public private(set) var inHand: [MappedSubbuf] = []
  /// The channel is closed, and everything in the buffer was handed out.
  public private(set) var isAtEnd = false
  /// Sub-buffers that writers have left, and that were consumed, when last heard of.
  public private(set) var produced: UInt64 = 0
  public private(set) var consumed: UInt64 = 0
  private let client: ControlClient
  private let memory: MappedBuffer
  // Before the bell, so that it ends first: it knows itself by what it watches.
  private let ready: ReadySet
  private let bell: GuardedDescriptor

  /// Maps the buffer of a CPU (0 for a global channel).
  /// - Parameters:
  ///   - takesUnfinished: also what is committed in the sub-buffer that writers are in; else only
  ///     sub-buffers that they have left.
  ///   - client: a connection that is used for nothing else.
  /// - Throws: `ControlError`; refused with ENOENT: no such channel or buffer; EPERM: this user may
  ///   not read it; EBUSY: its file is open, or another consumer has it; EOPNOTSUPP: its writers
  ///   overwrite and have only two sub-buffers; EMFILE.
  public init(
    channel: String, cpu: Int, takesUnfinished: Bool = false, client: ControlClient
  ) throws(ControlError) {
    var files = DescriptorList()
    let reply = try client.exchange(
      .map(channel: channel, cpu: cpu, unfinished: takesUnfinished), &files)
    guard case .mapped = reply, let geometry = files.take(0), let ring = files.take(1),
      let bell = files.take(2)
    else { throw client.unexpected() }
    do throws(ChannelError) {
      memory = try MappedBuffer(channel: channel, cpu: cpu, geometry: geometry, ring: ring)
    } catch {
      if case .system(let error) = error { throw .system(error) }
      throw .protocolViolation("\(error)")
    }
    do throws(SystemError) {
      self.bell = try GuardedDescriptor(bell)
      var ready = try ReadySet()
      try ready.add(self.bell.raw, .read)
      try ready.add(client.raw, .hangup)
      self.ready = ready
    } catch { throw .system(error) }
    self.channel = channel
    self.cpu = cpu
    self.client = client
  }

  /// Gives the buffer up: what was not reported is the next reader's.
  deinit { if client.isConnected { try? client.expectDone(.unmap(channel: channel, cpu: cpu)) } }

  public var geometry: Geometry { memory.geometry }

  /// For polling: readable when `next` would return something, when others ask for the buffer and
  /// `next` shows that this one is alive, or when the daemon is gone.
  public var raw: CInt { ready.raw }

  /// The next part of the buffer, where it lies. nil: nothing now, or, with `isAtEnd`, for ever. It
  /// stays as it is until `consumed` reports it, but not longer than the channel's
  /// consumer_timeout.
  /// - Throws: `ControlError`; refused with ESTALE: what was in hand was given back, because it was
  ///   kept too long or the channel was reset, and its bytes may have been others by then; `next`
  ///   goes on. EBUSY: so it was, and somebody reads the buffer now. ENOBUFS: too much is in hand.
  ///   EIO: damaged.
  public func next() throws(ControlError) -> MappedSubbuf? {
    // Before the request: what is rung after it comes next.
    Doorbell.drain(bell.raw)
    let reply: Reply
    do throws(ControlError) {
      reply = try client.exchange(.next(channel: channel, cpu: cpu))
    } catch { throw noted(error) }
    switch reply {
    case .subbuf(let lent):
      guard let bytes = memory.bytes(of: lent) else { throw client.unexpected() }
      produced = lent.produced
      consumed = lent.consumed
      let subbuf = MappedSubbuf(lent: lent, bytes: bytes, memory: memory)
      inHand.append(subbuf)
      return subbuf
    case .done: return nil
    case .end:
      isAtEnd = true
      return nil
    default: throw client.unexpected()
    }
  }

  /// The first `count` of `inHand` are not needed any more: writers may have their room.
  /// - Throws: `ControlError`; refused with EINVAL: so many are not in hand; ESTALE: as above.
  public func consumed(_ count: Int) throws(ControlError) {
    do throws(ControlError) {
      try client.expectDone(.consumed(channel: channel, cpu: cpu, count: count))
    } catch { throw noted(error) }
    guard count <= inHand.count else { throw client.unexpected() }
    consumed &+= UInt64(inHand.prefix(count).count { $0.lent.isLast })
    inHand.removeFirst(count)
  }

  private func noted(_ error: ControlError) -> ControlError {
    if case .refused(let refusal) = error, refusal.code == ESTALE { inHand = [] }
    return error
  }
}
